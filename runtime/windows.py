"""The kinds of windows that a user can ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from millstream.errors import FlowError
from millstream.expr import Expr
from millstream.functions import UserFunction
from millstream.specs.counting import CountWindows
from millstream.specs.free_windows import CustomWindows, GlobalWindows
from millstream.specs.sliding import SlidingWindows
from millstream.specs.triggers import Early
from millstream.specs.windows import SessionWindows, Windows
from millstream.times import Duration, duration_us, positive_us
from millstream.where import caller
from millstream.zones import DAY_US, load_zone


def tumbling(size: Duration, *, offset: Duration = "0s", tz: str | None = None) -> Windows:
    """Windows of one size, end to end.

    Args:
        size: how long each is.
        offset: where windows start, counted from 1970-01-01 00:00 UTC; it may be negative or longer than a window.
        tz: for windows of whole days, the time zone at whose midnights they start, as in "Europe/Berlin"; a day has
            23 or 25 hours when its clock is changed. The offset is then read on that clock.
    """
    size_us = _size_us("tumbling", size)
    return Windows(size_us, size_us, _offset("tumbling", offset), _zone("tumbling", tz, size_us, size_us))


def hopping(size: Duration, every: Duration, *, offset: Duration = "0s", tz: str | None = None) -> Windows:
    """Windows of one size, a new one every so often: they overlap, and an event counts in each.

    Args:
        offset, tz: see `tumbling`.
    """
    size_us, slide_us = _size_us("hopping", size), _size_us("hopping", every)
    if slide_us > size_us:
        raise FlowError(
            f"{caller()} hopping: every={every!r} is longer than size={size!r}: events in between would be in no window"
        )
    return Windows(size_us, slide_us, _offset("hopping", offset), _zone("hopping", tz, size_us, slide_us))


def session(gap: Duration | Expr) -> SessionWindows:
    """Sessions: events of a key that are no further apart than a gap.

    A session starts with its first event and ends a gap after its last; an event at exactly the gap still belongs
    to it, unless it has expired before. A late event may bring two sessions together that have been put out
    already: then one pane covers both, and says nothing of the two before unless the window retracts
    (``panes="retracting"``, or an operator behind it that needs it).

    Args:
        gap: a duration, or an expression over an event's fields that gives a duration or a number of
            microseconds: how long after this event its session may go on.
    """
    if isinstance(gap, Expr):
        return SessionWindows(gap)
    return SessionWindows(_size_us("session", gap))


def every(interval: Duration, *, clock: Literal["processing", "event"] = "processing") -> Early:
    """A trigger: panes of the windows that have changed, whenever a clock passes a multiple of the interval.

    Args:
        clock: "processing": the clock on the wall; "event": the watermark.
    """
    interval_us = _size_us("every", interval)
    if clock not in ("processing", "event"):
        raise FlowError(f"{caller()} every: clock={clock!r} must be 'processing' or 'event'")
    return Early(clock_us=(interval_us,)) if clock == "processing" else Early(event_us=(interval_us,))


def every_count(rows: int) -> Early:
    """A trigger: a pane when so many events of a key have come into a window since its last pane, or more at once."""
    return Early(rows=_count("every_count", "rows", rows))


def every_change() -> Early:
    """A trigger: a pane with every change; changes that come together make one."""
    return Early(rows=1)


def sliding(size: Duration | None = None, *, rows: int | None = None) -> SlidingWindows:
    """What lies behind each event: one result for each event, its own fields and the aggregates.

    Args:
        size: the events of its key in [t - size, t], where t is its event time; events of equal time are in
            each other's windows.
        rows: instead of a size, the last so many events of its key, the event itself among them.
    """
    where = f"{caller()} sliding"
    if (size is None) == (rows is None):
        raise FlowError(f"{where}: say either a size, as in sliding('10m'), or rows=, as in sliding(rows=100)")
    if size is not None:
        return SlidingWindows(size_us=_size_us("sliding", size))
    return SlidingWindows(rows=_count("sliding", "rows", rows))


def count_window(size: int, every: int | None = None) -> CountWindows:
    """Windows of so many events of a key, in the order of event time.

    When the input ends, events that came since the last window make one more, over the last ``size`` again. It has
    the time of its last event, which may be long past for operators behind it.

    Args:
        size: how many events a window holds.
        every: a window for every so many events, over the last ``size`` of them: the first windows hold fewer, if
            ``every`` is less than ``size``. None: end to end.
    """
    size = _count("count_window", "size", size)
    return CountWindows(size, size if every is None else _count("count_window", "every", every))


def global_window() -> GlobalWindows:
    """One window for each key, for ever: it puts out panes with ``early=``, and one at the end of the input.

    Its results have no event time, and null for window_start and window_end.
    """
    return GlobalWindows()


def custom_windows(function: Callable[[Any], Iterable[tuple[Any, Any]]]) -> CustomWindows:
    """Windows of your own: a Python function that says in which an event is.

    Args:
        function: row -> list of (start, end), datetimes or microseconds since the epoch. Each holds the row's event
            time, start <= time < end; they may overlap. A row for which it names none goes to the late output.
    """
    if not callable(function):
        raise FlowError(f"{caller()} custom_windows: expected a function(row), found {function!r}")
    return CustomWindows(function=UserFunction(function))


def _count(where: str, argument: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FlowError(f"{caller()} {where}: {argument}={value!r} must be a number of rows of at least 1")
    return value


def _size_us(where: str, size: Duration) -> int:
    return positive_us(size, f"{caller()} {where}", f"a window of {size!r} holds nothing")


def _offset(where: str, offset: Duration) -> int:
    if isinstance(offset, str) and offset.startswith("-"):
        return -duration_us(offset[1:], f"{caller()} {where}")
    return duration_us(offset, f"{caller()} {where}")


def _zone(where: str, tz: str | None, *durations_us: int) -> str | None:
    if tz is None:
        return None
    where = f"{caller()} {where}"
    if any(us % DAY_US for us in durations_us):
        raise FlowError(f"{where}: tz={tz!r} is for windows of whole days, as in size='1d'; leave it out for others")
    load_zone(tz, where)
    return tz
