"""Session joins: pairs of rows of one key in the same session, which the events of both sides make together.

The rows of both sides go through the sessions of `SessionOperator`, which decides what a session is, what is late
and when it has expired; each session collects its rows, those of the left apart from those of the right, and when it
comes out they are paired. So a session's rows are held once, with their session, and a late event that brings two
sessions together brings their rows together as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream import aggregates as ms
from millstream.batch import Array, Batch, BoolArray, IntArray, Keys, index_array, make_columns
from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.tables import Part, StateTable
from millstream.errors import unknown_field
from millstream.expr import col
from millstream.late import LateEvents
from millstream.operators.base import Context, Counters, Operator, Output, Wait
from millstream.operators.columnar import with_arrays
from millstream.operators.joins.base import JoinOperator
from millstream.operators.joins.growing import plain
from millstream.operators.joins.output import Beside, Picked, mixed
from millstream.operators.joins.sorted_rows import PAIRS_AT_ONCE
from millstream.operators.windows.gaps import Gaps
from millstream.operators.windows.sessions import SessionOperator
from millstream.queries import Question
from millstream.specs.base import LATE, LATE_REASON, MAIN
from millstream.specs.joins import LATE_LEFT, LATE_RIGHT, WINDOW_FIELDS, JoinKind, SessionJoinSpec
from millstream.specs.windows import SessionWindows, WindowAggregateSpec
from millstream.times import STAMP

# No field of a user's has such a name.
_SIDES: Final = ("\0left", "\0right")
_GAP_US: Final = "\0gap"
_POSITION: Final = "\0position"
_IN_CHECKPOINTS: Final = "sessions."


@dataclass(frozen=True, slots=True)
class _Members:
    """The rows of one side in some sessions that come out, session after session.

    Attributes:
        session: the session of each row.
        first, count: where the rows of each session begin, and how many there are.
    """

    rows: pa.RecordBatch
    session: IntArray
    first: IntArray
    count: IntArray

    def __len__(self) -> int:
        return len(self.session)

    def position(self, rows: IntArray) -> IntArray:
        positions: IntArray = self.rows.column(_POSITION).to_numpy()[rows]
        return positions


def _members(lists: Any) -> _Members:
    """The rows of one side, from the lists that the sessions have collected: null where a row is of the other side."""
    values: Any = lists.flatten()
    session = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_null(values.type):  # no row of this side has come so far
        values, session = pa.array([], pa.struct([(_POSITION, pa.int64())])), session[:0]
    elif values.null_count:
        session, values = session[values.is_valid().to_numpy(zero_copy_only=False)], values.drop_null()
    count = np.bincount(session, minlength=len(lists)).astype(np.int64)
    return _Members(pa.RecordBatch.from_struct_array(values), session, np.cumsum(count) - count, count)


class SessionJoin(JoinOperator):
    """Attributes:
    sessions: those that have not expired, with the rows of both sides.
    """

    keeps_to_groups = True

    def __init__(self, spec: SessionJoinSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        self._gaps = Gaps(spec.windows, context)
        self._gap_us = spec.windows.gap if isinstance(spec.windows.gap, int) else None
        self._allowed_lateness_us = spec.allowed_lateness_us
        self._kinds: list[pa.DataType] = [pa.null(), pa.null()]
        windows = SessionWindows(col(_GAP_US) if self._gap_us is None else self._gap_us)
        collected = tuple((name, ms.collect(name)) for name in _SIDES)
        inner = WindowAggregateSpec(
            windows, spec.allowed_lateness_us, collected, final_only=True, follows_keyed=spec.follows_keyed
        )
        own = replace(context, wanted=frozenset((MAIN, LATE)), counters=Counters(), late_events=LateEvents())
        self.sessions = SessionOperator(inner, own)

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        found = self._gaps(self._keyed(batch, port))
        if found.rows.num_rows:
            rows = self._collectable(found.rows, found.gap_us, port)
            yield from self._results(self.sessions.on_batch(rows, 0))

    def _collectable(self, batch: Batch, gap_us: int | IntArray, port: int) -> Batch:
        """Rows of one side as sessions collect them: each as one value, beside a null for the other side."""
        assert batch.keys is not None and batch.position is not None
        names = self._fields_kept(batch, port)
        values = [index_array(batch.position), *(plain(batch.columns.column(n)) for n in names)]
        mine = pa.StructArray.from_arrays(values, [_POSITION, *names])
        self._kinds[port] = mine.type
        other: Any = self._kinds[1 - port]
        sides = [mine, pa.nulls(len(mine), other)] if port == 0 else [pa.nulls(len(mine), other), mine]
        columns = dict(zip(_SIDES, sides, strict=True))
        if not isinstance(gap_us, int):
            columns[_GAP_US] = index_array(gap_us)
        distinct = make_columns(self._on[0], [plain(c) for c in batch.keys.distinct.columns])
        keys = Keys(distinct, batch.keys.codes)
        return replace(batch, columns=make_columns(list(columns), list(columns.values())), keys=keys)

    def _fields_kept(self, batch: Batch, port: int) -> list[str]:
        there = [n for n in batch.columns.schema.names if n not in self._on[port]]
        if (LATE_RIGHT if port else LATE_LEFT) in self.context.wanted:
            return there  # a late row leaves with whatever is read of it there
        for name in self._payload[port]:
            if name not in there:
                raise unknown_field(name, batch.columns.schema.names, self.context.name)
        return self._payload[port]

    # --- time ---

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        self.watermark_us = max(self.watermark_us, watermark_us)
        yield from self._results(self.sessions.on_watermark(watermark_us))

    def on_clock(self, now_us: int) -> Iterator[Output]:
        yield from self._results(self.sessions.on_clock(now_us))

    def due_us(self) -> int | None:
        return self.sessions.due_us()

    def held_back_us(self) -> int:
        return self.sessions.held_back_us()

    # --- results ---

    def _results(self, produced: Iterable[Output]) -> Iterator[Output]:
        for output in produced:
            if output is None or isinstance(output, Wait):
                yield output
            elif output[0] == LATE:
                yield from self._too_late(output[1])
            else:
                yield from self._joined(output[1])

    def _joined(self, panes: Batch) -> Iterator[Output]:
        left, right = (_members(panes.columns.column(name)) for name in _SIDES)
        # A null key has sessions, too, but equals nothing.
        equal = np.ones(panes.num_rows, np.bool_)
        for name in self._on[0]:
            if (key := panes.columns.column(name)).null_count:
                equal &= key.is_valid().to_numpy(zero_copy_only=False)
        if self.how.pairs:
            yield from self._pairs(panes, left, right, equal)
        for port, mine, other in ((0, left, right), (1, right, left)):
            if not (self.how.keeps(port) or (port == 0 and self.how is JoinKind.SEMI)):
                continue
            matched = (equal & (other.count > 0))[mine.session]
            comes_out = np.flatnonzero(matched if self.how is JoinKind.SEMI else ~matched)
            for start in range(0, len(comes_out), PAIRS_AT_ONCE):
                rows = comes_out[start : start + PAIRS_AT_ONCE]
                yield self._of_one_side(panes, mine, rows, port)

    def _pairs(self, panes: Batch, left: _Members, right: _Members, equal: BoolArray) -> Iterator[Output]:
        others = np.where(equal, right.count, 0)[left.session]
        until = np.cumsum(others)
        for start in range(0, int(until[-1]) if len(until) else 0, PAIRS_AT_ONCE):
            pairs = np.arange(start, min(start + PAIRS_AT_ONCE, int(until[-1])))
            rows_left = np.searchsorted(until, pairs, side="right")
            rows_right = right.first[left.session[rows_left]] + pairs - (until - others)[rows_left]
            position = mixed(left.position(rows_left), right.position(rows_right))
            pairs_of = left.session[rows_left]
            yield self._in_sessions(
                panes, pairs_of, Picked(left.rows, rows_left), Picked(right.rows, rows_right), position
            )

    def _of_one_side(self, panes: Batch, mine: _Members, rows: IntArray, port: int) -> Output:
        picked = Picked(mine.rows, rows)
        left, right = (picked, None) if port == 0 else (None, picked)
        return self._in_sessions(panes, mine.session[rows], left, right, mine.position(rows))

    def _in_sessions(
        self, panes: Batch, session: IntArray, left: Picked | None, right: Picked | None, position: IntArray | None
    ) -> Output:
        at = index_array(session)
        keys = [panes.columns.column(n).take(at) for n in self._on[0]]
        window = {n: panes.columns.column(n).take(at) for n in WINDOW_FIELDS}
        assert panes.time_us is not None
        beside = Beside(panes.time_us[session], position=position if self.with_position else None)
        return MAIN, self.output.batch(keys, left, right, beside, window)

    # --- late rows ---

    def _too_late(self, late: Batch) -> Iterator[Output]:
        for port, name in enumerate(_SIDES):
            mine = late.columns.column(name).is_valid().to_numpy(zero_copy_only=False)
            if not mine.any():
                continue
            rows = late.where(mine)
            values: Any = rows.columns.column(name)
            fields = pa.RecordBatch.from_struct_array(values)
            self._note(rows, fields, port)
            if self.how.keeps(port):
                yield self._late_alone(rows, fields, port)
            else:
                yield (LATE_RIGHT if port else LATE_LEFT), self._with_reason(rows, fields, port)

    def _note(self, rows: Batch, fields: pa.RecordBatch, port: int) -> None:
        """Count late rows; the session that each would have been in ended by the gap behind it."""
        assert rows.time_us is not None
        passed = rows.before_us
        if passed is None:
            passed = np.full(rows.num_rows, self.watermark_us)
        limit_us = self._ends_us(rows) + self._allowed_lateness_us
        self.context.too_late(rows.with_columns(self._as_it_came(rows, fields, port)), passed, limit_us)

    def _ends_us(self, rows: Batch) -> IntArray:
        """When the session ends that a row is by itself."""
        assert rows.time_us is not None
        gap_us = self._gap_us
        return rows.time_us + (rows.columns.column(_GAP_US).to_numpy() if gap_us is None else gap_us)

    def _as_it_came(self, rows: Batch, fields: pa.RecordBatch, port: int) -> pa.RecordBatch:
        columns = fields.select([n for n in fields.schema.names if n != _POSITION])
        keys = [rows.columns.column(n) for n in self._on[0]]
        return make_columns([*self._on[port], *columns.schema.names], [*keys, *columns.columns])

    def _with_reason(self, rows: Batch, fields: pa.RecordBatch, port: int) -> Batch:
        """A late row as it came, and why it is late."""
        columns = self._as_it_came(rows, fields, port)
        return rows.with_columns(with_arrays(columns, [LATE_REASON], [rows.columns.column(LATE_REASON)]))

    def _late_alone(self, rows: Batch, fields: pa.RecordBatch, port: int) -> Output:
        """Late rows of a side that the join keeps: each in the session that it is by itself."""
        assert rows.time_us is not None
        end_us = self._ends_us(rows)
        bounds: list[Array] = [pa.array(us).view(STAMP) for us in (rows.time_us, end_us)]
        picked = Picked(fields, np.arange(rows.num_rows))
        left, right = (picked, None) if port == 0 else (None, picked)
        position = rows.position if self.with_position else None
        beside = Beside(end_us - 1, rows.before_us, position)
        keys = [rows.columns.column(n) for n in self._on[0]]
        return MAIN, self.output.batch(keys, left, right, beside, dict(zip(WINDOW_FIELDS, bounds, strict=True)))

    # --- questions ---

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """The rows of both sides in the sessions that have not expired."""
        for sessions in self.sessions.lookup(question):
            for port, name in enumerate(_SIDES):
                members = _members(sessions.column(name))
                if len(members):
                    at = index_array(members.session)
                    keys = [sessions.column(n).take(at) for n in self._on[0]]
                    window = {n: sessions.column(n).take(at) for n in WINDOW_FIELDS}
                    picked = Picked(members.rows, np.arange(len(members)))
                    yield self.held_rows.columns(port, keys, picked, None, window)

    # --- checkpoints ---

    def snapshot(self) -> list[Part]:
        return [*self._known_tables(), *map(_named, self.sessions.snapshot())]

    def hand_over(self) -> Sequence[StateTable] | None:
        held = self.sessions.hand_over()
        return None if held is None else [*self._known_tables(), *(_named(t) for t in held)]

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        held = [t for t in tables if t.name.startswith(_IN_CHECKPOINTS)]
        self.sessions.restore([replace(t, name=t.name.removeprefix(_IN_CHECKPOINTS)) for t in held])

    def figures(self) -> dict[str, Any]:
        held = self.sessions.figures()
        return {**Operator.figures(self), **{n: held[n] for n in ("groups", "state_bytes") if n in held}}


P = TypeVar("P", bound=Part)


def _named(part: P) -> P:
    """A part of the sessions' state as one of the join's; what is on disk has this name there."""
    return part if isinstance(part, TableFile) else replace(part, name=_IN_CHECKPOINTS + part.name)
