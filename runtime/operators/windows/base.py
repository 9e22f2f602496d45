"""What all windows of time have in common: accumulators, lateness, and when panes come early."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream import aggregates as ms
from millstream.accumulators import AccumulatorSet, Column
from millstream.accumulators.numeric import Count
from millstream.batch import Batch, BoolArray, IntArray, make_columns
from millstream.checkpoints.tables import StateTable
from millstream.evaluate import evaluate_all
from millstream.grouping import Groups
from millstream.operators.accumulator_tables import AccumulatorTables
from millstream.operators.aggregation import TypedAccumulators, input_columns, loaded_aggregates, row_order
from millstream.operators.base import Context, Operator, Output
from millstream.operators.lateness import with_reason
from millstream.operators.windows.panes import PaneWriter
from millstream.specs.base import LATE
from millstream.specs.keyed import Aggregates
from millstream.specs.triggers import Early, next_tick_us
from millstream.specs.windows import Accumulation, WindowAggregateSpec
from millstream.times import MAX_US, MIN_US, format_duration

FIRE_AGAIN_US: Final = 100_000
_ROWS: Final = "\0rows"
_CLOCK: Final = "clock"


class WindowOperator(Operator):
    """The base of the operators that aggregate over windows of time.

    Args:
        with_position: whether something behind this operator depends on order.
    """

    def __init__(self, spec: WindowAggregateSpec, context: Context, with_position: bool = False) -> None:
        super().__init__(context)
        self.spec = spec
        self.writer = PaneWriter(context, tuple(n for n, _ in spec.aggregates), with_position)
        aggregates = loaded_aggregates(kept_aggregates(spec))
        self.typed = TypedAccumulators(aggregates, context.name, retractable=spec.signed)
        self.tables = AccumulatorTables(self.typed)
        self.early = EarlyClock(spec.early or Early())
        self.discarding = spec.panes is Accumulation.DISCARDING
        self.retracts = spec.retracts
        # Firing late is the same as never firing early: "final" panes fire when the window expires.
        self.fire_delay_us = spec.allowed_lateness_us if spec.final_only else 0
        self.keeps_fired = spec.allowed_lateness_us > 0 and not spec.final_only
        self.watermark_us = MIN_US

    def timed(self, batch: Batch) -> Batch:
        """The batch with the times that windows go by."""
        if self.spec.event_time:
            return batch
        return replace(batch, time_us=np.full(batch.num_rows, self.context.now_us()))

    def judged_by(self, batch: Batch) -> IntArray | None:
        """The watermark that each row is judged by, or None when no row is at or behind it.

        After idleness this operator may be ahead of the row's own partition; then its own watermark counts.
        """
        assert batch.time_us is not None
        if batch.before_us is not None:
            return np.maximum(batch.before_us, self.watermark_us)
        if batch.num_rows and int(batch.time_us.min()) <= self.watermark_us:
            return np.full(batch.num_rows, self.watermark_us)
        return None

    def overdue(self, batch: Batch, watermark_us: IntArray) -> BoolArray:
        """The rows that are behind their watermark by more than the allowed lateness: only they can be late."""
        assert batch.time_us is not None
        lateness_us = self.spec.allowed_lateness_us
        if lateness_us == MAX_US:
            return np.zeros(batch.num_rows, np.bool_)
        mask: BoolArray = watermark_us > batch.time_us + lateness_us
        return mask

    def late(self, rows: Batch, watermark_us: IntArray, end_us: IntArray, window: str) -> Iterator[Output]:
        """Put out late rows.

        Args:
            watermark_us: what each was judged by.
            end_us: the end of the last window that each could have been in.
        """
        lateness_us = self.spec.allowed_lateness_us
        self.context.too_late(rows, watermark_us, end_us + lateness_us)
        if LATE not in self.context.wanted:
            return
        plus = f" plus the allowed lateness of {format_duration(lateness_us)}" if lateness_us else ""
        yield LATE, with_reason(rows, watermark_us, f"the end of its {window}{plus}", end_us + lateness_us)

    def reduce(self, batch: Batch, groups: Groups, accumulators: AccumulatorSet) -> list[Column]:
        """Accumulator columns of rows, one row for each group."""
        inputs = evaluate_all(accumulators.inputs, input_columns(batch, accumulators))
        return accumulators.partial(inputs, groups, row_order(batch, accumulators), batch.sign)

    # --- checkpoints ---

    def clock_table(self, *marks_us: int) -> list[StateTable]:
        """How far this worker's windows have come: times that mean the same for all its keys."""
        marks = [pa.array([us], pa.int64()) for us in (self.watermark_us, *marks_us)]
        return [StateTable(_CLOCK, None, make_columns([str(n) for n in range(len(marks))], marks))]

    def restored_clock(self, tables: Sequence[StateTable]) -> list[int]:
        """The least of what the clocks of all former workers said."""
        clocks = [[int(c[0].as_py()) for c in t.columns.columns] for t in tables if t.name == _CLOCK]
        return [min(marks) for marks in zip(*clocks, strict=True)]

    def held_back_us(self) -> int:
        return self.spec.allowed_lateness_us if self.retracts else self.fire_delay_us


def kept_aggregates(spec: WindowAggregateSpec) -> Aggregates:
    """What is aggregated: what the user asked for, and what the operator wants to know beside it."""
    return spec.aggregates if spec.early is None else (*spec.aggregates, (_ROWS, ms.count()))


class EarlyClock:
    """When panes are due before the ends of their windows.

    Attributes:
        rows: how many rows since the last pane make one due; None: no number does.
        tick_us: the processing time at which windows that have changed put out a pane; None: nothing has changed.
    """

    def __init__(self, early: Early) -> None:
        self._early = early
        self.rows = early.rows
        self.tick_us: int | None = None

    def changed(self, now_us: int) -> None:
        """Some window has changed."""
        if self.tick_us is None and self._early.clock_us:
            self.tick_us = next_tick_us(self._early.clock_us, now_us)

    def ticks(self, now_us: int) -> bool:
        """Whether the time has come; then it has also gone."""
        if self.tick_us is None or now_us < self.tick_us:
            return False
        self.tick_us = None
        return True

    def passes(self, before_us: int, watermark_us: int) -> bool:
        """Whether panes are due between two watermarks."""
        if watermark_us == MAX_US:
            return False
        return any(watermark_us // us > before_us // us for us in self._early.event_us)


def row_counts(accumulators: AccumulatorSet, columns: list[Column]) -> npt.NDArray[np.int64]:
    """How many rows each group of an operator with early panes has."""
    at = 0
    for part in accumulators.parts:
        if part == Count(None):
            break
        at += part.width
    counts: npt.NDArray[np.int64] = np.asarray(columns[at])
    return counts


def soonest(*times_us: int | None) -> int | None:
    return min((t for t in times_us if t is not None), default=None)
