"""Specs of rankings: the best rows of each key, and the first or last one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self

import pyarrow as pa

from millstream.aggregates import is_ordered
from millstream.errors import FlowError, SchemaError
from millstream.evaluate import output_type
from millstream.expr import Expr
from millstream.schema import plain_type
from millstream.specs.base import MAIN, Bound, Changelog, Fields, Spec, Time, both, takes_back
from millstream.specs.ordering import OrderedSpec, whole_rows
from millstream.specs.windows import RESERVED
from millstream.times import format_duration


@dataclass(frozen=True, eq=False)
class SortKey:
    """What rows are ordered by, the smallest first or the largest; rows without a value come last either way."""

    value: Expr
    descending: bool = False

    def __str__(self) -> str:
        return f"desc({self.value})" if self.descending else str(self.value)

    def check(self, schema: pa.Schema, where: str) -> None:
        """Raises:
        SchemaError: the values have no order.
        """
        self.check_type(output_type(self.value, schema, where), where)

    def check_type(self, kind: pa.DataType, where: str) -> None:
        """Raises:
        SchemaError: values of this type have no order.
        """
        if not is_ordered(plain_type(kind)):
            raise SchemaError(f"{where}: {self.value} is {kind}, which has no order; take a field of it")


SortKeys = tuple[SortKey, ...]

WINDOW_BEST: Final = "best rows of the window"
"""The field of a pane that holds its best rows."""


@dataclass(frozen=True)
class TopNSpec(Spec):
    """The ``n`` best rows of each key.

    Attributes:
        rank: the field for a row's rank, from 1; None: rows have none, and only come and go.
        all_ties: rows that are equal by ``by`` have one rank, that of the first of them, and leave together. Else
            the earlier event is the better one.
        final: what stands at the end of the input. Else every change, as rows that are taken back and put out.
        signed: the input takes rows back.
    """

    keyed: ClassVar[bool] = True
    n: int
    by: SortKeys
    rank: str | None = None
    all_ties: bool = False
    final: bool = False
    signed: bool = False

    def describe(self) -> str:
        more = f", rank={self.rank!r}" if self.rank else ""
        more += ", ties='all'" if self.all_ties else ""
        return f"top_n({self.n}, by={describe_keys(self.by)}{more}{', final' if self.final else ''})"

    def notes(self) -> Iterator[str]:
        if self.signed:
            yield "keeps all rows of each key: one that is taken back may let another one in"
        if not self.final:
            yield "a changelog: rows that are no longer among the best are taken back"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        schema = None
        if upstream.schema is not None:
            for key in self.by:
                key.check(upstream.schema, where)
            schema = ranked(where, whole_rows(upstream.schema, upstream.keys), self.rank)
        identity = (*upstream.keys, self.rank) if self.rank and not self.all_ties else None
        changelog = None if self.final else Changelog(where, identity, retracts=True)
        return Bound(schema, upstream.time, where, changelog=changelog)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return both(None if out is None else out - {self.rank}, fields_of_keys(self.by))

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        return replace(self, signed=takes_back(inputs[0]))

    @property
    def needs_position(self) -> bool:
        return True

    @property
    def waits_for_end(self) -> bool:
        return self.final

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        return inputs[0].changelog is not None

    @property
    def unbounded_state(self) -> str:
        kept = "every row is" if self.signed else f"the {self.n} best rows of every key are"
        return f"{kept} kept for ever; use window(...).top_n(...)"


def ranked(where: str, schema: pa.Schema, rank: str | None) -> pa.Schema:
    """The fields of rows with their rank behind them.

    Raises:
        FlowError: there is a field of that name.
    """
    if rank is None:
        return schema
    if rank in schema.names:
        raise FlowError(f"{where}: rank={rank!r}: there is a field of that name already")
    return schema.append(pa.field(rank, pa.int64()))


def fields_of_keys(keys: SortKeys) -> frozenset[str]:
    return frozenset(f for key in keys for f in key.value.fields())


def describe_keys(keys: SortKeys) -> str:
    return str(keys[0]) if len(keys) == 1 else f"[{', '.join(map(str, keys))}]"


@dataclass(frozen=True)
class DedupeSpec(Spec):
    """One row of each key, the first or the last by event time: a changelog, as an earlier or later one may still come.

    Attributes:
        last: the last row; else the first.
        final: what stands at the end of the input, and no changes.
        retracts: a row that is replaced is taken back first.
        by_event_time: False: the first or last to arrive.
    """

    keyed: ClassVar[bool] = True
    last: bool
    final: bool = False
    retracts: bool = False
    by_event_time: bool = True

    def describe(self) -> str:
        return f"dedupe(keep={'last' if self.last else 'first'!r}{', final' if self.final else ''})"

    def notes(self) -> Iterator[str]:
        which = "last" if self.last else "first"
        yield f"the {which} event of each key {'by event time' if self.by_event_time else 'to arrive'}"
        if not self.final:
            yield "a changelog: a row that is replaced is taken back" if self.retracts else "a changelog of upserts"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_revised(where, upstream)
        schema = None if upstream.schema is None else whole_rows(upstream.schema, upstream.keys)
        # The first to arrive stays what it is.
        revises = not self.final and (self.last or upstream.time is Time.EVENT)
        changelog = Changelog(where, upstream.keys, self.retracts) if revises else None
        return Bound(schema, upstream.time, where, changelog=changelog)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return out

    def resolved(self, inputs: Sequence[Bound]) -> Self:
        return replace(self, by_event_time=inputs[0].time is Time.EVENT)

    @property
    def needs_position(self) -> bool:
        return self.by_event_time

    @property
    def waits_for_end(self) -> bool:
        return self.final

    @property
    def revises(self) -> bool:
        return not self.final

    def retracting(self) -> Self:
        return replace(self, retracts=True)

    @property
    def unbounded_state(self) -> str:
        return "every key is kept for ever; use keep='first' and within=, or window(...).top_n(1, ...)"


@dataclass(frozen=True)
class FirstSpec(OrderedSpec):
    """The first row of each key, put out when no earlier one can come any more.

    Attributes:
        within_us: an event so long after one that was put out is none of its duplicates; None: they all are.
    """

    within_us: int | None = None

    def describe(self) -> str:
        return f"dedupe(keep='first'{'' if self.within_us is None else f', within={format_duration(self.within_us)}'})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream = inputs[0]
        refuse_revised(where, upstream)
        if self.within_us is not None and upstream.time is not Time.EVENT:
            raise FlowError(
                f"{where}: within= goes by event time, and there is none; call event_time() before key_by()"
            )
        return Bound(
            None if upstream.schema is None else whole_rows(upstream.schema, upstream.keys), upstream.time, where
        )

    def inputs_read(self, out: Fields) -> Fields:
        return out

    @property
    def unbounded_state(self) -> str | None:
        return None if self.within_us is not None else "every key is kept for ever; use within= to free them"


def refuse_revised(where: str, upstream: Bound) -> None:
    """Raises:
    FlowError: the input revises what it has put out.
    """
    if upstream.changelog:
        raise FlowError(
            f"{where}: its input comes from {upstream.changelog.by}, which revises what it has put out; "
            "use top_n(1, by=...), which follows that, or emit='final' there"
        )


@dataclass(frozen=True)
class WindowRowsSpec(Spec):
    """The rows of panes that hold the best ones of their window: a row for each, behind the fields of its pane.

    Attributes:
        rank: the field for a row's rank; None: rows have none.
    """

    by: SortKeys
    n: int
    rank: str | None

    def describe(self) -> str:
        return f"rows of top_n({self.n}, by={describe_keys(self.by)}{f', rank={self.rank!r}' if self.rank else ''})"

    def bind(self, where: str, inputs: Sequence[Bound]) -> Bound:
        upstream, schema = inputs[0], None
        if upstream.schema is not None:
            pane = [f for f in upstream.schema if f.name != WINDOW_BEST]
            event = list(upstream.schema.field(WINDOW_BEST).type.value_type.field("event").type)
            check_apart(where, event)
            names = {f.name for f in pane}
            schema = ranked(where, pa.schema([*pane, *(f for f in event if f.name not in names)]), self.rank)
        changelog = upstream.changelog and replace(upstream.changelog, keys=None)
        return replace(upstream, schema=schema, keys=(), changelog=changelog)

    def reads(self, number: int, out: Fields, port: str = MAIN) -> Fields:
        return None

    def needs_retractions(self, inputs: Sequence[Bound]) -> bool:
        # A pane that comes again may hold other rows.
        return inputs[0].changelog is not None


def check_apart(where: str, event: Sequence[pa.Field[Any]]) -> None:
    """Raises:
    FlowError: an event has a field that is named as one of its pane.
    """
    for field in event:
        if field.name in RESERVED:
            raise FlowError(
                f"{where}: events have a field {field.name!r}, which is one of the window's as well; rename() or drop() it"
            )
