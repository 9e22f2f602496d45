"""The best rows of each key, as they change.

Of append-only input only the rows among the best are kept, and a row that is worse than the worst of them by the
first value of the order is put aside before anything is looked up or sorted; where rows can be taken back, all
are kept. Either way a key's rows are a list in their order. A batch merges its rows into the lists of the keys that it
touches; what comes out is the difference between the list before and after.

Ties are broken by event time, then by position, then by what is in the rows, so the order is total and does not
depend on who was faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.accumulators import Column, concat, take, to_arrow
from millstream.accumulators.sorting import Codes, Content, codes_of, has_fixed_codes, ranks_of, sorted_places
from millstream.batch import Array, Batch, BoolArray, IntArray, Keys, SignArray, index_array, make_columns
from millstream.checkpoints.tables import Part, StateTable, in_memory
from millstream.errors import InternalError, SchemaError
from millstream.grouping import Groups, IndexArray
from millstream.operators.base import Context, Operator, Output
from millstream.operators.changes import CHANGE_ROWS, changes
from millstream.operators.columnar import evaluate_all
from millstream.operators.row_tables import notes_and_fields, row_columns
from millstream.operators.taking_back import cancelled
from millstream.queries import Question
from millstream.specs.base import MAIN
from millstream.specs.ranking import TopNSpec, ranked
from millstream.state.columns import RowLog, grown
from millstream.state.key_table import KeyTable
from millstream.state.lists import SlotLists
from millstream.times import MAX_US

_SPARE_ROWS = 4_096
_NOT_FULL = 255  # behind every value
_ROWS: Final = "rows"
_BY: Final = "by."
_TIME: Final = "time_us"
_POSITION: Final = "position"


class TopN(Operator):
    """Attributes:
    keys: the slots of keys.
    log: rows by number: the fields, the values of ``by``, event time, position.
    lists: for each slot the numbers of its rows, the best first.
    worst: for each slot the code of the first value of ``by`` that a row must not be behind to get in.
    """

    keeps_to_groups = True

    def __init__(self, spec: TopNSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.keys = KeyTable()
        self.lists = SlotLists()
        self.log: RowLog | None = None
        self.fields: list[str] = []
        self.timed = self.placed = False
        self.worst = _Worst()

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        rows = self._rows(batch)
        if rows is None:
            return
        slots, touched, rows = self._touched(rows)
        if len(touched) == 0:
            return
        change = self._merge(touched, slots, rows)
        if not self.spec.final:
            yield from self._changes(change)
        if self.spec.signed:
            counts, _ = self.lists.take(touched)
            self.keys.free(touched[counts == 0])
        self._compact()

    def _rows(self, batch: Batch) -> _Candidates | None:
        """The batch as rows with the values they are ordered by; those without become dead letters."""
        named = tuple((str(i), k.value) for i, k in enumerate(self.spec.by))
        read = {f for k in self.spec.by for f in k.value.fields()}
        whole = batch if read <= set(batch.columns.schema.names) else batch.with_columns(batch.all_columns())
        values, whole = evaluate_all(named, whole, self.context)
        for key, value in zip(self.spec.by, values, strict=True):
            key.check_type(value.type, self.context.name)
        if whole.num_rows == 0:
            return None
        assert whole.keys is not None
        names = [n for n in whole.columns.schema.names if n not in whole.keys.distinct.schema.names]
        self._log_for(names, whole.time_us is not None, whole.position is not None)
        zeros = np.zeros(whole.num_rows, np.int64)
        return _Candidates(
            [whole.columns.column(n) for n in names], values,
            zeros if whole.time_us is None else whole.time_us, zeros if whole.position is None else whole.position,
            whole,
        )  # fmt: skip

    def _log_for(self, names: list[str], timed: bool, placed: bool) -> RowLog:
        """The log, for rows with these fields."""
        if self.log is None:
            ranked(self.context.name, pa.schema([(n, pa.null()) for n in names]), self.spec.rank)
            self.fields, self.log = names, RowLog(len(names) + len(self.spec.by) + 2)
            self.timed, self.placed = timed, placed
        if names != self.fields:
            raise SchemaError(
                f"{self.context.name}: rows had the fields {', '.join(self.fields)} and now have {', '.join(names)}; "
                "say schema= where they are made"
            )
        return self.log

    def _touched(self, rows: _Candidates) -> tuple[IntArray, IntArray, _Candidates]:
        """The slot of each row that may change something, the slots of all of these, and the rows."""
        assert rows.batch.keys is not None
        keys = rows.batch.keys
        used = np.zeros(keys.distinct.num_rows, np.bool_)
        used[keys.codes] = True
        codes = np.flatnonzero(used)
        distinct = keys.distinct if len(codes) == len(used) else keys.distinct.take(index_array(codes))
        of_code = np.full(len(used), -1)
        of_code[codes], _ = self.keys.add(distinct)
        slots = of_code[keys.codes]
        if not self.spec.signed and has_fixed_codes(rows.values[0].type):
            may = self.worst.admits(slots, codes_of(rows.values[0], self.spec.by[0].descending), rows.values[0].type)
            if not may.all():
                slots, rows = slots[may], rows.take(np.flatnonzero(may))
                return slots, np.unique(slots), rows
        return slots, np.sort(of_code[codes]), rows

    # --- merging ---

    def _merge(self, touched: IntArray, slots: IntArray, rows: _Candidates) -> _Change:
        """Merge rows into the lists of their slots."""
        assert self.log is not None
        n, all_ties = self.spec.n, self.spec.all_ties
        both = self._together(touched, slots, rows)
        held, count = len(both.numbers), len(both.groups)
        old = np.full(count, n)
        lists = Groups(both.groups.codes[:held], len(touched))
        old[:held] = np.minimum(ranks_of(np.arange(held), lists, both.by, all_ties), n)
        stays = self._stays(both, rows.batch.sign)
        order = sorted_places(both.groups, both.by, both.time_us, both.position, both.content, np.flatnonzero(stays))
        ranks = ranks_of(order, both.groups, both.by, all_ties)
        if not self.spec.signed:
            best = ranks < n
            order, ranks = order[best], ranks[best]
        new = np.full(count, n)
        new[order] = np.minimum(ranks, n)
        kept = np.zeros(count, np.bool_)
        kept[order] = True
        added = np.flatnonzero(kept[held:])
        numbers = np.concatenate([both.numbers, np.full(count - held, -1)])
        numbers[held + added] = self.log.append([take(c, added) for c in rows.columns], len(added))
        counts = np.bincount(both.groups.codes[order], minlength=len(touched)).astype(np.int64)
        self.lists.put(touched, counts, numbers[order])
        self.keys.changed(touched)
        if not self.spec.signed:
            self.worst.set(touched, counts >= n, order[np.cumsum(counts) - 1], both.by[0], both.kind)
        return _Change(touched[both.groups.codes], numbers, old, new, order)

    def _together(self, touched: IntArray, slots: IntArray, rows: _Candidates) -> _Together:
        """What the lists of these slots hold, in order, followed by new rows."""
        counts, numbers = self.lists.take(touched)
        of_slot = np.concatenate([np.repeat(np.arange(len(touched)), counts), np.searchsorted(touched, slots)])
        at, width = len(self.fields), len(self.fields) + len(rows.values)
        values = [to_arrow(self._behind_held(v, at + i, numbers)) for i, v in enumerate(rows.values)]
        time_us = self._behind_held(rows.time_us, width, numbers)
        position = self._behind_held(rows.position, width + 1, numbers)
        assert isinstance(time_us, np.ndarray) and isinstance(position, np.ndarray)
        return _Together(
            numbers, Groups(of_slot, len(touched)),
            [codes_of(v, k.descending) for v, k in zip(values, self.spec.by, strict=True)], values[0].type,
            time_us, position, lambda wanted: self._content(wanted, numbers, rows),
        )  # fmt: skip

    def _stays(self, both: _Together, sign: SignArray | None) -> BoolArray:
        """Which rows are neither taken back nor take another one back."""
        stays = np.ones(len(both.groups), np.bool_)
        if sign is None or not (sign < 0).any():
            return stays
        minus = ~stays
        minus[len(both.numbers) :] = sign < 0
        stays = ~cancelled(minus, both.groups, both.by, both.time_us, both.position, both.content)
        if stays[minus].any():
            raise InternalError(f"{self.context.name}: a row was taken back that never came")
        return stays

    def _behind_held(self, new: Column, column: int, numbers: IntArray) -> Column:
        """A column of the rows with these numbers, followed by new values."""
        assert self.log is not None
        return new if len(numbers) == 0 else concat([self.log.take(column, numbers), new])

    def _content(self, wanted: IndexArray, numbers: IntArray, rows: _Candidates) -> list[Array]:
        """The fields of some of the rows with these numbers and the new ones behind them: few are ever asked for."""
        held, new = np.flatnonzero(wanted < len(numbers)), np.flatnonzero(wanted >= len(numbers))
        back = np.empty(len(wanted), np.intp)
        back[np.concatenate([held, new])] = np.arange(len(wanted))
        fields = []
        for i, values in enumerate(rows.fields):
            part = take(values, wanted[new] - len(numbers))
            fields.append(to_arrow(take(self._behind_held(part, i, numbers[wanted[held]]), back)))
        return fields

    def _compact(self) -> None:
        """Forget rows that are in no list any more."""
        assert self.log is not None
        if len(self.log) <= 2 * self.lists.numbers + _SPARE_ROWS:
            return
        _, _, numbers = self.lists.all()
        renumbered = np.full(len(self.log), -1)
        renumbered[numbers] = np.arange(len(numbers))
        self.log.keep(numbers)
        self.lists.replace_all(renumbered)

    # --- output ---

    def _changes(self, change: _Change) -> Iterator[Output]:
        """Rows that leave, enter, or move to another rank."""
        n = self.spec.n
        was, is_ = change.old < n, change.new < n
        if self.spec.rank is not None:
            moved = change.old != change.new
            gone, come = was & moved, is_ & moved
        else:
            gone, come = was & ~is_, is_ & ~was
        entering = change.order[come[change.order]]  # the best first
        yield from changes(
            self._said(change.slots[gone], change.numbers[gone], change.old[gone]),
            self._said(change.slots[entering], change.numbers[entering], change.new[entering]),
        )

    def _said(self, slots: IntArray, numbers: IntArray, ranks: IntArray) -> Batch:
        assert self.log is not None
        keys = self.keys.keys(slots)
        fields = [to_arrow(self.log.take(i, numbers)) for i in range(len(self.fields))]
        names, arrays = [*keys.schema.names, *self.fields], [*keys.columns, *fields]
        if self.spec.rank is not None:
            names.append(self.spec.rank)
            arrays.append(pa.array(ranks + 1))
        width = len(self.fields) + len(self.spec.by)
        time_us, position = self.log.take(width, numbers), self.log.take(width + 1, numbers)
        assert isinstance(time_us, np.ndarray) and isinstance(position, np.ndarray)
        return Batch(
            make_columns(names, arrays), time_us if self.timed else None, position=position if self.placed else None
        )

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if not self.spec.final or watermark_us != MAX_US or self.log is None:
            return
        slots, counts, _ = self.lists.all()
        per_part = max(1, CHANGE_ROWS // max(1, int(counts.max(initial=1))))
        for start in range(0, len(slots), per_part):
            yield MAIN, self._best(slots[start : start + per_part])
        self.keys, self.lists, self.log, self.worst = KeyTable(), SlotLists(), None, _Worst()

    def _best(self, slots: IntArray) -> Batch:
        """The rows that stand for some keys, the best first."""
        assert self.log is not None
        lengths, numbers = self.lists.take(slots)
        groups = Groups(np.repeat(np.arange(len(slots)), lengths), len(slots))
        width = len(self.fields)
        by = [
            codes_of(to_arrow(self.log.take(width + i, numbers)), k.descending)
            for i, k in enumerate(self.spec.by if self.spec.all_ties else ())
        ]
        ranks = ranks_of(np.arange(len(numbers)), groups, by, self.spec.all_ties)
        best = ranks < self.spec.n
        return self._said(slots[groups.codes[best]], numbers[best], ranks[best])

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        slots = self.keys.asked(question)
        if len(slots):
            yield self._best(slots).columns

    def held_back_us(self) -> int:
        return MAX_US if self.spec.final else 0

    # --- checkpoints ---

    def snapshot(self) -> list[Part]:
        """The rows of each key, the best first."""
        return [] if self.log is None else self.keys.snapshot(_ROWS, self._rows_of)

    def _rows_of(self, slots: IntArray) -> tuple[Keys, pa.RecordBatch]:
        assert self.log is not None
        counts, numbers = self.lists.take(slots)
        *columns, time_us, position = [to_arrow(self.log.take(i, numbers)) for i in range(self.log.width)]
        notes = {f"{_BY}{i}": values for i, values in enumerate(columns[len(self.fields) :])}
        if self.timed:
            notes[_TIME] = time_us
        if self.placed:
            notes[_POSITION] = position
        fields = dict(zip(self.fields, columns, strict=False))
        return self.keys.row_keys(slots, counts), row_columns(notes, fields)

    def hand_over(self) -> Sequence[StateTable] | None:
        self.keys.forget_snapshots()
        return in_memory(self.snapshot())

    def restore(self, tables: Sequence[StateTable]) -> None:
        for table in tables:
            if table.keys is not None and table.num_rows:
                self._restore(table, table.keys)

    def _restore(self, table: StateTable, keys: Keys) -> None:
        """Take the rows of one former worker's keys; those of a key lie together, in their order."""
        notes, fields = notes_and_fields(table)
        log = self._log_for(list(fields), _TIME in notes, _POSITION in notes)
        by = [notes[f"{_BY}{i}"] for i in range(len(self.spec.by))]
        zeros = np.zeros(table.num_rows, np.int64)
        time_us, position = (notes[n].to_numpy() if n in notes else zeros for n in (_TIME, _POSITION))
        numbers = log.append([*fields.values(), *by, time_us, position], table.num_rows)
        slots = self.keys.slots_of(keys)
        begins = np.flatnonzero(np.append(True, slots[1:] != slots[:-1]))
        counts = np.diff(np.append(begins, len(slots)))
        self.lists.put(slots[begins], counts, numbers)
        if not self.spec.signed:
            first = codes_of(by[0], self.spec.by[0].descending)
            self.worst.set(slots[begins], counts >= self.spec.n, begins + counts - 1, first, by[0].type)

    def figures(self) -> dict[str, Any]:
        state_bytes = self.keys.nbytes + self.lists.nbytes + (0 if self.log is None else self.log.nbytes)
        return {**super().figures(), "keys": len(self.keys), "rows": self.lists.numbers, "state_bytes": state_bytes}


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Rows as they come: their fields, the values they are ordered by, event time, position; and the batch."""

    fields: list[Array]
    values: list[Array]
    time_us: IntArray
    position: IntArray
    batch: Batch

    @property
    def columns(self) -> list[Column]:
        """As they are kept."""
        return [*self.fields, *self.values, self.time_us, self.position]

    def take(self, rows: npt.NDArray[np.integer]) -> _Candidates:
        index = index_array(rows)
        return _Candidates(
            [f.take(index) for f in self.fields], [v.take(index) for v in self.values], self.time_us[rows],
            self.position[rows], replace(self.batch, sign=None if self.batch.sign is None else self.batch.sign[rows]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Together:
    """The rows of some lists, in their order, followed by new rows.

    Attributes:
        numbers: of the rows of the lists.
        groups: the list of each row, old and new.
        by: what they are ordered by; kind is the type of the first of these values.
        content: gives the fields of some of the rows.
    """

    numbers: IntArray
    groups: Groups
    by: list[Codes]
    kind: pa.DataType
    time_us: IntArray
    position: IntArray
    content: Content


@dataclass(frozen=True, slots=True)
class _Change:
    """What a batch did to the rows of the keys that it touched.

    Attributes:
        slots: of each row; numbers: in the log; old and new: the rank before and after, n for none.
        order: the rows that are kept, by slot and rank.
    """

    slots: IntArray
    numbers: IntArray
    old: IntArray
    new: IntArray
    order: IndexArray


class _Worst:
    """By slot, the first value of the order of the last row that gets in; codes are those of one type."""

    def __init__(self) -> None:
        self._type: pa.DataType | None = None
        self._code: IntArray = np.zeros(0, np.int64)
        self._last: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)

    def admits(self, slots: IntArray, codes: Codes, kind: pa.DataType) -> BoolArray:
        """Which rows may get in."""
        self._reach(int(slots.max(initial=-1)) + 1, kind)
        code, last = self._code[slots], self._last[slots]
        if codes.last is None:
            return (codes.code <= code) | (last > 0)
        may: BoolArray = (codes.last < last) | ((codes.last == last) & (codes.code <= code))
        return may

    def set(self, touched: IntArray, full: BoolArray, last: IndexArray, codes: Codes, kind: pa.DataType) -> None:
        """Learn from lists; those that are not full let anything in.

        Args:
            last: the last row of each list, with the codes of all rows.
        """
        self._reach(int(touched.max(initial=-1)) + 1, kind)
        self._last[touched] = _NOT_FULL
        self._code[touched[full]] = codes.code[last[full]]
        self._last[touched[full]] = 0 if codes.last is None else codes.last[last[full]]

    def _reach(self, capacity: int, kind: pa.DataType) -> None:
        if self._type != kind:
            self._type = kind
            self._last[:] = _NOT_FULL  # codes of another type say nothing
        self._code, self._last = grown(self._code, capacity), grown(self._last, capacity, _NOT_FULL)
