"""One row of each key: the first or the last as far as is known, or the first ones that are certain.

`Dedupe` puts out a row at once and replaces it when an earlier (or later) one comes: for each key it keeps the time
and position of what stands, and the row itself only where it has to be taken back, or waits for the end.
`FirstInOrder` takes rows in the order of event time, so that what it puts out stays: it keeps keys, and with
``within`` frees them when that has passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.accumulators import to_arrow
from millstream.accumulators.ordered import choose
from millstream.batch import EMPTY_COLUMNS, Array, Batch, BoolArray, IntArray, Keys, index_array, make_columns
from millstream.checkpoints.tables import Part, StateTable, in_memory
from millstream.errors import SchemaError
from millstream.grouping import IndexArray, group_codes
from millstream.operators.base import Context, Operator, Output
from millstream.operators.changes import CHANGE_ROWS, changes
from millstream.operators.ordering import OrderedOperator
from millstream.operators.row_tables import notes_and_fields, row_columns
from millstream.queries import Question, beside
from millstream.specs.base import MAIN
from millstream.specs.ranking import DedupeSpec, FirstSpec
from millstream.state.columns import SlotColumn, grown
from millstream.state.expiry import Expiry
from millstream.state.key_table import KeyTable
from millstream.times import MAX_US, STAMP

_STANDING: Final = "standing"
_CARRIED: Final = "carried"
_SEEN: Final = "seen"
_TIME: Final = "time_us"
_POSITION: Final = "position"


class Dedupe(Operator):
    """Attributes:
    time_us, position: by slot, of the row that stands.
    fields: by slot, what is in that row, where it is kept.
    """

    keeps_to_groups = True
    restored_as_written = (_STANDING,)

    def __init__(self, spec: DedupeSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec
        self.keeps_rows = spec.final or spec.retracts
        self.keys = KeyTable()
        self.time_us: IntArray = np.zeros(0, np.int64)
        self.position: IntArray = np.zeros(0, np.int64)
        self.names: list[str] | None = None
        self.fields: list[SlotColumn] = []
        self.timed = self.placed = False
        self._arrived = 0

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        if batch.num_rows == 0:
            return
        assert batch.keys is not None
        self.timed, self.placed = batch.time_us is not None, batch.position is not None
        time_us, position = self._order(batch)
        groups, _ = group_codes([(batch.keys.codes, max(1, batch.keys.distinct.num_rows))])
        chosen = choose(groups, [(time_us, self.spec.last), (position, self.spec.last)])
        slots, new = self.keys.add(batch.keys.distinct.take(index_array(batch.keys.codes[chosen])))
        wins = new | self._better(slots, time_us[chosen], position[chosen])
        chosen, slots, new = chosen[wins], slots[wins], new[wins]
        rows = self._whole(batch.take(chosen))
        gone = None if new.all() or not self.spec.retracts else self._said(slots[~new])
        names = [n for n in rows.columns.schema.names if n not in batch.keys.distinct.schema.names]
        fields = {n: rows.columns.column(n) for n in names} if self.keeps_rows else {}
        self._put(slots, fields, time_us[chosen], position[chosen])
        if self.spec.final or rows.num_rows == 0:
            return
        if self.spec.retracts:
            yield from changes(gone, rows)
        else:
            yield MAIN, rows

    def _order(self, batch: Batch) -> tuple[IntArray, IntArray]:
        """What rows are ordered by: event time and position, or else the order in which they arrive."""
        zeros = np.zeros(batch.num_rows, np.int64)
        if self.spec.by_event_time:
            assert batch.time_us is not None
            return batch.time_us, zeros if batch.position is None else batch.position
        self._arrived += batch.num_rows
        return zeros, np.arange(self._arrived - batch.num_rows, self._arrived)

    def _better(self, slots: IntArray, time_us: IntArray, position: IntArray) -> BoolArray:
        """Which rows come before (or after) what stands; those of new slots have no answer."""
        self.time_us = grown(self.time_us, self.keys.capacity)
        self.position = grown(self.position, self.keys.capacity)
        held_us, held = self.time_us[slots], self.position[slots]
        better: BoolArray
        if self.spec.last:
            better = (time_us > held_us) | ((time_us == held_us) & (position >= held))
        else:
            better = (time_us < held_us) | ((time_us == held_us) & (position < held))
        return better

    def _whole(self, rows: Batch) -> Batch:
        return Batch(rows.all_columns(), rows.time_us, position=rows.position)

    def _put(self, slots: IntArray, fields: Mapping[str, Array], time_us: IntArray, position: IntArray) -> None:
        """Let these rows stand; ``fields`` are those that are kept."""
        self.time_us = grown(self.time_us, self.keys.room)
        self.position = grown(self.position, self.keys.room)
        self.time_us[slots], self.position[slots] = time_us, position
        self.keys.changed(slots)
        names = list(fields)
        if self.names is None:
            self.names, self.fields = names, [SlotColumn() for _ in names]
        if names != self.names:
            raise SchemaError(
                f"{self.context.name}: rows had the fields {', '.join(self.names)} and now have {', '.join(names)}; "
                "say schema= where they are made"
            )
        for column, values in zip(self.fields, fields.values(), strict=True):
            column.put(slots, values, self.keys.room)

    def _said(self, slots: IntArray) -> Batch:
        """The rows that stand for these slots."""
        keys, names = self.keys.keys(slots), self.names or []
        fields = [to_arrow(c.take(slots)) for c in self.fields]
        rows = make_columns([*keys.schema.names, *names], [*keys.columns, *fields])
        return Batch(
            rows, self.time_us[slots] if self.timed else None, position=self.position[slots] if self.placed else None
        )

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if not self.spec.final or watermark_us != MAX_US:
            return
        slots = self.keys.live()
        for start in range(0, len(slots), CHANGE_ROWS):
            yield MAIN, self._said(slots[start : start + CHANGE_ROWS])
        for column in self.fields:
            column.forget(slots)
        self.keys.free(slots)

    def held_back_us(self) -> int:
        return MAX_US if self.spec.final else 0

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        slots = self.keys.asked(question)
        if len(slots):
            yield self._said(slots).columns

    # --- checkpoints ---

    def snapshot(self) -> list[Part]:
        if not len(self.keys):
            return []
        carried = make_columns([_TIME, _POSITION], [pa.array([self.timed]), pa.array([self.placed])])
        return [StateTable(_CARRIED, None, carried), *self.keys.snapshot(_STANDING, self._rows_of)]

    def _rows_of(self, slots: IntArray) -> tuple[Keys, pa.RecordBatch]:
        notes = {_TIME: pa.array(self.time_us[slots]), _POSITION: pa.array(self.position[slots])}
        fields = {n: to_arrow(c.take(slots)) for n, c in zip(self.names or (), self.fields, strict=True)}
        return self.keys.row_keys(slots), row_columns(notes, fields)

    def hand_over(self) -> Sequence[StateTable] | None:
        self.keys.forget_snapshots()
        return in_memory(self.snapshot())

    def restore(self, tables: Sequence[StateTable]) -> None:
        for table in tables:
            if table.keys is None:
                self.timed, self.placed = (bool(table.columns.column(n)[0].as_py()) for n in (_TIME, _POSITION))
        self.keys.restore([table for table in tables if table.name == _STANDING], self._restore)

    def _restore(self, slots: IntArray, rows: StateTable) -> None:
        notes, fields = notes_and_fields(rows)
        time_us, position = notes[_TIME].to_numpy(), notes[_POSITION].to_numpy()
        self._put(slots, fields, time_us, position)
        self._arrived = max(self._arrived, int(position.max()) + 1)

    def figures(self) -> dict[str, Any]:
        state_bytes = self.keys.nbytes + self.time_us.nbytes + self.position.nbytes + sum(f.nbytes for f in self.fields)
        return {**super().figures(), "keys": len(self.keys), "state_bytes": state_bytes}


class FirstInOrder(OrderedOperator):
    """Attributes:
    accepted_us: by slot, the time of the last row that was put out.
    """

    keeps_to_groups = True
    restored_as_written = (_SEEN,)

    def __init__(self, spec: FirstSpec, context: Context) -> None:
        super().__init__(spec, context)
        self.within_us = spec.within_us
        self.keys = KeyTable()
        self.accepted_us: IntArray = np.zeros(0, np.int64)
        self.expiry = Expiry()

    def on_rows(self, rows: Batch) -> Iterator[Output]:
        if rows.num_rows == 0:
            return
        assert rows.keys is not None
        groups, first = group_codes([(rows.keys.codes, max(1, rows.keys.distinct.num_rows))])
        slots, new = self.keys.add(rows.keys.distinct.take(index_array(rows.keys.codes[first])))
        if self.within_us is None:
            accepted = np.sort(first[new])
        else:
            assert rows.time_us is not None
            order = groups.order
            accepted = np.sort(order[self._accepted(groups.codes[order], rows.time_us[order], slots, new)])
        if len(accepted):
            columns = rows.all_columns()
            yield MAIN, replace(rows.with_columns(columns), keys=None, before_us=None).take(accepted)

    def _accepted(self, codes: IntArray, time_us: IntArray, slots: IntArray, new: BoolArray) -> IndexArray:
        """Of rows sorted by key and time, those that come so long after the last one that was accepted.

        Args:
            codes: of each row; slots and new: by code, whether the key had no row yet.
        """
        assert self.within_us is not None
        self.accepted_us = grown(self.accepted_us, self.keys.capacity)
        count = len(codes)
        # Times by their number, so that key and time fit one number and a search finds where the next may be.
        times, number = np.unique(time_us, return_inverse=True)
        width = len(times) + 1
        at = codes * width + number
        after = np.searchsorted(at, codes * width + np.searchsorted(times, time_us + self.within_us))
        begins = np.searchsorted(codes, np.arange(len(slots)))
        free_us = np.where(new, times[0], self.accepted_us[slots] + self.within_us)
        start = np.searchsorted(at, np.arange(len(slots)) * width + np.searchsorted(times, free_us))
        ends = np.append(begins[1:], count)
        following = np.append(np.where(after < ends[codes], after, count), count)
        accepted = np.zeros(count + 1, np.bool_)
        accepted[start[start < ends]] = True
        # Whoever is reached from a start by following: twice as far with each step.
        while (following < count).any():
            accepted[following[np.flatnonzero(accepted)]] = True
            following = following[following]
        found = np.flatnonzero(accepted[:count])
        self._remember(slots, codes[found], time_us[found])
        return found

    def _remember(self, slots: IntArray, codes: IntArray, time_us: IntArray) -> None:
        last = np.flatnonzero(np.append(codes[1:] != codes[:-1], True)) if len(codes) else np.zeros(0, np.intp)
        touched = slots[codes[last]]
        self.accepted_us[touched] = time_us[last]
        self.keys.changed(touched)
        assert self.within_us is not None
        self.expiry.set(touched, time_us[last] + self.within_us)

    def on_time(self, watermark_us: int) -> Iterator[Output]:
        if self.within_us is not None:
            self.keys.free(self.expiry.due(watermark_us))
        return iter(())

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        slots = self.keys.asked(question)
        keys = self.keys.keys(slots)
        if len(slots) and self.within_us is not None:
            keys = keys.append_column(
                beside(keys.schema.names, "accepted"), pa.array(self.accepted_us[slots]).view(STAMP)
            )
        yield keys

    # --- checkpoints ---

    def snapshot(self) -> list[Part]:
        return [*super().snapshot(), *self.keys.snapshot(_SEEN, self._rows_of)]

    def _rows_of(self, slots: IntArray) -> tuple[Keys, pa.RecordBatch]:
        columns = EMPTY_COLUMNS
        if self.within_us is not None:
            columns = make_columns([_TIME], [pa.array(self.accepted_us[slots])])
        return self.keys.row_keys(slots), columns

    def hand_over(self) -> Sequence[StateTable] | None:
        self.keys.forget_snapshots()
        return in_memory(self.snapshot())

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        self.keys.restore([table for table in tables if table.name == _SEEN], self._restore)
        if self.within_us is not None:
            slots = self.keys.live()
            self.expiry.set(slots, self.accepted_us[slots] + self.within_us)

    def _restore(self, slots: IntArray, rows: StateTable) -> None:
        if self.within_us is not None:
            self.accepted_us = grown(self.accepted_us, self.keys.room)
            self.accepted_us[slots] = rows.columns.column(_TIME).to_numpy()

    def figures(self) -> dict[str, Any]:
        state_bytes = self.keys.nbytes + self.accepted_us.nbytes + self.expiry.nbytes
        return {**super().figures(), "keys": len(self.keys), "state_bytes": state_bytes}
