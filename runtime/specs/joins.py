"""Specs of joins: what matches what, which fields come out, and whose rows come out without a match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import ClassVar, Final, Self

import pyarrow as pa

from millstream.errors import FlowError, SchemaError, unknown_field
from millstream.schema import plain_type
from millstream.specs.base import LATE_REASON, MAIN, Bound, Changelog, Fields, Spec, Time, both, refuse_changelog
from millstream.specs.windows import SessionWindows, Windows
from millstream.times import MAX_US, STAMP, format_duration

LATE_LEFT: Final = "late_left"
LATE_RIGHT: Final = "late_right"
WINDOW_FIELDS: Final = ("window_start", "window_end")


class JoinKind(Enum):
    """Which rows come out, beside pairs: as in SQL."""

    INNER = "inner"
    LEFT = "left"  # left rows without a match, too, padded with nulls
    RIGHT = "right"
    FULL = "full"
    SEMI = "semi"  # the left rows that have a match, once each, and nothing of the right
    ANTI = "anti"  # the left rows that have none

    @property
    def pairs(self) -> bool:
        return self not in (JoinKind.SEMI, JoinKind.ANTI)

    def keeps(self, side: int) -> bool:
        """Whether rows of a side (0: left, 1: right) come out where they match nothing."""
        if side == 0:
            return self in (JoinKind.LEFT, JoinKind.FULL, JoinKind.ANTI)
        return self in (JoinKind.RIGHT, JoinKind.FULL)


class FieldOrigin(Enum):
    """Where a field of the result comes from."""

    KEY = "key"
    LEFT = "left"
    RIGHT = "right"
    WINDOW = "window"


@dataclass(frozen=True)
class JoinField:
    """One field of the result.

    Attributes:
        source: the field's name on its side; for a key field that on the left.
        kind: its type; None where that is not known before the first row.
    """

    name: str
    origin: FieldOrigin
    source: str
    kind: pa.DataType | None = None


def joined_fields(
    where: str,
    left: pa.Schema | Sequence[str],
    right: pa.Schema | Sequence[str],
    on: Sequence[tuple[str, str]],
    how: JoinKind,
    suffix: str,
    taken: Sequence[JoinField] = (),
) -> tuple[JoinField, ...]:
    """The fields of the result: those of the left, then those of the right without its key fields.

    Args:
        left, right: the fields of either side, with types where they are known.
        on: pairs of key fields, (left, right).
        suffix: what the name of a right field gets where the left has one of that name.
        taken: fields of the result that stand in front.
    Raises:
        FlowError: two fields would have one name.
    """
    keys = {a for a, _ in on}
    fields = list(taken)
    fields += [JoinField(n, FieldOrigin.KEY if n in keys else FieldOrigin.LEFT, n, kind) for n, kind in _named(left)]
    names = {f.name for f in fields}
    if len(names) < len(fields):
        raise FlowError(f"{where}: a field of the left side is named window_start or window_end; rename it")
    if how.pairs:
        for name, kind in _named(right):
            if name in {b for _, b in on}:
                continue
            result = f"{name}{suffix}" if name in names else name
            if result in names:
                raise FlowError(f"{where}: two fields would be named {result!r}; use another suffix=, or rename one")
            names.add(result)
            fields.append(JoinField(result, FieldOrigin.RIGHT, name, kind))
    return tuple(fields)


def _named(side: pa.Schema | Sequence[str]) -> list[tuple[str, pa.DataType | None]]:
    if isinstance(side, pa.Schema):
        return [(f.name, f.type) for f in side]
    return [(n, None) for n in side]


@dataclass(frozen=True)
class JoinSpec(Spec):
    """The base of all joins of two streams.

    Attributes:
        suffix: what a right field's name gets where the left has one of that name.
        broadcast: for a right side that is not keyed and goes to every worker: the fields that must be
            equal, (left, right). None: both sides are keyed, and it is their keys that must be equal.
        on: the fields that are equal, once the inputs are known.
        fields: what comes out, once the inputs are known; None: their fields are not known before the first row.
        timed: whether the rows of both sides carry times, once the inputs are known.
    """

    keyed: ClassVar[bool] = True
    how: JoinKind
    suffix: str = "_right"
    broadcast: tuple[tuple[str, str], ...] | None = None
    on: tuple[tuple[str, str], ...] = ()
    fields: tuple[JoinField, ...] | None = None
    timed: bool = True

    # --- what comes out ---

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        fields = self._check(where, inputs)
        schema = None if fields is None else pa.schema([(f.name, f.kind) for f in fields if f.kind is not None])
        return Bound(schema, self._time(where, inputs), where, changelog=self._changelog(where, inputs))

    def _check(self, where: str, inputs: Sequence[Bound]) -> tuple[JoinField, ...] | None:
        on = self._on(inputs)
        left, right = inputs
        if self.broadcast is None and len(left.keys) != len(right.keys):
            raise FlowError(
                f"{where}: the left side is keyed by {', '.join(left.keys)} and the right by {', '.join(right.keys)}; "
                "both need as many key fields, the first matching the first"
            )
        for side, bound, names in ((0, left, [a for a, _ in on]), (1, right, [b for _, b in on])):
            if bound.schema is None:
                if self.how.keeps(1 - side) and self.how.pairs:
                    raise FlowError(
                        f"{where}: how={self.how.value!r} fills up the fields of the {_side(side)} side with nulls, and "
                        "they are not known before the first row; say schema= where they are made"
                    )
                continue
            for name in names:
                if name not in bound.schema.names:
                    raise unknown_field(name, bound.schema.names, f"{where}: the {_side(side)} side")
        if left.schema is None or right.schema is None:
            return None
        for a, b in on:
            check_key_types(where, a, left.schema.field(a).type, b, right.schema.field(b).type)
        return joined_fields(where, left.schema, right.schema, on, self.how, self.suffix, self._front())

    def _on(self, inputs: Sequence[Bound]) -> tuple[tuple[str, str], ...]:
        return tuple(zip(inputs[0].keys, inputs[1].keys, strict=False)) if self.broadcast is None else self.broadcast

    def _front(self) -> tuple[JoinField, ...]:
        """Fields of the result in front of those of the sides."""
        return ()

    def _time(self, where: str, inputs: Sequence[Bound]) -> Time:
        for side, bound in enumerate(inputs):
            if bound.time is not Time.EVENT:
                raise FlowError(f"{where}: the {_side(side)} side has no event time; call event_time() before key_by()")
        return Time.EVENT

    def _changelog(self, where: str, inputs: Sequence[Bound]) -> Changelog | None:
        for bound in inputs:
            refuse_changelog(where, bound)
        return None

    def bind_port(self, port: str, where: str, inputs: Sequence[Bound], main: Bound) -> Bound:
        if port not in (LATE_LEFT, LATE_RIGHT):
            return super().bind_port(port, where, inputs, main)
        upstream = inputs[0] if port == LATE_LEFT else inputs[1]
        schema = upstream.schema
        if schema is not None:
            schema = schema.append(pa.field(LATE_REASON, pa.string()))
        return replace(upstream, schema=schema, keys=())

    @property
    def late_ports(self) -> tuple[str, ...]:
        # A late row of a side that is kept comes out without a match: it is not lost.
        return tuple(port for side, port in enumerate((LATE_LEFT, LATE_RIGHT)) if not self.how.keeps(side))

    # --- what is read ---

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        if port in (LATE_LEFT, LATE_RIGHT):
            if number != (0 if port == LATE_LEFT else 1):
                return frozenset()
            return None if out is None else out - {LATE_REASON}
        if self.fields is None:
            return None
        origin = FieldOrigin.LEFT if number == 0 else FieldOrigin.RIGHT
        payload = frozenset(f.source for f in self.fields if f.origin is origin and (out is None or f.name in out))
        return both(payload, frozenset(pair[number] for pair in self.on))

    def narrowed(self, out: Fields) -> Self:
        if out is None or self.fields is None:
            return self
        # Rows alone may be counted, and Arrow forgets the length of no columns: keep one.
        return replace(self, fields=tuple(f for f in self.fields if f.name in out) or self.fields[:1])

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        fields = self._check(type(self).__name__, inputs)
        return replace(self, on=self._on(inputs), fields=fields, timed=all(i.timed for i in inputs))

    def _described(self, *settings: str) -> str:
        how = [] if self.how is JoinKind.INNER else [f"how={self.how.value!r}"]
        equal = [] if self.broadcast is None else [f"on {', '.join(a if a == b else f'{a} = {b}' for a, b in self.on)}"]
        return f"{'join' if self.broadcast is None else 'join_broadcast'}({', '.join([*equal, *settings, *how])})"


def check_key_types(
    where: str, left: str, left_kind: pa.DataType, right: str, right_kind: pa.DataType, *, of: str = "right side"
) -> None:
    """Refuse keys of two types.

    Raises:
        SchemaError: they could never be equal, or only after a conversion that the user should choose.
    """
    if _compared(left_kind) != _compared(right_kind):
        raise SchemaError(
            f"{where}: the key {left!r} of the left side is {left_kind} and {right!r} of the {of} is {right_kind}; "
            "cast one of them to the other's type"
        )


def _compared(kind: pa.DataType) -> pa.DataType:
    """The type as which keys are compared: it says nothing of how they are stored."""
    kind = plain_type(kind)
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def _side(number: int) -> str:
    return "right" if number else "left"


@dataclass(frozen=True)
class IntervalJoinSpec(JoinSpec):
    """Pairs with right.time in [left.time + lower, left.time + upper]; both ends belong to it."""

    lower_us: int = 0
    upper_us: int = 0

    def describe(self) -> str:
        return self._described(f"within {format_duration(self.lower_us)} to {format_duration(self.upper_us)}")

    def notes(self) -> Iterator[str]:
        left, right = max(0, self.upper_us), max(0, -self.lower_us)
        yield f"left rows are kept for {format_duration(left)} of event time, right rows for {format_duration(right)}"


@dataclass(frozen=True)
class UpdatingJoinSpec(JoinSpec):
    """Pairs of equal keys whenever they come, for ever or while they are no further apart than a time to live.

    Attributes:
        ttl_us: pairs are at most so far apart in event time; None: there is no bound.
        final: rows without a match come out when none can come any more, and nothing is taken back.
        retracts: for each side, whether its rows may take back earlier ones.
    """

    ttl_us: int | None = None
    final: bool = False
    retracts: tuple[bool, bool] = (False, False)

    def describe(self) -> str:
        ttl = [] if self.ttl_us is None else [f"ttl={format_duration(self.ttl_us)}"]
        return self._described(*ttl, *(["emit='final'"] if self.final else []))

    def notes(self) -> Iterator[str]:
        if self._revises:
            yield "a changelog: rows without a match are taken back when one comes"
        else:
            yield "every pair once" if self.how.pairs else "every row once"
        if self.waits:
            yield "rows without a match come out when none can come any more" + (" (at the end)" * self.waits_for_end)
        if self.ttl_us is not None:
            yield f"rows further apart than {format_duration(self.ttl_us)} of event time do not match"

    @property
    def unbounded_state(self) -> str | None:
        if self.ttl_us is not None:
            return None
        return "it keeps every row of both sides for ever; say ttl=, or within= if rows that match are close in time"

    def _time(self, where: str, inputs: Sequence[Bound]) -> Time:
        if self.ttl_us is not None:
            return super()._time(where, inputs)
        return next((i.time for i in inputs if i.time is not Time.EVENT), Time.EVENT)

    @property
    def waits(self) -> bool:
        """Whether rows wait until no match can come any more, instead of coming out at once and being taken back."""
        return self.final and (self.how.keeps(0) or self.how.keeps(1))

    @property
    def waits_for_end(self) -> bool:
        return self.waits and self.ttl_us is None

    @property
    def _revises(self) -> bool:
        return not self.final and (any(self.retracts) or self.how.keeps(0) or self.how.keeps(1))

    def _changelog(self, where: str, inputs: Sequence[Bound]) -> Changelog | None:
        changelogs = [i.changelog for i in inputs if i.changelog is not None]
        if self.final:
            for changelog in changelogs:
                raise FlowError(
                    f"{where}: emit='final' takes nothing back, and its input comes from {changelog.by}, which revises "
                    "what it has put out; use emit='final' there, too"
                )
            return None
        revises = bool(changelogs) or self.how.keeps(0) or self.how.keeps(1)
        return Changelog(where, None, retracts=True) if revises else None

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        return any(i.changelog is not None for i in inputs)

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        left, right = (i.changelog is not None for i in inputs)
        return replace(super().resolved(inputs), retracts=(left, right))

    @property
    def late_ports(self) -> tuple[str, ...]:
        return super().late_ports if self.ttl_us is not None else ()


@dataclass(frozen=True)
class WindowJoinSpec(JoinSpec):
    """Pairs of rows in the same window; a window's rows come out once, when it has expired."""

    windows: Windows = field(kw_only=True)
    allowed_lateness_us: int = 0

    def describe(self) -> str:
        waits = self.allowed_lateness_us
        lateness = f", allowed_lateness={format_duration(waits)}" if waits else ""
        return f"window({self.windows.describe()}{lateness}).{self._described()}"

    def _front(self) -> tuple[JoinField, ...]:
        return _window_fields()


