"""Panes: the results of windows on their way out.

A pane has the fields window_start, window_end, pane (its number in the window, from 0), timing, the key, and the
aggregates. Its event time is the window's last microsecond, so that a window of the same size further down puts
it where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.accumulators import AccumulatorSet, Column, concat, take
from millstream.batch import Array, Batch, IntArray, Keys, SignArray, index_array, make_columns
from millstream.keys import hash_keys
from millstream.operators.base import Context, Output
from millstream.queries import Question
from millstream.runs import unify_keys
from millstream.specs.base import MAIN
from millstream.specs.windows import RESERVED
from millstream.times import STAMP

PANE_ROWS: Final = 65_536

TimingArray = npt.NDArray[np.int8]

EARLY: Final = 0
ON_TIME: Final = 1
LATE: Final = 2
_TIMINGS: Final = ("early", "on_time", "late")


@dataclass(frozen=True, slots=True)
class Panes:
    """Some panes, as columns.

    Attributes:
        start_us, end_us: int64[n], the window of each.
        keys: the key of each.
        columns: the accumulators of what it holds.
        pane: int64[n], its number.
        timing: int8[n], `EARLY`, `ON_TIME` or `LATE`.
    """

    start_us: IntArray
    end_us: IntArray
    keys: Keys
    columns: list[Column]
    pane: IntArray
    timing: TimingArray

    def __len__(self) -> int:
        return len(self.pane)

    def take(self, rows: npt.NDArray[np.integer]) -> Panes:
        return Panes(
            self.start_us[rows], self.end_us[rows], self.keys.take(rows), [take(c, rows) for c in self.columns],
            self.pane[rows], self.timing[rows],
        )  # fmt: skip

    def slice(self, start: int, stop: int) -> Panes:
        part = slice(start, stop)
        return Panes(
            self.start_us[part], self.end_us[part], Keys(self.keys.distinct, self.keys.codes[part]),
            [c[part] for c in self.columns], self.pane[part], self.timing[part],
        )  # fmt: skip


def concat_panes(parts: Sequence[Panes]) -> Panes:
    if len(parts) == 1:
        return parts[0]
    return Panes(
        np.concatenate([p.start_us for p in parts]), np.concatenate([p.end_us for p in parts]),
        unify_keys([p.keys for p in parts]), [concat(c) for c in zip(*(p.columns for p in parts), strict=True)],
        np.concatenate([p.pane for p in parts]), np.concatenate([p.timing for p in parts]),
    )  # fmt: skip


@dataclass(slots=True)
class PaneWriter:
    """Makes batches of panes.

    Attributes:
        names: of the aggregates that the user asked for; accumulators may hold more behind them.
        with_position: whether something behind the operator depends on order.
    """

    context: Context
    names: Sequence[str]
    with_position: bool
    _fields: list[str] = field(default_factory=list)

    def write(self, panes: Panes, accumulators: AccumulatorSet, back: Panes | None = None) -> Iterator[Output]:
        """Put out panes.

        Args:
            back: the panes before, where they are taken back; not one for each, for windows grow together.
        """
        if accumulators.retractable:
            # Of a window that every row has been taken from nothing is said.
            panes = panes.take(np.flatnonzero(accumulators.left(panes.columns)))
            back = None if back is None else back.take(np.flatnonzero(accumulators.left(back.columns)))
        self.context.counters.panes += len(panes)
        sign: SignArray | None = None
        if back is not None:
            sign = np.repeat(np.array([-1, 1], np.int8), [len(back), len(panes)])
            panes = concat_panes([back, panes]) if len(back) else panes
        for start in range(0, len(panes), PANE_ROWS):
            part = panes if len(panes) <= PANE_ROWS else panes.slice(start, start + PANE_ROWS)
            yield MAIN, self.batch(part, accumulators, None if sign is None else sign[start : start + PANE_ROWS])

    def held(self, panes: Panes, accumulators: AccumulatorSet, question: Question) -> Iterator[pa.RecordBatch]:
        """What windows hold, as an answer: their bounds, keys and aggregates."""
        if question.at_us is not None:
            panes = panes.take(np.flatnonzero((panes.start_us <= question.at_us) & (question.at_us < panes.end_us)))
        if accumulators.retractable:
            panes = panes.take(np.flatnonzero(accumulators.left(panes.columns)))
        columns = self.batch(panes, accumulators, None).columns
        yield columns.select([n for n in columns.schema.names if n not in RESERVED[2:]])

    def batch(self, panes: Panes, accumulators: AccumulatorSet, sign: SignArray | None) -> Batch:
        keys = panes.keys.columns()
        arrays: list[Array] = [
            pa.array(panes.start_us).view(STAMP), pa.array(panes.end_us).view(STAMP), pa.array(panes.pane),
            timing_text(panes.timing), *keys, *accumulators.results(panes.columns)[: len(self.names)],
        ]  # fmt: skip
        names = [*RESERVED, *panes.keys.distinct.schema.names, *self.names]
        # Where panes are ordered again further down, ties of time go by key: for any number of workers the same.
        position = (hash_keys(keys) >> np.uint64(1)).view(np.int64) if self.with_position else None
        return Batch(make_columns(names, arrays), time_us=panes.end_us - 1, position=position, sign=sign)


def timing_text(timing: TimingArray) -> Array:
    """The field ``timing``; nearly always one word for all rows, of which a batch's worth is made only once."""
    if 0 < len(timing) <= PANE_ROWS and (timing == timing[0]).all():
        return _all_of(_TIMINGS[timing[0]]).slice(0, len(timing))
    return pa.array(_TIMINGS, pa.string()).take(index_array(timing))


@cache
def _all_of(timing: str) -> Array:
    return pa.repeat(pa.scalar(timing, pa.string()), PANE_ROWS)
