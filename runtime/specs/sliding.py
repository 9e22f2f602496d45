"""Specs of sliding windows: what lies behind each event, one result for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from millstream.errors import FlowError
from millstream.specs.base import Bound, Fields, Spec, Time, refuse_changelog
from millstream.specs.keyed import (
    Aggregates,
    aggregate_inputs,
    aggregate_schema,
    check_names,
    describe_aggregates,
    way_of_aggregates,
)
from millstream.specs.ordering import OrderedSpec, RowWindows, whole_rows
from millstream.times import format_duration


@dataclass(frozen=True)
class SlidingWindows(RowWindows):
    """The events of the key in [t - size, t], or the last ``rows`` of them, the event itself among them.

    Attributes:
        size_us: by time; None: by rows.
        rows: by rows; None: by time.
    """

    size_us: int | None = None
    rows: int | None = None

    def describe(self) -> str:
        return f"sliding(rows={self.rows})" if self.size_us is None else f"sliding({format_duration(self.size_us)})"

    def aggregated(self, aggregates: Aggregates) -> Spec:
        return SlidingSpec(self, aggregates)


@dataclass(frozen=True)
class SlidingSpec(OrderedSpec):
    windows: SlidingWindows
    aggregates: Aggregates

    @property
    def way(self) -> str:
        return way_of_aggregates(self.aggregates)

    def describe(self) -> str:
        return f"window({self.windows.describe()}).agg({describe_aggregates(self.aggregates)})"

    def notes(self) -> Iterator[str]:
        yield from super().notes()
        yield "one result for each event: its own fields and the aggregates"

    @property
    def unbounded_state(self) -> str | None:
        if self.windows.size_us is not None or self.windows.rows == 1:
            return None
        return (
            f"the last {self.windows.rows} events of every key are kept for ever; "
            "a size in time, as in sliding('1h'), lets go of keys that are quiet"
        )

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_changelog(where, upstream)
        if self.windows.size_us is not None and upstream.time is not Time.EVENT:
            raise FlowError(
                f"{where}: {self.windows.describe()} looks back in event time, and these events have none; "
                "say .event_time(...) before .key_by(...), or sliding(rows=...)"
            )
        schema = None
        if upstream.schema is not None:
            check_names(where, self.aggregates, upstream.schema.names)
            results = aggregate_schema(where, self.aggregates, upstream.schema, upstream.keys)
            added = [results.field(n) for n, _ in self.aggregates]
            schema = pa.schema([*whole_rows(upstream.schema, upstream.keys), *added])
        return Bound(schema, upstream.time, where)

    def inputs_read(self, out: Fields) -> Fields:
        read = aggregate_inputs(self.aggregates)
        return None if out is None or read is None else read | (out - {n for n, _ in self.aggregates})
