"""Specs of windows of time: which there are, and what is aggregated over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Final, Self

import pyarrow as pa

from millstream.checkpoints.shape import OPERATOR
from millstream.errors import FlowError, SchemaError
from millstream.evaluate import output_type
from millstream.expr import Expr
from millstream.specs.base import (
    LATE,
    LATE_REASON,
    MAIN,
    Bound,
    Changelog,
    Fields,
    Spec,
    Time,
    both,
    refuse_changelog,
)
from millstream.specs.keyed import (
    Aggregates,
    aggregate_aspects,
    aggregate_inputs,
    aggregate_schema,
    check_names,
    describe_aggregates,
    way_of_aggregates,
)
from millstream.specs.triggers import Early
from millstream.times import STAMP, format_duration

RESERVED: Final = ("window_start", "window_end", "pane", "timing")
"""The fields of every pane, in front of the key."""


@dataclass(frozen=True)
class Windows:
    """Tumbling (slide == size) or hopping windows, [start, end), aligned to the epoch plus an offset.

    Attributes:
        zone: where the clock stands that windows of whole days follow: they start at its midnights plus the
            offset, and have 23 or 25 hours when it is changed. None: UTC.
    """

    timed: ClassVar[bool] = True
    """Whether they are intervals of time; else their results have no times."""
    calls_python: ClassVar[bool] = False
    size_us: int
    slide_us: int
    offset_us: int = 0
    zone: str | None = None

    @property
    def inputs(self) -> Fields:
        """The fields that say in which windows an event is."""
        return frozenset()

    def result_time(self, where: str, time: Time) -> Time:
        """The time of the results of windows that go by ``time``.

        Raises:
            FlowError: these windows cannot.
        """
        return time

    def describe(self) -> str:
        more = f", offset={format_duration(self.offset_us)}" if self.offset_us else ""
        more += f", tz={self.zone!r}" if self.zone else ""
        if self.size_us == self.slide_us:
            return f"tumbling({format_duration(self.size_us)}{more})"
        return f"hopping({format_duration(self.size_us)} every {format_duration(self.slide_us)}{more})"


@dataclass(frozen=True)
class SessionWindows:
    """Sessions of each key: events no further apart than the gap.

    An event alone is the session [time, time + gap); sessions that touch or overlap are one.

    Attributes:
        gap: microseconds, or what gives the gap that follows each event: a duration or a number of microseconds.
    """

    calls_python: ClassVar[bool] = False
    gap: int | Expr

    def describe(self) -> str:
        return f"session({format_duration(self.gap) if isinstance(self.gap, int) else self.gap})"

    @property
    def inputs(self) -> frozenset[str]:
        return frozenset() if isinstance(self.gap, int) else self.gap.fields()

    def check(self, where: str, schema: pa.Schema) -> None:
        """Raises:
        SchemaError: the gap is an expression that gives no duration.
        """
        if isinstance(self.gap, int):
            return
        self.check_type(where, output_type(self.gap, schema, where))

    def check_type(self, where: str, kind: pa.DataType) -> None:
        """Raises:
        SchemaError: a gap cannot be of this type.
        """
        if not (pa.types.is_duration(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
            raise SchemaError(f"{where}: the gap {self.gap} is {kind}; expected a duration or a number of microseconds")


class Accumulation(Enum):
    """What a pane holds that is not the first of its window."""

    ACCUMULATING = "accumulating"  # everything so far
    DISCARDING = "discarding"  # what came since the last pane
    RETRACTING = "retracting"  # everything so far, and the last pane is taken back


@dataclass(frozen=True)
class WindowAggregateSpec(Spec):
    """Aggregates over windows of time.

    Attributes:
        allowed_lateness_us: how long after its end a window still takes rows.
        final_only: one pane for each window, when it has expired.
        event_time: False: windows go by processing time.
        early: when panes come before the end; None: none do.
        signed: the input takes rows back, and so do the aggregates.
        follows_keyed: rows come from another keyed stage, and so without a watermark of their own.
    """

    keyed: ClassVar[bool] = True
    windows: Windows | SessionWindows
    allowed_lateness_us: int
    aggregates: Aggregates
    final_only: bool
    event_time: bool = True
    early: Early | None = None
    panes: Accumulation = Accumulation.ACCUMULATING
    signed: bool = False
    follows_keyed: bool = False

    @property
    def way(self) -> str:
        return "columns and Python" if self.windows.calls_python else way_of_aggregates(self.aggregates)

    def describe(self) -> str:
        more = f", allowed_lateness={format_duration(self.allowed_lateness_us)}" if self.allowed_lateness_us else ""
        more += f", early={self.early.describe()}" if self.early else ""
        more += "" if self.panes is Accumulation.ACCUMULATING else f", panes={self.panes.value!r}"
        more += "" if self.event_time else ", processing time"
        return f"window({self.windows.describe()}{more}).agg({describe_aggregates(self.aggregates)})"

    def state_aspects(self) -> dict[str, str]:
        return {
            OPERATOR: "window aggregate",
            "windows": self.windows.describe(),
            "allowed lateness": format_duration(self.allowed_lateness_us),
            "early": self.early.describe() if self.early else "no",
            "panes": "one" if self.final_only else self.panes.value,
            "time": "event time" if self.event_time else "processing time",
            "rows": "are taken back" if self.signed else "are added",
            **aggregate_aspects(self.aggregates),
        }

    def notes(self) -> Iterator[str]:
        clock = "event time" if self.event_time else "processing time: results depend on when events arrive"
        fires = "once, when it has expired" if self.final_only else "at its end"
        before = f", before it {self.early.describe()}" if self.early else ""
        again = ", and again for late changes" if self.allowed_lateness_us and not self.final_only else ""
        yield f"by {clock}; a window fires {fires}{before}{again}"
        if self.early and isinstance(self.windows, Windows) and self.windows.slide_us < self.windows.size_us:
            yield "early panes: an event is added to each of its windows, which share no slices"
        if self.retracts:
            yield "each pane takes back the one before it"

    @property
    def fires_again(self) -> bool:
        """Whether a window may put out more than one pane."""
        return (self.allowed_lateness_us > 0 or self.early is not None) and not self.final_only

    @property
    def revises(self) -> bool:
        return self.fires_again and self.panes is not Accumulation.DISCARDING  # such panes add up

    @property
    def retracts(self) -> bool:
        return self.panes is Accumulation.RETRACTING and self.fires_again

    def retracting(self) -> Self:
        return replace(self, panes=Accumulation.RETRACTING)

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        return inputs[0].changelog is not None

    def _check_takes_back(self, where: str, upstream: Bound) -> None:
        """Raises:
        FlowError: the input revises what it has put out, which these windows or aggregates cannot follow.
        """
        fixed = [name for name, aggregate in self.aggregates if not aggregate.retractable]
        if isinstance(self.windows, SessionWindows) or self.panes is Accumulation.DISCARDING:
            refuse_changelog(where, upstream)
        elif upstream.changelog and fixed:
            raise FlowError(
                f"{where}: its input comes from {upstream.changelog.by}, which revises what it has put out; "
                f"{fixed[0]}= cannot take rows back, as count, sum, mean, min and max can. Use emit='final' there"
            )

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        self._check_takes_back(where, upstream)
        check_names(where, self.aggregates, (*RESERVED, *upstream.keys))
        if any(k in RESERVED for k in upstream.keys):
            raise FlowError(
                f"{where}: a key cannot be named {', '.join(RESERVED[:-1])} or {RESERVED[-1]}, "
                "which are fields of the result"
            )
        schema = None
        if upstream.schema is not None:
            if isinstance(self.windows, SessionWindows):
                self.windows.check(where, upstream.schema)
            results = aggregate_schema(where, self.aggregates, upstream.schema, upstream.keys)
            kinds = (STAMP, STAMP, pa.int64(), pa.string())
            fields: list[tuple[str, pa.DataType]] = list(zip(RESERVED, kinds, strict=True))
            fields += [(name, results.field(name).type) for name in results.names]
            schema = pa.schema(fields)
        time = Time.EVENT if upstream.time is Time.EVENT else Time.PROCESSING
        if isinstance(self.windows, Windows):
            time = self.windows.result_time(where, time)
        return Bound(schema, time, where, changelog=self._changelog(where, upstream))

    def _changelog(self, where: str, upstream: Bound) -> Changelog | None:
        if not self.revises:
            return None
        # A session that grows is another window: nothing tells which rows its panes replace, unless they are taken back.
        keys = None if isinstance(self.windows, SessionWindows) else ("window_start", "window_end", *upstream.keys)
        return Changelog(where, keys, retracts=self.retracts or upstream.changelog is not None)

    def bind_port(self, port: str, where: str, inputs: Sequence[Bound], main: Bound) -> Bound:
        if port == LATE:
            return with_late_reason(inputs[0])
        return super().bind_port(port, where, inputs, main)

    @property
    def late_ports(self) -> tuple[str, ...]:
        return (LATE,)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        read = aggregate_inputs(self.aggregates)
        read = both(read, self.windows.inputs)
        return both(read, without_late_reason(out)) if port == LATE else read

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        """Windows without event time go by processing time."""
        upstream = inputs[0]
        signed = upstream.changelog is not None
        # A pane of which no row is left is taken back: an upsert could not say so.
        panes = Accumulation.RETRACTING if signed and self.revises else self.panes
        return replace(
            self, event_time=upstream.time is Time.EVENT, signed=signed, panes=panes,
            follows_keyed=upstream.stateful is not None,
        )  # fmt: skip

    @property
    def unbounded_state(self) -> str | None:
        if not isinstance(self.windows, Windows) or self.windows.timed:
            return None
        return "every key is kept for ever; use windows of time, or keys of which there is a limited number"

    @property
    def needs_position(self) -> bool:
        # Which of two rows of one partition came first may decide whether a session takes them.
        return isinstance(self.windows, SessionWindows) or any(a.needs_order for _, a in self.aggregates)


def with_late_reason(upstream: Bound) -> Bound:
    """The late output of an operator: rows as they came, and why they are there."""
    schema = upstream.schema
    if schema is not None:
        schema = pa.schema([*(f for f in schema if f.name != LATE_REASON), pa.field(LATE_REASON, pa.string())])
    return replace(upstream, schema=schema, keys=())


def without_late_reason(out: Fields) -> Fields:
    """The fields of the input that are read where these are read of a late output."""
    return None if out is None else out - {LATE_REASON}