@dataclass(frozen=True)
class SessionJoinSpec(JoinSpec):
    """Pairs of rows in the same session, which the rows of both sides make together; it comes out once, when it has
    expired.

    Attributes:
        follows_keyed: a side comes from another keyed stage, and so without watermarks of its rows' own.
    """

    windows: SessionWindows = field(kw_only=True)
    allowed_lateness_us: int = 0
    follows_keyed: bool = False

    def describe(self) -> str:
        waits = self.allowed_lateness_us
        lateness = f", allowed_lateness={format_duration(waits)}" if waits else ""
        return f"window({self.windows.describe()}{lateness}).{self._described()}"

    def notes(self) -> Iterator[str]:
        yield "a session is made of the events of both sides; its rows are kept until it has expired"

    def _check(self, where: str, inputs: Sequence[Bound]) -> tuple[JoinField, ...] | None:
        for side, bound in enumerate(inputs):
            if bound.schema is not None:
                self.windows.check(f"{where}: the {_side(side)} side", bound.schema)
        return super()._check(where, inputs)

    def _front(self) -> tuple[JoinField, ...]:
        return _window_fields()

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return both(super().reads(number, out, port), self.windows.inputs)

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        return replace(super().resolved(inputs), follows_keyed=any(i.stateful is not None for i in inputs))

    @property
    def needs_position(self) -> bool:
        return True  # which of two rows came first may decide whether a session takes them


def _window_fields() -> tuple[JoinField, ...]:
    return tuple(JoinField(n, FieldOrigin.WINDOW, n, STAMP) for n in WINDOW_FIELDS)


@dataclass(frozen=True)
class AsOfJoinSpec(JoinSpec):
    """Each left row with the latest version of the right side at its time.

    Attributes:
        tolerance_us: older versions do not count; `MAX_US`: all do.
    """

    tolerance_us: int = MAX_US

    def describe(self) -> str:
        tolerance = "" if self.tolerance_us == MAX_US else f", tolerance={format_duration(self.tolerance_us)}"
        return f"join_as_of(how={self.how.value!r}{tolerance})"

    def notes(self) -> Iterator[str]:
        yield "a left row waits until the watermark has passed its time"

    @property
    def needs_position(self) -> bool:
        return True  # of two versions of one time the later in its source counts
