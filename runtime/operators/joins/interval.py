"""Interval joins: pairs of one key whose event times are close, in the one direction and the other.

A right row at s matches a left row at t when t + lower <= s <= t + upper. Whichever of the two comes later
finds the other, so the result does not depend on who came first. A row with time < watermark is late.

A left row at t is of use while right rows up to t + upper may come, that is until the watermark is past t + upper;
a right row at s until it is past s - lower. Then a row that met nothing comes out alone, where its side is kept:
it is older than the watermark by as much, and so the operator holds its outgoing watermark back by as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, BoolArray, IntArray
from millstream.operators.base import Context, Output
from millstream.operators.joins.base import JoinOperator
from millstream.operators.joins.output import Beside, Picked, latest, mixed
from millstream.operators.joins.rows import RowNumbers, SideRows
from millstream.operators.joins.sides import MATCHES, Side
from millstream.operators.joins.sorted_rows import Segment, make_segment, pairs_of
from millstream.operators.joins.tables import numbers_in
from millstream.specs.base import MAIN
from millstream.specs.joins import IntervalJoinSpec, JoinKind
from millstream.times import saturating_add

_FAR_US: Final = 1 << 61
"""Sums of two times within this are no overflow."""


class IntervalJoin(JoinOperator):
    def __init__(self, spec: IntervalJoinSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        self.lower_us = max(spec.lower_us, -_FAR_US)
        self.upper_us = min(spec.upper_us, _FAR_US)
        # How long after its time a row may be matched; negative: only by rows of an earlier time.
        self.reach_us = (self.upper_us, -self.lower_us)
        self.comes_out_alone = (self.how.keeps(0) or self.how is JoinKind.SEMI, self.how.keeps(1))
        sides = [Side(context.name, counts_matches=alone) for alone in self.comes_out_alone]
        self.sides = (sides[0], sides[1])

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
            batch = replace(batch, before_us=None)
        rows, alone = self._without_key(batch, self._rows(batch, port), port)
        if alone is not None:
            yield from self._alone(alone, port)
        if len(rows):
            yield from self._join(rows, port)

    def _join(self, rows: SideRows, port: int) -> Iterator[Output]:
        assert rows.time_us is not None
        mine, theirs = self.sides[port], self.sides[1 - port]
        segment = make_segment(rows.key, rows.time_us, np.arange(len(rows)))
        numbers = mine.kept.add(rows)
        mine.where.add(replace(segment, row=segment.row + numbers[0]))
        mine.seen(rows.time_us)
        founds = list(theirs.where.find(segment.key, *self._span(segment, port)))
        for query, others in pairs_of(founds):
            if self.comes_out_alone[1 - port]:
                yield from self._first_match(others, 1 - port)
            if self.how.pairs:
                yield self._pairs(rows, segment.row[query], others, port)
        if self.comes_out_alone[port]:
            met = np.zeros(len(rows), np.bool_)
            for found in founds:
                met[segment.row[found.count > 0]] = True
            mine.kept.matches.values[numbers] = met
            mine.due.add(rows.time_us[~met], numbers[~met])
            if self.how is JoinKind.SEMI:
                yield from self._kept_alone(port, numbers[met])

    def _span(self, segment: Segment, port: int) -> tuple[IntArray, IntArray]:
        """The times that match, on the other side, each row of this one."""
        assert segment.time_us is not None
        time_us = np.clip(segment.time_us, -_FAR_US, _FAR_US)
        if port == 0:
            return time_us + self.lower_us, time_us + self.upper_us
        return time_us - self.upper_us, time_us - self.lower_us

    def _first_match(self, rows: RowNumbers, side: int) -> Iterator[Output]:
        """Rows that are kept have met one of the other side."""
        matches = self.sides[side].kept.matches.values
        if self.how is JoinKind.SEMI:
            yield from self._kept_alone(side, np.unique(rows[matches[rows] == 0]))
        matches[rows] = 1

    def _pairs(self, rows: SideRows, mine: IntArray, others: RowNumbers, port: int) -> tuple[str, Batch]:
        kept = self.sides[1 - port].kept
        picked = Picked(rows.columns, mine), Picked(kept.columns, others)
        left, right = picked if port == 0 else picked[::-1]
        time_us = None if rows.time_us is None else rows.time_us[mine]
        position = None
        if self.with_position and rows.position is not None:
            positions = rows.position[mine], kept.position.take(others)
            position = mixed(*(positions if port == 0 else positions[::-1]))
        beside = Beside(latest(time_us, kept.time_us.values[others]), None, position)
        return MAIN, self.output.batch(self.output.keys(rows.key[mine]), left, right, beside)

    # --- time ---

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if watermark_us <= self.watermark_us:
            return
        self.watermark_us = watermark_us
        gone = False
        for number, side in enumerate(self.sides):
            limit_us = self._limit_us(number)
            if self.comes_out_alone[number]:
                due = side.due.take_before(limit_us)
                if self.how is not JoinKind.SEMI:
                    unmatched: BoolArray = side.kept.matches.values[due] == 0
                    yield from self._kept_alone(number, due[unmatched])
            gone |= side.forget_before(limit_us)
        if gone:
            self._forget_keys()

    def _limit_us(self, port: int) -> int:
        return saturating_add(self.watermark_us, -self.reach_us[port])

    def held_back_us(self) -> int:
        return max(
            (max(0, r) for r, alone in zip(self.reach_us, self.comes_out_alone, strict=True) if alone), default=0
        )

    # --- checkpoints ---

    def _take_up(self, port: int, rows: SideRows, state: pa.RecordBatch) -> None:
        assert rows.time_us is not None
        side = self.sides[port]
        numbers = side.kept.add(rows)
        side.where.add(make_segment(rows.key, rows.time_us, numbers))
        side.seen(rows.time_us)
        matches = numbers_in(state, MATCHES)
        if matches is not None:
            side.kept.matches.values[numbers] = matches
            side.due.add(rows.time_us[matches == 0], numbers[matches == 0])
