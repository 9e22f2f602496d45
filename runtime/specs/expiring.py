"""Specs of running aggregates whose keys are freed when no event has come for them for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from millstream.errors import FlowError
from millstream.specs.base import Bound, Changelog, Fields, Time, refuse_changelog
from millstream.specs.keyed import (
    Aggregates,
    aggregate_inputs,
    aggregate_schema,
    check_names,
    describe_aggregates,
    way_of_aggregates,
)
from millstream.specs.ordering import OrderedSpec
from millstream.times import format_duration


@dataclass(frozen=True)
class ExpiringAggregateSpec(OrderedSpec):
    """Aggregates of each key since it came, until ``ttl_us`` after its last event.

    Attributes:
        final: a row for each life of a key, when it ends. Else a changelog that takes back what has expired.
    """

    aggregates: Aggregates
    ttl_us: int
    final: bool = False

    @property
    def way(self) -> str:
        return way_of_aggregates(self.aggregates)

    def describe(self) -> str:
        final = ", final" if self.final else ""
        return f"agg({describe_aggregates(self.aggregates)}, ttl={format_duration(self.ttl_us)}{final})"

    def notes(self) -> Iterator[str]:
        yield from super().notes()
        freed = f"a key is freed when its last event is {format_duration(self.ttl_us)} old"
        yield f"{freed}, and its row put out" if self.final else f"a changelog; {freed}, and its row taken back"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_changelog(where, upstream)
        check_names(where, self.aggregates, upstream.keys)
        if upstream.time is not Time.EVENT:
            raise FlowError(f"{where}: ttl= goes by event time, and there is none; call event_time() before key_by()")
        schema = None
        if upstream.schema is not None:
            schema = aggregate_schema(where, self.aggregates, upstream.schema, upstream.keys)
        changelog = None if self.final else Changelog(where, upstream.keys, retracts=True)
        return Bound(schema, Time.EVENT, where, changelog=changelog)

    def inputs_read(self, out: Fields) -> Fields:
        return aggregate_inputs(self.aggregates)

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        return False
