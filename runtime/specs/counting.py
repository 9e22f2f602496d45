"""Specs of count windows: so many events of a key, in the order of event time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from millstream.specs.base import Bound, Fields, Spec, refuse_changelog
from millstream.specs.keyed import (
    Aggregates,
    aggregate_inputs,
    aggregate_schema,
    check_names,
    describe_aggregates,
    way_of_aggregates,
)
from millstream.specs.ordering import OrderedSpec, RowWindows
from millstream.specs.windows import RESERVED
from millstream.times import STAMP


@dataclass(frozen=True)
class CountWindows(RowWindows):
    """Attributes:
    size: how many events a window holds at most.
    every: after how many events of a key there is a window, of the last ``size``; equal to ``size``: end to end.
    """

    size: int
    every: int

    def describe(self) -> str:
        more = "" if self.every == self.size else f", every={self.every}"
        return f"count_window({self.size}{more})"

    def aggregated(self, aggregates: Aggregates) -> Spec:
        return CountWindowSpec(self, aggregates)


@dataclass(frozen=True)
class CountWindowSpec(OrderedSpec):
    windows: CountWindows
    aggregates: Aggregates

    @property
    def way(self) -> str:
        return way_of_aggregates(self.aggregates)

    def describe(self) -> str:
        return f"window({self.windows.describe()}).agg({describe_aggregates(self.aggregates)})"

    def notes(self) -> Iterator[str]:
        yield from super().notes()
        yield "a window that is not full is put out at the end of the input"

    @property
    def unbounded_state(self) -> str | None:
        if self.windows.every == self.windows.size:
            return "a window that is not full is kept for ever; use keys of which there is a limited number"
        return "the last events of every key are kept for ever; use keys of which there is a limited number"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_changelog(where, upstream)
        check_names(where, self.aggregates, (*RESERVED, *upstream.keys))
        schema = None
        if upstream.schema is not None:
            results = aggregate_schema(where, self.aggregates, upstream.schema, upstream.keys)
            kinds = (STAMP, STAMP, pa.int64(), pa.string())
            schema = pa.schema([*zip(RESERVED, kinds, strict=True), *results])
        return Bound(schema, upstream.time, where)

    def inputs_read(self, out: Fields) -> Fields:
        return aggregate_inputs(self.aggregates)
