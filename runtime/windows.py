"""The kinds of windows that a user can ask for."""

from __future__ import annotations

from millstream.errors import FlowError
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


def _positive(where: str, size: Duration) -> int:
    size_us = duration_us(size, f"{caller()} {where}")
    if size_us <= 0:
        raise FlowError(f"{caller()} {where}: a window of {size!r} holds nothing; use a duration above zero")
    return size_us


def _offset(where: str, offset: Duration) -> int:
    if isinstance(offset, str) and offset.startswith("-"):
        return -duration_us(offset[1:], f"{caller()} {where}")
    return duration_us(offset, f"{caller()} {where}")
