"""Time as Millstream keeps it: int64 microseconds since the Unix epoch, UTC.

Two values stand for the ends of the line: `MIN_US` is "before everything" (the watermark of a partition
that has shown no event) and `MAX_US` is "after everything" (the watermark at the end of a bounded input,
and infinite lateness). Arithmetic with them saturates, so that neither wraps around.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import pyarrow as pa

from millstream.errors import FlowError, QueryError

MIN_US: Final = -(2**63)
MAX_US: Final = 2**63 - 1
SECOND_US: Final = 1_000_000
STAMP: Final = pa.timestamp("us", "UTC")

UNIT_US: Final = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND_US,
    "m": 60 * SECOND_US,
    "h": 3_600 * SECOND_US,
    "d": 86_400 * SECOND_US,
}

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Duration = timedelta | str


def duration_us(value: Duration, where: str) -> int:
    """A duration in microseconds: a ``timedelta``, or text such as "10s", "1h30m", "500ms".

    Raises:
        FlowError: the text is not a duration, with the units that there are.
    """
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    if isinstance(value, str):
        text = value.strip()
        parts = list(_DURATION.finditer(text))
        if parts and "".join(p.group(0) for p in parts).replace(" ", "") == text.replace(" ", ""):
            return round(sum(float(p.group(1)) * UNIT_US[p.group(2)] for p in parts))
    raise FlowError(
        f"{where}: {value!r} is not a duration; use a timedelta or text such as '10s', '5m', '1h30m', '500ms', '2d'"
    )


def positive_us(value: Duration, where: str, objection: str) -> int:
    """A duration in microseconds that is above zero.

    Raises:
        FlowError: it is no duration, or not above zero: with the objection to that.
    """
    span_us = duration_us(value, where)
    if span_us <= 0:
        raise FlowError(f"{where}: {objection}; use a duration above zero")
    return span_us


def datetime_us(value: datetime) -> int:
    """Microseconds since the epoch; a naive time is UTC."""
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def moment_us(value: datetime | str) -> int:
    """A moment in microseconds since the epoch: a datetime, or ISO 8601; a naive one is UTC.

    Raises:
        QueryError: the text is not a moment.
    """
    try:
        return datetime_us(datetime.fromisoformat(value) if isinstance(value, str) else value)
    except ValueError:
        raise QueryError(
            f"{value!r} is not a moment; write it as in '2026-01-31T12:00' (UTC) or with its offset"
        ) from None


def saturating_add(time_us: int, delta_us: int) -> int:
    """``time_us + delta_us``, where the ends of the line absorb and nothing wraps."""
    if time_us in (MIN_US, MAX_US):
        return time_us
    return max(MIN_US, min(MAX_US, time_us + delta_us))


def format_us(time_us: int) -> str:
    """ISO 8601 text for people; the ends of the line as "-inf" and "+inf"."""
    if time_us == MIN_US:
        return "-inf"
    if time_us == MAX_US:
        return "+inf"
    try:
        moment = _EPOCH + timedelta(microseconds=time_us)
    except OverflowError:
        return f"{time_us} us"
    return moment.isoformat(timespec="microseconds" if time_us % SECOND_US else "seconds").replace("+00:00", "Z")


def format_duration(span_us: int) -> str:
    """A span in its largest whole units: 5400000000 is "1h30m"."""
    if span_us == MAX_US:
        return "infinite"
    text, rest = "-" if span_us < 0 else "", abs(span_us)
    for unit in ("d", "h", "m", "s", "ms", "us"):
        whole, rest = divmod(rest, UNIT_US[unit])
        if whole:
            text += f"{whole}{unit}"
    return text or "0s"
