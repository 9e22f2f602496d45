"""A flow that has changed since its checkpoint: what becomes of each part of the state. Decisions only, on plain data.

State is kept where the operator of its name depends on the same as it did then (`Shape`). What would be lost is named,
and lost only where the user has said so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import Enum
from typing import Final, TypeVar

from millstream.checkpoints.manifest import Manifest, PartitionState
from millstream.checkpoints.shape import BELONGS_TO, OPERATOR, STATE, VERSION, Shape
from millstream.errors import CheckpointError

T = TypeVar("T")

_NOTHING: Final = "none"
_UNKNOWN: Final = Shape({OPERATOR: "something unknown"})
_UNREAD: Final = "was not read to its end, and is not there any more"


class Verdict(Enum):
    """What becomes of the state of an operator."""

    KEPT = "kept"
    NEW = "new"
    DROPPED = "dropped"
    INCOMPATIBLE = "incompatible"


@dataclass(frozen=True)
class Fate:
    """What becomes of one part of the state.

    Attributes:
        name: the operator, source or sink; or ``operator.state`` for a state of the user's own.
        what: what it is, in words: now, or then where it is gone.
        rows, size_bytes: what the checkpoint has of it, at most: rows that were changed later count again.
        remarks: why, or how.
        loses: whether something would be lost.
        belongs_to: the operator of which it is a part; "": none.
        partition: it is this partition of the source alone.
    """

    name: str
    what: str
    verdict: Verdict
    rows: int = 0
    size_bytes: int = 0
    remarks: tuple[str, ...] = ()
    loses: bool = False
    belongs_to: str = ""
    partition: str = ""

    @property
    def is_news(self) -> bool:
        return self.verdict is not Verdict.KEPT or bool(self.remarks)


def with_sinks_found(manifest: Manifest, shapes: Mapping[str, Shape]) -> Manifest:
    """The checkpoint with the names that sinks have now: they are counted, and another one shifts them."""
    then = {name: shape for name, shape in manifest.shapes.items() if shape.is_sink}
    now = {name: shape for name, shape in shapes.items() if shape.is_sink}
    moved = [name for name, shape in then.items() if name not in now or now[name].operator != shape.operator]
    free = [name for name, shape in now.items() if name not in then or then[name].operator != shape.operator]
    names: dict[str, str] = {}
    for name in moved:
        alike = [to for to in free if now[to].operator == then[name].operator and to not in names.values()]
        if len(alike) == 1:
            names[name] = alike[0]
    if not names:
        return manifest

    def renamed(content: Mapping[str, T]) -> dict[str, T]:
        """Who has lost its name to another, and found none, has one that no operator has."""
        taken = set(names.values()) - set(names)
        return {names.get(n, f"{n} (then)" if n in taken else n): c for n, c in content.items()}

    return replace(
        manifest, shapes=renamed(manifest.shapes), operators=renamed(manifest.operators), sinks=renamed(manifest.sinks),
        counters=renamed(manifest.counters),
    )  # fmt: skip


def fates(manifest: Manifest, shapes: Mapping[str, Shape], partitions: Collection[tuple[str, str]]) -> list[Fate]:
    """What becomes of everything in a checkpoint, and what is new, in the order of the flow.

    Args:
        shapes: of the flow as it is now; partitions: its source partitions, (source, name).
    """
    then = dict.fromkeys(_named(manifest), _UNKNOWN) | manifest.shapes
    found: list[Fate] = []
    for name, now in shapes.items():
        if name in then:
            found += _compared(manifest, name, then[name], now, partitions)
        elif not now.belongs_to:
            found.append(_new(name, now))
    found += [_gone(manifest, name, shape) for name, shape in then.items() if name not in shapes]
    return found


def reduced(manifest: Manifest, found: Sequence[Fate]) -> Manifest:
    """The checkpoint without all that has no place in the flow any more."""
    lost = [f for f in found if f.verdict in (Verdict.DROPPED, Verdict.INCOMPATIBLE)]
    if not lost:
        return manifest
    gone = {f.name for f in lost if not f.partition}
    partitions = {(f.name, f.partition) for f in lost}
    shapes = {name: _without_states(name, shape, gone) for name, shape in manifest.shapes.items() if name not in gone}
    return replace(
        manifest,
        shapes=shapes,
        operators={name: what for name, what in manifest.operators.items() if name not in gone},
        tables=tuple(t for t in manifest.tables if t.operator not in gone),
        partitions=tuple(
            replace(p, clocks={name: seen for name, seen in p.clocks.items() if name not in gone})
            for p in manifest.partitions
            if p.source not in gone and (p.source, p.partition) not in partitions
        ),
        sinks={name: states for name, states in manifest.sinks.items() if name not in gone},
        counters={name: counted for name, counted in manifest.counters.items() if name not in gone},
    )


def check_losses(manifest: Manifest, found: Sequence[Fate], allowed: Collection[str] = ()) -> None:
    """See that nothing is lost but what may be.

    Args:
        allowed: the operators, or ``operator.state``, whose state may be.
    Raises:
        CheckpointError: something else would be, or one of these is neither in the checkpoint nor in the flow.
    """
    known = {f.name for f in found}
    for name in allowed:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}"
            raise CheckpointError(f"--drop-state {name}: neither the checkpoint nor the flow has that name{hint}")
    lost = [f for f in found if f.loses and f.name not in allowed and f.belongs_to not in allowed]
    if lost:
        told = "; ".join(f"{f.name} ({f.what}): {', '.join(f.remarks)}" for f in lost)
        names = dict.fromkeys(f.name for f in lost if f.belongs_to not in {o.name for o in lost})
        options = " ".join(f"--drop-state {name}" for name in names)
        raise CheckpointError(
            f"checkpoint {manifest.epoch} does not fit the flow, and state would be lost: {told}. Change that back, give "
            f"operators the names that they had (name=), give this state up with {options}, or start anew with --fresh"
        )


# --- one operator ---


def _new(name: str, now: Shape) -> Fate:
    begins = "is read from its beginning" if now.is_source else "begins its output" if now.is_sink else "starts empty"
    return Fate(name, now.operator, Verdict.NEW, remarks=(begins,))


def _compared(
    manifest: Manifest, name: str, then: Shape, now: Shape, partitions: Collection[tuple[str, str]]
) -> Iterator[Fate]:
    rows, size_bytes = _held(manifest, name)
    reasons = list(_differences(then, now))
    if reasons:
        loses = _has_something(manifest, name)
        yield Fate(name, now.operator, Verdict.INCOMPATIBLE, rows, size_bytes, tuple(reasons), loses, now.belongs_to)
        return
    steps = [(state, version, now.versions().get(state)) for state, version in then.versions().items()]
    migrated = tuple(
        f"{_of_user(state)}: version {old} is brought to {new} by migrate="
        for state, old, new in steps
        if new not in (None, old)
    )
    yield Fate(name, now.operator, Verdict.KEPT, rows, size_bytes, migrated)
    for unread in _partitions(manifest, name):
        if not unread.ended and (name, unread.partition) not in partitions:
            what = f"partition {unread.partition!r}"
            yield Fate(name, what, Verdict.DROPPED, remarks=(_UNREAD,), loses=True, partition=unread.partition)
    for aspect, what in now.aspects.items():
        if aspect.startswith(STATE) and aspect not in then.aspects:
            yield Fate(_part(name, aspect), what, Verdict.NEW, remarks=("starts empty",), belongs_to=name)
    for aspect, what in then.aspects.items():
        if aspect.startswith(STATE) and aspect not in now.aspects:
            why = (f"{name} does not declare it any more",)
            yield Fate(_part(name, aspect), what, Verdict.DROPPED, remarks=why, loses=rows > 0, belongs_to=name)


def _gone(manifest: Manifest, name: str, then: Shape) -> Fate:
    rows, size_bytes = _held(manifest, name)
    unread = any(not p.ended for p in _partitions(manifest, name))
    remarks = [_UNREAD if unread else "is not in the flow any more"]
    if any(state.commits for state in manifest.sinks.get(name, ())):
        remarks.append("rows of the checkpoint may not be in its output yet")
    loses = _has_something(manifest, name)
    return Fate(name, then.operator, Verdict.DROPPED, rows, size_bytes, tuple(remarks), loses, then.belongs_to)


def _differences(then: Shape, now: Shape) -> Iterator[str]:
    """Why what was kept is of no use now."""
    if then.operator != now.operator:
        yield f"{then.operator} then, {now.operator} now"
        return
    before, after = dict(then.fixed()), dict(now.fixed())
    for aspect in dict.fromkeys([*before, *after]):
        old, new = before.get(aspect, _NOTHING), after.get(aspect, _NOTHING)
        added_or_removed = aspect.startswith(STATE) and _NOTHING in (old, new)
        if old != new and aspect not in (OPERATOR, BELONGS_TO) and not added_or_removed:
            yield f"{aspect}: {old} then, {new} now"
    if then.types is not None and now.types is not None:
        for field in dict.fromkeys([*then.types, *now.types]):
            old, new = then.types.get(field, _NOTHING), now.types.get(field, _NOTHING)
            if old != new:
                yield f"{field}: {old} then, {new} now"
    versions = now.versions()
    for state, old_version in then.versions().items():
        version = versions.get(state, old_version)
        if old_version > version:
            yield f"{_of_user(state)}: version {old_version} then, {version} now: a newer flow has written it"
        elif old_version < version and state not in now.migrations:
            yield f"{_of_user(state)}: version {old_version} then, {version} now, and no migrate= brings it there"


# --- what a checkpoint has ---


def _held(manifest: Manifest, name: str) -> tuple[int, int]:
    tables = [t for t in manifest.tables if t.operator == name]
    return sum(t.rows for t in tables), sum({t.path: t.size_bytes for t in tables}.values())


def _has_something(manifest: Manifest, name: str) -> bool:
    """Whether going on without it would lose something."""
    rows, _ = _held(manifest, name)
    said = any(state.state or state.commits for state in manifest.sinks.get(name, ()))
    read = any(not p.ended for p in _partitions(manifest, name))
    clocks = any(name in p.clocks for p in manifest.partitions if not p.ended)
    return bool(rows or said or read or clocks)


def _named(manifest: Manifest) -> list[str]:
    """The operators of which it has something."""
    tables = (t.operator for t in manifest.tables)
    return list(dict.fromkeys((*(p.source for p in manifest.partitions), *tables, *manifest.sinks)))


def _partitions(manifest: Manifest, source: str) -> list[PartitionState]:
    return [p for p in manifest.partitions if p.source == source]


def _of_user(state: str) -> str:
    return "its state" if state == "state" else f"state {state}"  # `scan` has one, which has no name


def _part(name: str, aspect: str) -> str:
    return f"{name}.{aspect.removeprefix(STATE)}"


def _without_states(name: str, shape: Shape, gone: Collection[str]) -> Shape:
    """The shape without states of the user's own that are gone."""
    lost = [a.removeprefix(STATE) for a in shape.aspects if a.startswith(STATE) and _part(name, a) in gone]
    aspects = {
        a: v for a, v in shape.aspects.items() if a not in {*(STATE + n for n in lost), *(VERSION + n for n in lost)}
    }
    return replace(shape, aspects=aspects)
