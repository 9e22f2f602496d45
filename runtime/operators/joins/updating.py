"""Joins without windows: rows of one key match whenever they come.

Each row meets what the other side has kept and is kept itself, so every pair is found once, by the later of
the two to come. A row without a match, where its side is kept, comes out at once, and is taken back when a match
comes; it comes back when its last match is taken back. With a time to live, rows match only while their
event times are at most so far apart, and state can be given up; without one it grows for ever.

With ``emit="final"`` rows without a match wait instead, until none can come any more, and nothing is ever taken back.

A side whose rows take earlier ones back (a changelog) is understood: a row that is taken back takes back what
came of it. The results of a batch are the product of its rows with the other side, signs multiplied.

With a time to live, a row is late when its time is more than that behind the watermark of its partition. Rows
that are not can meet what is up to twice as old, and so long rows are kept: the answer is the same for any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, BoolArray, IntArray, SignArray
from millstream.operators.base import Context, Output
from millstream.operators.joins.base import JoinOperator
from millstream.operators.joins.content import content_hash, rows_to_take_back
from millstream.operators.joins.output import Beside, Picked, latest, mixed, watermark_of
from millstream.operators.joins.rows import RowNumbers, SideRows
from millstream.operators.joins.sides import MATCHES, Side
from millstream.operators.joins.sorted_rows import Found, make_segment, pairs_of
from millstream.operators.joins.tables import numbers_in
from millstream.specs.base import MAIN
from millstream.specs.joins import JoinKind, UpdatingJoinSpec
from millstream.times import MAX_US, MIN_US, saturating_add

_FAR_US: Final = 1 << 61
"""Sums of two times within this are no overflow."""


@dataclass(frozen=True, slots=True)
class _Changed:
    """Rows that are kept, and how many matches each had before a batch and has behind it."""

    row: RowNumbers
    before: IntArray
    behind: IntArray

    @property
    def first_match(self) -> RowNumbers:
        rows: RowNumbers = self.row[(self.before == 0) & (self.behind > 0)]
        return rows

    @property
    def last_match_gone(self) -> RowNumbers:
        rows: RowNumbers = self.row[(self.before > 0) & (self.behind == 0)]
        return rows


class UpdatingJoin(JoinOperator):
    def __init__(self, spec: UpdatingJoinSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(spec, context, with_position)
        self.ttl_us = spec.ttl_us
        self.waits = spec.waits
        self.signed = any(spec.retracts) or (not self.waits and (spec.how.keeps(0) or spec.how.keeps(1)))
        # Whether rows of a side come out without the other, so that their matches have to be counted.
        self.comes_out_alone = (self.how.keeps(0) or self.how is JoinKind.SEMI, self.how.keeps(1))
        # Where only left rows come out and nothing is taken back, one right row of a key says all, and a left row
        # that has met it is done with.
        self.once = not self.how.pairs and not any(spec.retracts) and spec.ttl_us is None
        sides = [
            Side(context.name, counts_matches=alone, retracts=retracts)
            for alone, retracts in zip(self.comes_out_alone, spec.retracts, strict=True)
        ]
        self.sides = (sides[0], sides[1])

    # --- input ---

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        batch = self._keyed(batch, port)
        if self.ttl_us is not None:
            behind_us = self._behind(batch)
            if behind_us is not None:
                assert batch.time_us is not None
                late = batch.time_us < np.maximum(behind_us, -_FAR_US) - self.ttl_us
                if late.any():
                    passed = batch.where(late)
                    assert passed.time_us is not None
                    limit_us = passed.time_us + self.ttl_us
                    yield from self._late(passed, port, behind_us[late], "its time and the time to live", limit_us)
                    batch = batch.where(~late)
        rows, alone = self._without_key(batch, self._rows(batch, port), port)
        if alone is not None:
            yield from self._alone(alone, port)
        if self.once and port == 1:
            rows = self._of_new_keys(rows)
        if len(rows):
            rows, numbers = self._keep(rows, self.sides[port])
            yield from self._join(rows, numbers, port)
            gone = [side.forget_gone() for side in self.sides]
            if any(gone):
                self._forget_keys()

    def _of_new_keys(self, rows: SideRows) -> SideRows:
        """One row of each key that this side has not shown yet."""
        key, first = np.unique(rows.key, return_index=True)
        known = np.zeros(len(key), np.bool_)
        for found in self.sides[1].where.find(key, None, None):
            known |= found.count > 0
        return rows.take(np.sort(first[~known]))

    def _keep(self, rows: SideRows, side: Side) -> tuple[SideRows, RowNumbers]:
        """Keep rows, and let go of those that are taken back.

        Returns:
            The rows, without those that take back what is not there (any more), and the number of each where it is
            or was kept; what takes a row back has its time.
        """
        if rows.sign is None or side.content is None:
            return rows, self._add(rows, side)
        minus = rows.sign < 0
        numbers = np.empty(len(rows), np.int64)
        numbers[~minus] = self._add(rows.where(~minus), side)
        if not minus.any():
            return rows, numbers
        back = rows.where(minus)
        found = rows_to_take_back(back.key, content_hash(back.columns.columns, len(back)), side.content, side.kept)
        numbers[minus] = found
        side.kept.remove(found[found >= 0])
        there = numbers >= 0
        rows, numbers, kept = rows.where(there), numbers[there], side.kept
        return (
            replace(
                rows,
                time_us=None if rows.time_us is None else kept.time_us.values[numbers],
                before_us=kept.before_us.take(numbers),
                position=kept.position.take(numbers),
            ),
            numbers,
        )

    def _add(self, rows: SideRows, side: Side) -> RowNumbers:
        if not len(rows):
            return np.zeros(0, np.int64)
        numbers = side.kept.add(rows)
        side.where.add(make_segment(rows.key, rows.time_us if self.ttl_us is not None else None, numbers))
        if side.content is not None:
            side.content.add(make_segment(rows.key, content_hash(rows.columns.columns, len(rows)), numbers))
        if rows.time_us is not None:
            side.seen(rows.time_us)
        return numbers

    # --- matching ---

    def _join(self, rows: SideRows, numbers: RowNumbers, port: int) -> Iterator[Output]:
        founds = self._find(rows, port)
        mine, theirs = self.sides[port], self.sides[1 - port]
        changed: _Changed | None = None
        if self.comes_out_alone[1 - port]:
            changed = self._count(rows, founds, theirs)
            yield from self._turned(changed, 1 - port, met=True)
        matches = self._matches(rows, founds, theirs) if self.comes_out_alone[port] else None
        if matches is not None:
            mine.kept.matches.values[numbers] = matches
            met = matches > 0
            comes_out = met if self.how is JoinKind.SEMI else ~met
            if self.waits:
                self._wait(self.sides[port], numbers[comes_out])
            else:
                yield from self._kept_alone(port, numbers[comes_out], self._sign_of(rows, comes_out))
            if self.once:
                mine.kept.remove(numbers[met])
        if self.how.pairs:
            for query, others in pairs_of(founds):
                yield from self._pairs(rows, query, others, port)
        if changed is not None:
            yield from self._turned(changed, 1 - port, met=False)

    def _find(self, rows: SideRows, port: int) -> list[Found]:
        """What each row meets on the other side."""
        theirs = self.sides[1 - port].where
        if not theirs.segments or not len(rows):
            return []
        if self.ttl_us is None:
            key, of_row = np.unique(rows.key, return_inverse=True)
            return [Found(f.row, f.start[of_row], f.count[of_row]) for f in theirs.find(key, None, None)]
        assert rows.time_us is not None
        order = np.lexsort((rows.time_us, rows.key))
        time_us = np.clip(rows.time_us[order], -_FAR_US, _FAR_US)
        result: list[Found] = []
        for found in theirs.find(rows.key[order], time_us - self.ttl_us, time_us + self.ttl_us):
            start, count = np.empty_like(found.start), np.empty_like(found.count)
            start[order], count[order] = found.start, found.count
            result.append(Found(found.row, start, count))
        return result

    def _matches(self, rows: SideRows, founds: Sequence[Found], theirs: Side) -> IntArray:
        """How many rows of the other side each row meets."""
        matches = np.zeros(len(rows), np.int64)
        for found in founds:
            if not theirs.kept.gone_count:
                matches += found.count
                continue
            for query, others in found.pairs():
                np.add.at(matches, query[~theirs.kept.gone.values[others]], 1)
        return matches

    def _count(self, rows: SideRows, founds: Sequence[Found], theirs: Side) -> _Changed:
        """Count these rows among the matches of those that they meet."""
        row: list[IntArray] = [np.zeros(0, np.int64)]
        more: list[IntArray] = [np.zeros(0, np.int64)]
        for query, others in pairs_of(founds):
            met, of_pair = np.unique(others, return_inverse=True)
            change = np.zeros(len(met), np.int64)
            np.add.at(change, of_pair, 1 if rows.sign is None else rows.sign[query])
            row.append(met)
            more.append(change)
        met, of_part = np.unique(np.concatenate(row), return_inverse=True)
        change = np.zeros(len(met), np.int64)
        np.add.at(change, of_part, np.concatenate(more))
        there = ~theirs.kept.gone.values[met]
        met, change = met[there], change[there]
        before = theirs.kept.matches.values[met]
        theirs.kept.matches.values[met] = before + change
        return _Changed(met, before, before + change)

    # --- results ---

    def _turned(self, changed: _Changed, side: int, *, met: bool) -> Iterator[Output]:
        """Rows that are kept have met their first match, or lost their last: what they were alone changes."""
        rows = changed.first_match if met else changed.last_match_gone
        if not len(rows):
            return
        if not self.waits:
            plus = met == (self.how is JoinKind.SEMI)
            sign = np.full(len(rows), 1 if plus else -1, np.int8) if self.signed else None
            yield from self._kept_alone(side, rows, sign)
        if self.once:
            self.sides[side].kept.remove(rows)

    def _sign_of(self, rows: SideRows, mask: BoolArray) -> SignArray | None:
        return None if rows.sign is None else rows.sign[mask]

    def _pairs(self, rows: SideRows, mine: IntArray, others: RowNumbers, port: int) -> Iterator[Output]:
        kept = self.sides[1 - port].kept
        if kept.gone_count:
            there = ~kept.gone.values[others]
            mine, others = mine[there], others[there]
        if not len(mine):
            return
        picked = Picked(rows.columns, mine), Picked(kept.columns, others)
        left, right = picked if port == 0 else picked[::-1]
        time_us, before_us, position = None, None, None
        if rows.time_us is not None:
            time_us = latest(rows.time_us[mine], kept.time_us.values[others])
            mine_before = None if rows.before_us is None else rows.before_us[mine]
            before_us = watermark_of(mine_before, kept.before_us.take(others))
        if self.with_position and rows.position is not None:
            positions = rows.position[mine], kept.position.take(others)
            position = mixed(*(positions if port == 0 else positions[::-1]))
        sign = None if rows.sign is None else rows.sign[mine]
        keys = self.output.keys(rows.key[mine])
        yield MAIN, self.output.batch(keys, left, right, Beside(time_us, before_us, position, sign))

    # --- time ---

    def on_watermark(self, watermark_us: int) -> Iterator[Output]:
        if watermark_us <= self.watermark_us:
            return
        self.watermark_us = watermark_us
        limit_us = self._limit_us(0)  # the same for both sides
        if limit_us == MIN_US:
            return
        if self.waits:
            for port, side in enumerate(self.sides):
                due = side.due.take_before(limit_us)
                yield from self._kept_alone(port, due[side.kept.matches.values[due] == 0])
        gone = [side.forget_before(limit_us) for side in self.sides]
        if any(gone):
            self._forget_keys()

    def _limit_us(self, port: int) -> int:
        if self.watermark_us == MAX_US:
            return MAX_US
        return MIN_US if self.ttl_us is None else saturating_add(self.watermark_us, -2 * self.ttl_us)

    def _wait(self, side: Side, rows: RowNumbers) -> None:
        """Rows that have met nothing come out when they can meet nothing any more."""
        side.due.add(side.kept.time_us.values[rows], rows)

    def held_back_us(self) -> int:
        if not self.waits:
            return 0
        return MAX_US if self.ttl_us is None else 2 * self.ttl_us

    # --- checkpoints ---

    def _take_up(self, port: int, rows: SideRows, state: pa.RecordBatch) -> None:
        side = self.sides[port]
        numbers = self._add(rows, side)
        matches = numbers_in(state, MATCHES)
        if matches is not None:
            side.kept.matches.values[numbers] = matches
            if self.waits:
                self._wait(side, numbers[matches == 0])
