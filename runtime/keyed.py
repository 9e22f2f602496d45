"""Keyed streams: windows, aggregates and state for each key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from millstream.aggregates import Aggregate
from millstream.errors import FlowError
from millstream.functions import UserFunction
from millstream.operators.aggregation import shipped
from millstream.patterns import Pattern
from millstream.plan import Port
from millstream.rows import declared_schema
from millstream.specs.base import LATE, OnError, Spec
from millstream.specs.keyed import RunningAggregateSpec, ScanSpec
from millstream.specs.ordering import RowWindows
from millstream.specs.patterns import MatchSpec
from millstream.specs.windows import WindowAggregateSpec, Windows
from millstream.streams import Errors, Stream
from millstream.times import MAX_US, Duration, duration_us
from millstream.where import caller

if TYPE_CHECKING:
    from millstream.flow import Flow


class KeyedStream:
    """Events partitioned by key: one worker sees all events of a key."""

    def __init__(self, flow: Flow, port: Port) -> None:
        self.flow = flow
        self.port = port

    def window(
        self,
        windows: Windows | RowWindows,
        *,
        allowed_lateness: Duration | None = "0s",
        emit: Literal["updates", "final"] = "updates",
    ) -> WindowedStream:
        """Group each key's events into windows of time.

        Args:
            windows: `tumbling(...)` or `hopping(...)`.
            allowed_lateness: how long after its end a window still takes events, firing again; None: for ever.
            emit: "updates" puts out a pane when the window ends and another for each late change;
                "final" waits until the window has expired and puts out one.
        """
        where = f"{caller()} window"
        if isinstance(windows, RowWindows) and (allowed_lateness != "0s" or emit != "updates"):
            raise FlowError(
                f"{where}: {windows.describe()} takes events in the order of event time, each once: "
                "allowed_lateness= and emit= are for windows of time"
            )
        lateness = MAX_US if allowed_lateness is None else duration_us(allowed_lateness, where)
        if lateness == MAX_US and emit == "final":
            raise FlowError(
                f"{where}: emit='final' waits for the windows to expire, which never happens with infinite lateness"
            )
        return WindowedStream(self, windows, lateness, emit == "final")

    def agg(self, *, name: str | None = None, **aggregates: Aggregate) -> Stream:
        """Aggregates of each key since the start, put out with every change."""
        where = caller()
        spec = RunningAggregateSpec(_checked_aggregates(where, aggregates))
        return Stream(self.flow, self.flow.add("agg", spec, [self.port], name))

    def match(self, pattern: Pattern, *, overlapping: bool = True, name: str | None = None) -> MatchResult:
        """Find events that follow one another; one row for each match.

        Its fields are the key, ``match_start`` and ``match_end``, and for each step of the pattern the whole event
        (or, for steps of one name, the list of events). Events are taken in the order of event time where there is
        one, each when the watermark has passed it; one that comes too late for that leaves by ``late``.

        Args:
            pattern: made by `millstream.pattern`.
            overlapping: every event that fits the first step begins a match; False: matches of one key share no
                span of time, the one that begins first counts.
        """
        spec = MatchSpec(pattern, overlapping)
        return MatchResult(self.flow, self.flow.add("match", spec, [self.port], name))

    def scan(
        self,
        init: Any,
        function: Callable[[Any, Any], tuple[Any, Any]],
        *,
        schema: Any = None,
        on_error: Errors = "fail",
        name: str | None = None,
    ) -> Stream:
        """State for each key, in Python: ``function(state, row)`` returns the new state and an output.

        Args:
            init: the state of a key that has none: a value, or a function that makes one.
            function: returns ``(state, output)``; an output of None puts nothing out.
        """
        if not callable(function):
            raise FlowError(f"{caller()} scan: expected a function(state, row), found {function!r}")
        spec = ScanSpec(UserFunction(init), UserFunction(function), declared_schema(schema), OnError(on_error))
        return Stream(self.flow, self.flow.add("scan", spec, [self.port], name))


class MatchResult(Stream):
    """The matches of a pattern; `late` has the events that came when later ones had been looked at."""

    @property
    def late(self) -> Stream:
        return Stream(self.flow, Port(self.port.node, LATE))


class WindowedStream:
    """Windows of a keyed stream, to be aggregated."""

    def __init__(
        self, keyed: KeyedStream, windows: Windows | RowWindows, allowed_lateness_us: int, final_only: bool
    ) -> None:
        self._keyed = keyed
        self._windows = windows
        self._allowed_lateness_us = allowed_lateness_us
        self._final_only = final_only

    def agg(self, *, name: str | None = None, **aggregates: Aggregate) -> WindowResult:
        """One pane for each key and window: ``window_start, window_end, pane``, the key, the aggregates."""
        checked = _checked_aggregates(caller(), aggregates)
        if isinstance(self._windows, RowWindows):
            return self._result("agg", self._windows.aggregated(checked), name)
        spec = WindowAggregateSpec(self._windows, self._allowed_lateness_us, checked, self._final_only)
        return self._result("agg", spec, name)

    def _result(self, kind: str, spec: Spec, name: str | None) -> WindowResult:
        flow = self._keyed.flow
        return WindowResult(flow, flow.add(kind, spec, [self._keyed.port], name))


class WindowResult(Stream):
    """The panes of a window; `late` has the events that came after their windows had expired."""

    @property
    def late(self) -> Stream:
        return Stream(self.flow, Port(self.port.node, LATE))


def _checked_aggregates(where: str, aggregates: Mapping[str, Aggregate]) -> tuple[tuple[str, Aggregate], ...]:
    if not aggregates:
        raise FlowError(f"{where} agg: name at least one aggregate, as in agg(events=ms.count())")
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise FlowError(f"{where} agg: {name}= takes an aggregate such as ms.sum('x'), found {aggregate!r}")
    return tuple((name, shipped(aggregate)) for name, aggregate in aggregates.items())
