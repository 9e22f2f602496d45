"""The gap that follows each row of a session: one for all, or what an expression says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, BoolArray, IntArray
from millstream.evaluate import evaluate_rows
from millstream.grouping import raw_values, valid_mask
from millstream.operators.base import Context
from millstream.operators.columnar import row_text
from millstream.specs.windows import SessionWindows

_UNIT_US: Final = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True, slots=True)
class WithGaps:
    """Rows with the gap that follows each; one gap for all where that is fixed."""

    rows: Batch
    gap_us: int | IntArray

    @property
    def end_us(self) -> IntArray:
        assert self.rows.time_us is not None
        ends: IntArray = self.rows.time_us + self.gap_us
        return ends

    def where(self, mask: BoolArray) -> WithGaps:
        return WithGaps(self.rows.where(mask), self.gap_us if isinstance(self.gap_us, int) else self.gap_us[mask])


class Gaps:
    """Gives rows their gaps; those that have none go to the dead letters."""

    def __init__(self, windows: SessionWindows, context: Context) -> None:
        self.windows = windows
        self.context = context

    def __call__(self, batch: Batch) -> WithGaps:
        gap = self.windows.gap
        if isinstance(gap, int):
            return WithGaps(batch, gap)
        columns = batch.all_columns()
        values, failures = evaluate_rows(gap, columns)
        self.windows.check_type(self.context.name, values.type)
        gap_us, missing = _microseconds(values)
        bad = dict(failures)
        for row in np.flatnonzero(missing | (gap_us <= 0)).tolist():
            found = "missing" if missing[row] else f"{gap_us[row]} microseconds"
            bad.setdefault(row, f"the gap {gap} is {found}; expected a duration above zero")
        if not bad:
            return WithGaps(batch, gap_us)
        for row, reason in sorted(bad.items()):
            self.context.reject(reason, row_text(columns, row))
        keep = np.ones(batch.num_rows, np.bool_)
        keep[list(bad)] = False
        return WithGaps(batch.where(keep), gap_us[keep])


def _microseconds(values: Array) -> tuple[IntArray, BoolArray]:
    """Gaps as whole microseconds, and which are missing."""
    valid = valid_mask(values)
    missing = np.zeros(len(values), np.bool_) if valid is None else ~valid
    if pa.types.is_null(values.type):
        return np.zeros(len(values), np.int64), np.ones(len(values), np.bool_)
    numbers = raw_values(values).astype(np.int64)
    if pa.types.is_duration(values.type):
        unit = values.type.unit
        numbers = numbers // 1_000 if unit == "ns" else numbers * _UNIT_US[unit]
    return np.where(missing, 0, numbers), missing
