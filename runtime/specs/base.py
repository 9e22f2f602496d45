"""What every spec has: what an operator is told to do, as data, and what planning has to know of it.

A spec is a frozen dataclass. It pickles, it can be explained, compared and translated; only the `UserFunction`s
inside are opaque. It answers the planner's two questions: which fields come out (`Spec.bind`), and which
fields of its inputs it reads (`Spec.reads`). How the work is done is the operator's affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Self

import pyarrow as pa

from millstream.checkpoints.shape import OPERATOR
from millstream.errors import FlowError, InternalError
from millstream.expr import Column, Expr

MAIN = "main"
LATE = "late"
LATE_REASON = "late_reason"
DEAD_LETTERS = "dead letters"
"""The port of every operator on which the records leave that it refuses, where somebody takes them."""

Named = tuple[tuple[str, Expr], ...]

Fields = frozenset[str] | None
"""The fields that somebody reads; None: all of them, whatever they are."""


class Time(Enum):
    """The time that rows carry."""

    NONE = "none"
    PROCESSING = "processing"  # results of processing-time windows: their rows have times, but no watermark follows
    EVENT = "event"


@dataclass(frozen=True)
class Changelog:
    """Says that rows revise rows that came before them.

    Attributes:
        by: the operator that revises its results, for errors.
        keys: a row replaces the earlier one with the same values in these fields (an upsert). None: there
            are no such fields any more.
        retracts: the rows carry a sign, and each revised row is first taken back (-) before its
            successor comes (+), so that the rows add up without looking at any key.
    """

    by: str
    keys: tuple[str, ...] | None
    retracts: bool = False


@dataclass(frozen=True)
class Bound:
    """What is known of one output of a node before the first row.

    Attributes:
        schema: fields and types; None behind a Python function without ``schema=``.
        time: the time that its rows carry.
        stateful: the operator with state that it is behind, if any.
        keys: the key fields, directly behind a ``key_by``.
        changelog: whether and how its rows revise earlier ones.
    """

    schema: pa.Schema | None
    time: Time = Time.NONE
    stateful: str | None = None
    keys: tuple[str, ...] = ()
    changelog: Changelog | None = None

    @property
    def timed(self) -> bool:
        return self.time is not Time.NONE


@dataclass(frozen=True)
class Spec:
    """What one operator does, as data.

    Attributes:
        columnar: it works on columns and calls no Python function of the user's, so it may run in the
            coordinator.
        keyed: it needs its inputs partitioned by key, and keeps state for each key.
        holds_rows: it keeps rows for a while whatever their key, and holds the watermark back for them.
        keeps_fields: its state is of fields that it reads, whose types it depends on.
    """

    columnar: ClassVar[bool] = True
    keyed: ClassVar[bool] = False
    holds_rows: ClassVar[bool] = False
    keeps_fields: ClassVar[bool] = True

    def describe(self) -> str:
        """The operator in one line, as the user would write it."""
        raise NotImplementedError

    def state_aspects(self) -> dict[str, str]:
        """What its state depends on beside its key and the types of its fields, by aspect: see `Shape`."""
        return {OPERATOR: self.describe()}

    @property
    def state_migrations(self) -> list[str]:
        """The states of the user's own that can be brought here from older versions."""
        return []

    @property
    def way(self) -> str:
        """How it goes about its rows: "columns" where no Python of the user's runs for them, "Python", or both."""
        return "columns"

    def notes(self) -> Iterator[str]:
        """What `explain` adds: how it goes about its work, where that is not plain from `describe`."""
        return iter(())

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        """What comes out on the main port; what is wrong with the operator is said here.

        Args:
            where: the operator's name and the user's line, for errors.
        Raises:
            FlowError, SchemaError: it does not go with its inputs.
        """
        return inputs[0]

    def bind_port(self, port: str, where: str, inputs: Sequence[Bound], main: Bound) -> Bound:
        """What comes out on another port than the main one."""
        raise InternalError(f"{where}: no output named {port!r}")

    @property
    def late_ports(self) -> tuple[str, ...]:
        """The ports on which events leave that came too late: they are kept even where nobody reads them."""
        return ()

    @property
    def shows_fields(self) -> bool:
        """Whether its rows alone show their fields: they are of the user's making, and nothing was declared."""
        return False

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        """The fields of input ``number`` that are read, when ``out`` is read of an output."""
        return None

    def narrowed(self, out: Fields) -> Self:
        """The same without the work for columns that nobody reads."""
        return self

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        """The same with what binding found out about the inputs."""
        return self

    @property
    def unbounded_state(self) -> str | None:
        """What it keeps for ever, and what to do about that, in one sentence; None: its state is bounded.

        Where a source has no end it is warned of, and `explain` always shows it.
        """
        return None

    @property
    def waits_for_end(self) -> bool:
        """Whether it puts out nothing before its input ends: it then holds back the watermark of its stage till there."""
        return False

    @property
    def needs_position(self) -> bool:
        """Whether ties of equal times are broken by the position of rows in their source."""
        return False

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        """Whether a changelog that comes in must take back what it revises."""
        return False

    @property
    def revises(self) -> bool:
        """Whether it makes a changelog of its own, and can be asked to retract (`retracting`)."""
        return False

    def retracting(self) -> Self:
        """The same, taking back what it revises."""
        raise InternalError(f"{type(self).__name__} cannot retract")


def refuse_changelog(where: str, upstream: Bound) -> None:
    """For operators with state that would count revised rows again.

    Raises:
        FlowError: the input revises what it has put out.
    """
    if upstream.changelog:
        raise FlowError(
            f"{where}: its input comes from {upstream.changelog.by}, which revises what it has put out; "
            "an operator with state would count the revised results again. Use emit='final' there"
        )


def takes_back(upstream: Bound) -> bool:
    """Whether rows of an input take earlier ones back, for operators that ask it to where it revises.

    Raises:
        FlowError: it revises, and cannot take back.
    """
    if upstream.changelog and not upstream.changelog.retracts:
        raise FlowError(
            f"{upstream.changelog.by}: it revises what it has put out and cannot take it back, which an operator "
            "behind it needs. Use emit='final' here"
        )
    return upstream.changelog is not None


def only_with(changelog: Changelog | None, names: Sequence[str]) -> Changelog | None:
    """The changelog behind an operator that leaves only these fields as they were."""
    if changelog is None or changelog.keys is None or set(changelog.keys) <= set(names):
        return changelog
    return replace(changelog, keys=None)


def without(changelog: Changelog | None, names: Sequence[str]) -> Changelog | None:
    """The changelog behind an operator that removes or replaces these fields."""
    if changelog is None or changelog.keys is None or not set(changelog.keys) & set(names):
        return changelog
    return replace(changelog, keys=None)


# --- helpers for specs ---


def both(a: Fields, b: Fields) -> Fields:
    return None if a is None or b is None else a | b


def fields_of(columns: Named, out: Fields) -> Fields:
    """What these expressions read, those of them that somebody reads."""
    return frozenset(f for n, e in columns if out is None or n in out for f in e.fields())


def is_field(name: str, expression: Expr) -> bool:
    """Whether an expression is simply the field of that name."""
    return isinstance(expression, Column) and expression.column == name


def describe_columns(columns: Named) -> str:
    return ", ".join(str(e) if is_field(n, e) else f"{n}={e}" for n, e in columns)
