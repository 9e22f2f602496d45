"""Specs of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

import pyarrow as pa

from millstream.errors import FlowError
from millstream.specs.base import LATE, MAIN, Bound, Changelog, Fields, Spec, Time, both, refuse_changelog
from millstream.specs.keyed import Aggregates, aggregate_inputs, aggregate_schema, check_names, describe_aggregates
from millstream.times import STAMP, format_duration

RESERVED: Final = ("window_start", "window_end", "pane")
"""The fields of every pane, in front of the key."""


@dataclass(frozen=True)
class Windows:
    """Tumbling (slide == size) or hopping windows, [start, end), aligned to the epoch plus an offset."""

    size_us: int
    slide_us: int
    offset_us: int = 0

    def describe(self) -> str:
        offset = f", offset={format_duration(self.offset_us)}" if self.offset_us else ""
        if self.size_us == self.slide_us:
            return f"tumbling({format_duration(self.size_us)}{offset})"
        return f"hopping({format_duration(self.size_us)} every {format_duration(self.slide_us)}{offset})"


@dataclass(frozen=True)
class WindowAggregateSpec(Spec):
    keyed: ClassVar[bool] = True
    windows: Windows
    allowed_lateness_us: int
    aggregates: Aggregates
    final_only: bool
    event_time: bool = True

    def describe(self) -> str:
        lateness = f", allowed_lateness={format_duration(self.allowed_lateness_us)}" if self.allowed_lateness_us else ""
        clock = "" if self.event_time else ", processing time"
        return f"window({self.windows.describe()}{lateness}{clock}).agg({describe_aggregates(self.aggregates)})"

    def notes(self) -> Iterator[str]:
        clock = "event time" if self.event_time else "processing time: results depend on when events arrive"
        fires = "once, when it has expired" if self.final_only else "at its end"
        again = ", and again for late changes" if self.allowed_lateness_us and not self.final_only else ""
        yield f"by {clock}; a window fires {fires}{again}"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_changelog(where, upstream)
        check_names(where, self.aggregates, (*RESERVED, *upstream.keys))
        if any(k in RESERVED for k in upstream.keys):
            raise FlowError(
                f"{where}: a key cannot be named window_start, window_end or pane, which are fields of the result"
            )
        schema = None
        if upstream.schema is not None:
            results = aggregate_schema(where, self.aggregates, upstream.schema, upstream.keys)
            schema = pa.schema([("window_start", STAMP), ("window_end", STAMP), ("pane", pa.int64()), *results])
        revises = self.allowed_lateness_us > 0 and not self.final_only
        changelog = Changelog(where, ("window_start", "window_end", *upstream.keys)) if revises else None
        time = Time.EVENT if upstream.time is Time.EVENT else Time.PROCESSING
        return Bound(schema, time, where, changelog=changelog)

    def bind_port(self, port: str, where: str, inputs: Sequence[Bound], main: Bound) -> Bound:
        if port == LATE:
            return replace(inputs[0], keys=())
        return super().bind_port(port, where, inputs, main)

    @property
    def late_ports(self) -> tuple[str, ...]:
        return (LATE,)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        read = aggregate_inputs(self.aggregates)
        return both(read, out) if port == LATE else read

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        """Windows without event time go by processing time."""
        return replace(self, event_time=inputs[0].time is Time.EVENT)

    @property
    def needs_position(self) -> bool:
        return any(a.needs_order for _, a in self.aggregates)
