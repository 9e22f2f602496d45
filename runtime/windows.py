"""The kinds of windows that a user can ask for."""

from __future__ import annotations

from typing import Any

from millstream.errors import FlowError
from millstream.specs.sliding import SlidingWindows
from millstream.specs.windows import Windows
from millstream.times import Duration, duration_us
from millstream.where import caller


def tumbling(size: Duration, *, offset: Duration = "0s") -> Windows:
    """Windows of one size, end to end."""
    size_us = _positive("tumbling", size)
    return Windows(size_us, size_us, _offset("tumbling", offset))


def hopping(size: Duration, every: Duration, *, offset: Duration = "0s") -> Windows:
    """Windows of one size, a new one every so often: they overlap, and an event counts in each."""
    size_us, slide_us = _positive("hopping", size), _positive("hopping", every)
    if slide_us > size_us:
        raise FlowError(
            f"{caller()} hopping: every={every!r} is longer than size={size!r}: events in between would be in no window"
        )
    return Windows(size_us, slide_us, _offset("hopping", offset))


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
        return SlidingWindows(size_us=_positive("sliding", size))
    return SlidingWindows(rows=_count("sliding", "rows", rows))


def _count(where: str, argument: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise FlowError(f"{caller()} {where}: {argument}={value!r} must be a number of rows of at least 1")
    return value


def _positive(where: str, size: Duration) -> int:
    size_us = duration_us(size, f"{caller()} {where}")
    if size_us <= 0:
        raise FlowError(f"{caller()} {where}: a window of {size!r} holds nothing; use a duration above zero")
    return size_us


def _offset(where: str, offset: Duration) -> int:
    if isinstance(offset, str) and offset.startswith("-"):
        return -duration_us(offset[1:], f"{caller()} {where}")
    return duration_us(offset, f"{caller()} {where}")
