"""As-of joins: each left row with the version of the right side that held at its time.

The right side is a history: a row is a version of its key, from its time on until the next. A left row waits until
the watermark has passed its time; then all versions up to it are here, and the latest is the answer, of two of one
time the later in its source. Behind the watermark only the last version of each key can still be asked for.

Versions are appended in the order of time and position, so a version's row number says which of two is the later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, IntArray, Keys
from millstream.checkpoints.tables import Part, StateTable
from millstream.operators.base import Context, Output
from millstream.operators.joins.base import JoinOperator
from millstream.operators.joins.held import ROWS_AT_ONCE, rows_of_keys
from millstream.operators.joins.output import Beside, Picked
from millstream.operators.joins.rows import RowNumbers, SideRows
from millstream.operators.joins.sides import Side
from millstream.operators.joins.sorted_rows import make_segment
from millstream.operators.ordering import InOrder
from millstream.queries import Question
from millstream.specs.base import MAIN
from millstream.specs.joins import AsOfJoinSpec, JoinKind
from millstream.times import MAX_US, saturating_add

_SPARE_VERSIONS: Final = 4_096
_FAR_US: Final = 1 << 61
_WAITING: Final = ("waiting_left", "waiting_right")


class AsOfJoin(JoinOperator):
    def __init__(self, spec: AsOfJoinSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        self.tolerance_us = spec.tolerance_us
        self.waiting = (InOrder(), InOrder())
        self.versions = Side(context.name, counts_matches=False)
        self.sides = (Side(context.name, counts_matches=False), self.versions)  # no left row outlives its answer
        self._rows_behind_last_look = 0

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        batch = self._keyed(batch, port)
        assert batch.time_us is not None
        behind_us = self._behind(batch)
        if behind_us is not None:
            late = batch.time_us < behind_us
            if late.any():
                passed = batch.where(late)
                assert passed.time_us is not None
                yield from self._late(passed, port, behind_us[late], "its time", passed.time_us)
                batch = batch.where(~late)
        if batch.num_rows:
            self.waiting[port].add(batch)

    # --- time ---

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if watermark_us <= self.watermark_us:
            return
        self.watermark_us = watermark_us
        versions = self.waiting[1].due(watermark_us)
        if versions is not None:
            self._append(versions)
        asked = self.waiting[0].due(watermark_us)
        if asked is not None:
            for start in range(0, asked.num_rows, _SPARE_VERSIONS * 16):
                yield from self._answer(asked.slice(start, _SPARE_VERSIONS * 16))
        self._forget()

    def _append(self, batch: Batch) -> None:
        rows, _ = self._without_key(batch, self._rows(batch, 1), 1)
        if not len(rows):
            return
        kept = self.versions.kept
        assert rows.time_us is not None
        if len(kept) and rows.time_us[0] < kept.time_us.values[-1]:
            # Versions that were taken up from another worker, whose watermark was further on.
            kept.add(rows)
            self._put_in_order()
            return
        numbers = kept.add(rows)
        self.versions.where.add(make_segment(rows.key, numbers, numbers))

    def _answer(self, batch: Batch) -> Iterator[Output]:
        assert batch.time_us is not None and batch.keys is not None
        version = self._version(self.index.known(batch.keys), batch.time_us)
        found = version >= 0
        if found.any():
            matched, rows = batch.where(found), version[found]
            keys = matched.keys.columns() if matched.keys is not None else []
            left = Picked(matched.columns, np.arange(matched.num_rows))
            right = Picked(self.versions.kept.columns, rows)
            position = matched.position if self.with_position else None
            yield MAIN, self.output.batch(keys, left, right, Beside(matched.time_us, None, position))
        if self.how is JoinKind.LEFT and not found.all():
            yield from self._alone(replace(batch, before_us=None).where(~found), 0)

    def _version(self, key: IntArray, time_us: IntArray) -> IntArray:
        """The row of the latest version of each key at each time, -1 where there is none."""
        version = np.full(len(key), -1, np.int64)
        known = np.flatnonzero(key >= 0)
        times = self.versions.kept.time_us.values
        until = np.searchsorted(times, time_us[known], "right")
        for found in self.versions.where.find(key[known], np.zeros(len(known), np.int64), until - 1):
            there = found.count > 0
            latest = found.row[(found.start + found.count - 1)[there]]
            rows = known[there]
            version[rows] = np.maximum(version[rows], latest)
        if self.tolerance_us < _FAR_US:
            answered = np.flatnonzero(version >= 0)
            too_old = times[version[answered]] < time_us[answered] - self.tolerance_us
            version[answered[too_old]] = -1
        return version

    def _forget(self) -> None:
        """Keep the last version of each key: all left rows before the watermark have their answers."""
        kept = self.versions.kept
        if len(kept) <= 2 * self._rows_behind_last_look + _SPARE_VERSIONS:
            return
        last = np.full(len(self.index), -1, np.int64)
        last[kept.key.values] = np.arange(len(kept))  # of several writes the last counts
        useful = np.zeros(len(kept), np.bool_)
        useful[last[last >= 0]] = True
        if self.watermark_us != MAX_US:
            useful &= kept.time_us.values >= saturating_add(self.watermark_us, -min(self.tolerance_us, _FAR_US))
        self._number_anew(np.flatnonzero(useful))
        self._rows_behind_last_look = len(kept)

    def _number_anew(self, rows: RowNumbers) -> None:
        """Keep these versions, in this order."""
        kept = self.versions.kept
        self.versions.where.segments = []  # it is by their numbers that rows are looked for, and those change
        kept.keep(rows)
        self._forget_keys()
        if len(kept):
            numbers = np.arange(len(kept))
            self.versions.where.add(make_segment(kept.key.values, numbers, numbers))

    # --- questions ---

    def lookup(self, question: Question) -> Iterator[pa.RecordBatch]:
        """The versions that can still be asked for, those to come, and the left rows that wait for their answer."""
        yield from super().lookup(question)
        for port, waiting in enumerate(self.waiting):
            if port and self._spec.broadcast is not None and self.context.worker:
                return
            for run in waiting.runs:
                assert run.rows.keys is not None
                keys = Keys(run.rows.keys.distinct.rename_columns(self._on[0]), run.rows.keys.codes)
                rows = np.flatnonzero(question.rows_of(keys))
                for start in range(0, len(rows), ROWS_AT_ONCE):
                    some = run.rows.take(rows[start : start + ROWS_AT_ONCE])
                    assert some.keys is not None
                    picked = Picked(some.columns, np.arange(some.num_rows))
                    yield self.held_rows.columns(port, some.keys.columns(), picked, some.time_us)

    def _held(self, port: int, keys: IntArray | None) -> Iterator[RowNumbers]:
        """Of each key the version that holds at the watermark, which nothing before it can be asked for any more."""
        every = np.arange(len(self.index)) if keys is None else keys
        for start in range(0, len(every), ROWS_AT_ONCE):
            found = list(rows_of_keys(self.sides[port], every[start : start + ROWS_AT_ONCE]))
            if found:
                yield self._of_use(np.sort(np.concatenate(found)))

    def _of_use(self, rows: RowNumbers) -> RowNumbers:
        """Args:
        rows: versions of some keys, all that there are, in their order.
        """
        kept = self.versions.kept
        _, last = np.unique(kept.key.values[rows][::-1], return_index=True)
        useful = np.zeros(len(rows), np.bool_)
        useful[len(rows) - 1 - last] = True
        if self.watermark_us != MAX_US and self.tolerance_us < _FAR_US:
            useful &= kept.time_us.values[rows] >= self.watermark_us - self.tolerance_us
        return rows[useful]

    # --- checkpoints ---

    def _take_up(self, port: int, rows: SideRows, state: pa.RecordBatch) -> None:
        self.versions.kept.add(rows)

    def snapshot(self) -> list[Part]:
        waiting = [t for name, rows in zip(_WAITING, self.waiting, strict=True) for t in rows.snapshot(name)]
        return [*super().snapshot(), *waiting]

    def restore(self, tables: Sequence[StateTable]) -> None:
        super().restore(tables)
        self._put_in_order()
        for name, rows in zip(_WAITING, self.waiting, strict=True):
            rows.restore([t for t in tables if t.name == name])

    def _put_in_order(self) -> None:
        """Number the versions by time and position: several workers had them."""
        kept = self.versions.kept
        everything = np.arange(len(kept))
        position = kept.position.take(everything)
        if position is not None:
            self._number_anew(np.lexsort((position, kept.time_us.values)))

    def figures(self) -> dict[str, Any]:
        figures = super().figures()
        waiting = sum(w.rows for w in self.waiting)
        figures["state_bytes"] += sum(w.nbytes for w in self.waiting)
        return {**figures, "left_rows": self.waiting[0].rows, "waiting_rows": waiting}
