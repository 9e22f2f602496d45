"""What an event is told of its neighbours: the functions that make the fields of `KeyedStream.with_previous`."""

from __future__ import annotations

from millstream.errors import FlowError
from millstream.expr import Expr, field_expr
from millstream.specs.previous import Look, Neighbour
from millstream.times import MAX_US, Duration, duration_us
from millstream.where import caller


def lag(value: str | Expr, rows: int = 1) -> Neighbour:
    """The value of the event ``rows`` before this one; null where there is none."""
    return Neighbour(Look.LAG, field_expr(value), _rows("lag", rows))


def lead(value: str | Expr, rows: int = 1, *, within: Duration | None = None) -> Neighbour:
    """The value of the event ``rows`` behind this one; null where none comes.

    The event is put out when that one has come.

    Args:
        within: wait no longer than this, in event time: an event that comes later counts as none. None: until
            one comes or the input ends; windows behind this then wait as long.
    """
    within_us = MAX_US if within is None else duration_us(within, f"{caller()} lead")
    return Neighbour(Look.LEAD, field_expr(value), _rows("lead", rows), within_us=within_us)


def delta(value: str | Expr, rows: int = 1) -> Neighbour:
    """By how much the value differs from that of the event ``rows`` before; null where there is none."""
    return Neighbour(Look.DELTA, field_expr(value), _rows("delta", rows))


def rate(value: str | Expr, *, per: Duration = "1s", rows: int = 1) -> Neighbour:
    """`delta` by the event time that lies between the two, a double; null where there is none or no time has passed.

    Args:
        per: the unit of time: "1s" gives a difference per second.
    """
    per_us = duration_us(per, f"{caller()} rate")
    if per_us <= 0:
        raise FlowError(f"{caller()} rate: per={per!r} must be a duration above zero")
    return Neighbour(Look.RATE, field_expr(value), _rows("rate", rows), per_us=per_us)


def _rows(where: str, rows: int) -> int:
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise FlowError(f"{caller()} {where}: {rows!r} must be a number of events of at least 1")
    return rows
