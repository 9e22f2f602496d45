"""Windows of a keyed stream: how they fire, and what is made of the events in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import pyarrow as pa

from millstream.aggregates import Aggregate, TopRows, collect
from millstream.arguments import all_ties, checked_aggregates, is_final, row_count
from millstream.errors import FlowError
from millstream.expr import Expr, WholeRow
from millstream.functions import UserFunction
from millstream.joins import How, JoinResult, join_windows
from millstream.plan import Port
from millstream.ranking import By, sort_keys
from millstream.rows import declared_schema
from millstream.specs.base import LATE, Spec
from millstream.specs.free_windows import GlobalWindows
from millstream.specs.keyed import KeyBySpec
from millstream.specs.on_error import Errors
from millstream.specs.ordering import RowWindows
from millstream.specs.ranking import WINDOW_BEST, WindowRowsSpec
from millstream.specs.sliding import SlidingWindows
from millstream.specs.triggers import Early
from millstream.specs.window_functions import WINDOW_ROWS, Window, WindowFunctionSpec
from millstream.specs.windows import Accumulation, SessionWindows, WindowAggregateSpec, Windows
from millstream.streams import Stream
from millstream.times import MAX_US, Duration, duration_us
from millstream.where import caller

if TYPE_CHECKING:
    from millstream.flow import Flow
    from millstream.keyed import KeyedStream

PANES: Final = tuple(p.value for p in Accumulation)


class WindowedStream:
    """Windows of a keyed stream, to be aggregated."""

    def __init__(
        self,
        keyed: KeyedStream,
        windows: Windows | SessionWindows | RowWindows,
        allowed_lateness_us: int,
        final_only: bool,
        early: Early | None,
        panes: Accumulation,
    ) -> None:
        self._keyed = keyed
        self._windows = windows
        self._allowed_lateness_us = allowed_lateness_us
        self._final_only = final_only
        self._early = early
        self._panes = panes

    def agg(self, *, name: str | None = None, **aggregates: Aggregate) -> WindowResult:
        """Panes for each key and window: ``window_start, window_end, pane, timing``, the key, the aggregates."""
        checked = checked_aggregates(caller(), aggregates)
        if isinstance(self._windows, RowWindows):
            return self._result("agg", self._windows.aggregated(checked), name)
        spec = WindowAggregateSpec(
            self._windows, self._allowed_lateness_us, checked, self._final_only, early=self._early, panes=self._panes
        )
        return self._result("agg", spec, name)

    def join(
        self, right: KeyedStream, how: How = "inner", *, suffix: str = "_right", name: str | None = None
    ) -> JoinResult:
        """Pairs of rows of one key in the same window, put out once, when the window has expired.

        The result has ``window_start`` and ``window_end`` in front; its event time is the last of the window.

        Args:
            right: keyed, not windowed: its rows go into the same windows.
            how, suffix: as for `KeyedStream.join`.
        """
        return join_windows(self._keyed, self._windows, self._allowed_lateness_us, right, how, suffix, name)

    def top_n(
        self,
        n: int,
        by: By,
        *,
        rank: str | None = None,
        ties: Literal["first", "all"] = "first",
        name: str | None = None,
    ) -> WindowResult:
        """The ``n`` best events of each key and window, a row for each, when the window fires.

        The result has ``window_start, window_end, pane, timing``, the key, and the fields of the event.

        Args:
            by, rank, ties: as for `KeyedStream.top_n`.
        """
        where, flow = f"{caller()} top_n", self._keyed.flow
        if isinstance(self._windows, SlidingWindows):
            raise FlowError(f"{where}: a sliding window belongs to one event; use a window that several events share")
        keys = sort_keys(where, by)
        inputs = (WholeRow(), *(k.value for k in keys))
        descending = tuple(k.descending for k in keys)
        best: dict[str, Any] = {WINDOW_BEST: TopRows(inputs, row_count(where, n), descending, all_ties(where, ties))}
        windows = self.agg(**best).port
        return WindowResult(
            flow, flow.add("top_n", WindowRowsSpec(keys, n, rank), [windows], name), late_of=windows.node
        )

    def collect(self, *, name: str | None = None, **fields: str | Expr) -> WindowResult:
        """The values of fields as lists, in order of event time; without ``fields``, whole events, as ``events``.

        keyed.window(ms.session("30m")).collect(pages="page")
        """
        if not fields:
            return self.agg(name=name, events=collect())
        aggregates: dict[str, Any] = {field: collect(value) for field, value in fields.items()}
        return self.agg(name=name, **aggregates)

    def reduce(
        self, function: Callable[[Any, Any], Any], *, on_error: Errors | None = None, name: str | None = None
    ) -> WindowResult:
        """One row made of the events of each window, two at a time, in order of event time.

        The result has ``window_start, window_end, pane, timing``, the key, and the fields of that row.

        Args:
            function: (what it made so far, or the first event; the next event) -> a row with the same fields.
        """
        return self._by_function("reduce", function, True, None, on_error, name)

    def process_window(
        self,
        function: Callable[[Any, Window, pa.RecordBatch], Any],
        *,
        schema: Any = None,
        on_error: Errors | None = None,
        name: str | None = None,
    ) -> WindowResult:
        """A function over all events of a window, as columns: for what no aggregate can say.

        Args:
            function: called with the key (a tuple where it has several fields), the `Window` (its ``start``,
                ``end``, ``pane`` and ``timing``), and the window's events as a record batch in order of event
                time. Returns None, a row (a dict, say), a list of rows, or a record batch.
            schema: the fields of what it returns; found from that when left out.
        """
        return self._by_function("process_window", function, False, schema, on_error, name)

    def _by_function(
        self, kind: str, function: Any, reduces: bool, schema: Any, on_error: Errors | None, name: str | None
    ) -> WindowResult:
        """Windows that collect whole events, and a function behind them."""
        where, flow = f"{caller()} {kind}", self._keyed.flow
        if not callable(function):
            raise FlowError(f"{where}: expected a function, found {function!r}")
        if isinstance(self._windows, SlidingWindows):
            raise FlowError(
                f"{where}: {self._windows.describe()} gives a result for each event; "
                "collect the events behind it, as in .agg(events=ms.collect()), and .map(...) that"
            )
        key_by = flow.nodes[self._keyed.port.node].spec
        assert isinstance(key_by, KeyBySpec)
        whole_events: dict[str, Any] = {WINDOW_ROWS: collect()}
        windows = self.agg(**whole_events).port
        keys = tuple(key for key, _ in key_by.keys)
        policy = flow.policy(on_error, retries=False)
        spec = WindowFunctionSpec(policy, UserFunction(function), reduces, keys, declared_schema(schema))
        return WindowResult(flow, flow.add(kind, spec, [windows], name), late_of=windows.node)

    def _result(self, kind: str, spec: Spec, name: str | None) -> WindowResult:
        flow = self._keyed.flow
        return WindowResult(flow, flow.add(kind, spec, [self._keyed.port], name))


class WindowResult(Stream):
    """The panes of a window; `late` has the events that came after their windows had expired."""

    def __init__(self, flow: Flow, port: Port, late_of: int | None = None) -> None:
        super().__init__(flow, port)
        self._late = Port(port.node if late_of is None else late_of, LATE)

    @property
    def late(self) -> Stream:
        """The events that no window took any more, with one more field, ``late_reason``: text that says why."""
        return Stream(self.flow, self._late)


def windowed(
    where: str,
    keyed: KeyedStream,
    windows: Windows | SessionWindows | RowWindows,
    allowed_lateness: Duration | None,
    early: Early | None,
    panes: str,
    emit: str,
) -> WindowedStream:
    """What `KeyedStream.window` was given, when it goes together.

    Raises:
        FlowError: it does not.
    """
    lateness = MAX_US if allowed_lateness is None else min(duration_us(allowed_lateness, where), MAX_US)
    final = is_final(where, emit)
    if not isinstance(windows, Windows | SessionWindows | RowWindows):
        raise FlowError(f"{where}: expected windows such as ms.tumbling('1m'), found {windows!r}")
    if early is not None and not isinstance(early, Early):
        raise FlowError(f"{where}: early= takes a trigger such as ms.every('10s'), found {early!r}")
    if panes not in PANES:
        raise FlowError(f"{where}: panes={panes!r}; there are {', '.join(map(repr, PANES))}")
    wanted = Accumulation(panes)
    if isinstance(windows, RowWindows) and (lateness or early or final or wanted is not Accumulation.ACCUMULATING):
        raise FlowError(
            f"{where}: {windows.describe()} takes events in the order of event time, each once: "
            "allowed_lateness=, early=, panes= and emit= are for windows of time"
        )
    if final and lateness == MAX_US:
        raise FlowError(
            f"{where}: emit='final' waits for the windows to expire, which never happens with infinite lateness"
        )
    if final and early is not None:
        raise FlowError(
            f"{where}: emit='final' puts out one pane for each window, early= several; leave out one of them"
        )
    if isinstance(windows, GlobalWindows) and lateness:
        raise FlowError(
            f"{where}: a global window has no end that an event could be late for; leave out allowed_lateness="
        )
    return WindowedStream(keyed, windows, lateness, final, early, wanted)
