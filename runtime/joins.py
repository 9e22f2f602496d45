"""Joins as a user asks for them: what the methods named ``join...`` of streams and windows check and build."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from millstream.errors import FlowError
from millstream.lookups import On, kind_of, pairs_of
from millstream.plan import Port
from millstream.specs.joins import (
    LATE_LEFT,
    LATE_RIGHT,
    AsOfJoinSpec,
    IntervalJoinSpec,
    JoinKind,
    JoinSpec,
    SessionJoinSpec,
    UpdatingJoinSpec,
    WindowJoinSpec,
)
from millstream.specs.windows import SessionWindows, Windows
from millstream.streams import Stream
from millstream.times import MAX_US, Duration, duration_us
from millstream.where import caller

if TYPE_CHECKING:
    from millstream.keyed import KeyedStream

How = Literal["inner", "left", "right", "full", "semi", "anti"]
Closed = Literal["both", "left", "right", "none"]


class JoinResult(Stream):
    """What a join puts out. Rows that came too late to be joined are in `late_left` and `late_right`.

    A late row of a side that the join keeps (the left side of how="left") comes out without a match instead.
    """

    @property
    def late_left(self) -> Stream:
        """Late rows of the left side, with one more field: ``late_reason``. None where the join keeps that side."""
        return Stream(self.flow, Port(self.port.node, LATE_LEFT))

    @property
    def late_right(self) -> Stream:
        """Late rows of the right side, with one more field: ``late_reason``. None where the join keeps that side."""
        return Stream(self.flow, Port(self.port.node, LATE_RIGHT))


def join(
    left: KeyedStream,
    right: KeyedStream,
    how: str,
    within: tuple[Duration, Duration] | None,
    closed: str,
    ttl: Duration | None,
    final: bool,
    suffix: str,
    name: str | None,
) -> JoinResult:
    where = f"{caller()} join"
    _check_sides(where, left, right)
    spec = _timed(where, kind_of(where, how), within, closed, ttl, final, suffix, None)
    return JoinResult(left.flow, left.flow.add("join", spec, [left.port, right.port], name))


def join_broadcast(
    left: KeyedStream,
    right: Stream,
    on: On,
    how: str,
    within: tuple[Duration, Duration] | None,
    closed: str,
    ttl: Duration | None,
    final: bool,
    suffix: str,
    name: str | None,
) -> JoinResult:
    where = f"{caller()} join_broadcast"
    if not isinstance(right, Stream):
        raise FlowError(f"{where}: the right side goes to every worker whole: give the stream without key_by()")
    if right.flow is not left.flow:
        raise FlowError(
            f"{where}: the streams belong to different flows ({left.flow.name}, {right.flow.name}); join one flow's"
        )
    kind = kind_of(where, how)
    if kind.keeps(1):
        raise FlowError(
            f"{where}: how={how!r} keeps right rows without a match, and each worker, which has them all, would put "
            "them out; use 'inner', 'left', 'semi' or 'anti', or key both sides and use join()"
        )
    spec = _timed(where, kind, within, closed, ttl, final, suffix, pairs_of(where, on))
    return JoinResult(left.flow, left.flow.add("join_broadcast", spec, [left.port, right.port], name))


def join_windows(
    left: KeyedStream,
    windows: object,
    allowed_lateness_us: int,
    right: KeyedStream,
    how: str,
    suffix: str,
    name: str | None,
) -> JoinResult:
    where = f"{caller()} join"
    _check_sides(where, left, right)
    kind = kind_of(where, how)
    if (
        not isinstance(windows, SessionWindows) and type(windows) is not Windows
    ):  # global and custom ones derive from it
        raise FlowError(
            f"{where}: windows of this kind cannot be joined; use tumbling(...), hopping(...) or session(...)"
        )
    if allowed_lateness_us == MAX_US:
        raise FlowError(f"{where}: a window's rows come out when it has expired, which infinite lateness never lets it")
    spec: JoinSpec
    if isinstance(windows, SessionWindows):
        spec = SessionJoinSpec(kind, suffix=suffix, windows=windows, allowed_lateness_us=allowed_lateness_us)
    else:
        spec = WindowJoinSpec(kind, suffix=suffix, windows=windows, allowed_lateness_us=allowed_lateness_us)
    return JoinResult(left.flow, left.flow.add("join", spec, [left.port, right.port], name))


def join_as_of(
    left: KeyedStream, right: KeyedStream, how: str, tolerance: Duration | None, suffix: str, name: str | None
) -> JoinResult:
    where = f"{caller()} join_as_of"
    _check_sides(where, left, right)
    kind = kind_of(where, how)
    if kind not in (JoinKind.INNER, JoinKind.LEFT):
        raise FlowError(
            f"{where}: how={how!r}: each left row has one version of the right at most; use 'inner' or 'left'"
        )
    tolerance_us = MAX_US if tolerance is None else duration_us(tolerance, where)
    spec = AsOfJoinSpec(kind, suffix=suffix, tolerance_us=tolerance_us)
    return JoinResult(left.flow, left.flow.add("join_as_of", spec, [left.port, right.port], name))


def _timed(
    where: str,
    how: JoinKind,
    within: tuple[Duration, Duration] | None,
    closed: str,
    ttl: Duration | None,
    final: bool,
    suffix: str,
    broadcast: tuple[tuple[str, str], ...] | None,
) -> JoinSpec:
    """The spec of a join with bounds on time, or without. One with bounds is final as it is."""
    if within is None:
        if closed != "both":
            raise FlowError(f"{where}: closed={closed!r} says which ends belong to within=, which is not there")
        ttl_us = None if ttl is None else duration_us(ttl, where)
        return UpdatingJoinSpec(how, suffix=suffix, broadcast=broadcast, ttl_us=ttl_us, final=final)
    if ttl is not None:
        raise FlowError(f"{where}: within= says how long rows are kept; leave ttl= out")
    if not isinstance(within, tuple) or len(within) != 2:
        raise FlowError(f"{where}: within= takes the earliest and the latest, as in ('-5m', '10m'); found {within!r}")
    if closed not in ("both", "left", "right", "none"):
        raise FlowError(f"{where}: closed={closed!r}; use 'both', 'left', 'right' or 'none'")
    lower_us, upper_us = (_signed_us(bound, where) for bound in within)
    # Times are whole microseconds: the bound that does not belong to the interval is one beside it.
    lower_us += closed in ("right", "none")
    upper_us -= closed in ("left", "none")
    if lower_us > upper_us:
        raise FlowError(f"{where}: within={within!r}: nothing is at or after the first and at or before the second")
    return IntervalJoinSpec(how, suffix=suffix, broadcast=broadcast, lower_us=lower_us, upper_us=upper_us)


def _signed_us(bound: Duration, where: str) -> int:
    if isinstance(bound, timedelta) or not (isinstance(bound, str) and bound.strip().startswith(("-", "+"))):
        return duration_us(bound, where)
    text = bound.strip()
    return duration_us(text[1:], where) * (-1 if text[0] == "-" else 1)


def _check_sides(where: str, left: KeyedStream, right: object) -> None:
    from millstream.keyed import KeyedStream

    if not isinstance(right, KeyedStream):
        raise FlowError(f"{where}: the right side must be keyed, too: other.key_by(...); found {type(right).__name__}")
    if right.flow is not left.flow:
        raise FlowError(
            f"{where}: the streams belong to different flows ({left.flow.name}, {right.flow.name}); join one flow's"
        )
