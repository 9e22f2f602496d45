"""Rows that wait for their place on the line of event time, late ones too.

Other than `InOrder` this loses no row: a late one, whose time is before the watermark of its own source partition
just before it, stands where that watermark was. That place is at or ahead of every watermark that the operator has
had by then, so it does not depend on how the stream was cut or on the other partitions (unless one was idle; then
what has passed has passed, and the row stands at the operator's own watermark).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from millstream.batch import Batch, IntArray
from millstream.checkpoints.tables import StateTable
from millstream.operators.ordering import compacted, together
from millstream.operators.row_tables import fields_in, numbered_rows
from millstream.times import MIN_US

_RUNS_KEPT: Final = 32
_NOTHING: Final[IntArray] = np.zeros(0, np.int64)


def place_us(batch: Batch) -> IntArray | None:
    """Where each row stands: its time, or the watermark that it missed; None where there is no event time."""
    if batch.time_us is None or batch.before_us is None:
        return batch.time_us
    return np.maximum(batch.time_us, batch.before_us)


class Line:
    """The rows of one input that wait.

    Attributes:
        runs: (where each row stands, rows) by place, then time, then position.
    """

    def __init__(self) -> None:
        self.runs: list[tuple[IntArray, Batch]] = []

    def add(self, batch: Batch, watermark_us: int) -> None:
        if batch.num_rows == 0:
            return
        at_us = place_us(batch)
        assert at_us is not None
        if int(at_us.min()) < watermark_us:
            at_us = np.maximum(at_us, watermark_us)
        self.runs.append(_sorted(at_us, batch))
        if len(self.runs) > _RUNS_KEPT:
            at_us, rows = _merged(self.runs)
            self.runs = [(at_us, compacted(rows))]

    def due(self, watermark_us: int) -> tuple[Batch | None, IntArray]:
        """Give out the rows that stand before ``watermark_us``, in order, and where each stands."""
        ready: list[tuple[IntArray, Batch]] = []
        left: list[tuple[IntArray, Batch]] = []
        for at_us, rows in self.runs:
            cut = int(np.searchsorted(at_us, watermark_us))
            if cut:
                ready.append((at_us[:cut], rows.slice(0, cut)))
            if cut < len(at_us):
                left.append((at_us[cut:], rows.slice(cut, len(at_us) - cut)))
        self.runs = left
        if not ready:
            return None, _NOTHING
        at_us, rows = _merged(ready)
        return rows, at_us

    def snapshot(self, name: str) -> list[StateTable]:
        """What waits, a table for each run."""
        return [_as_table(name, at_us, rows) for at_us, rows in self.runs]

    def restore(self, table: StateTable) -> None:
        """Take what waited in a line before."""
        if table.num_rows:
            self.runs.append(_sorted(*_from_table(table)))

    @property
    def rows(self) -> int:
        return sum(len(at_us) for at_us, _ in self.runs)


_BESIDE: Final = ("place_us", "time_us", "before_us", "position")


def _as_table(name: str, at_us: IntArray, rows: Batch) -> StateTable:
    before_us = np.full(len(at_us), MIN_US) if rows.before_us is None else rows.before_us
    assert rows.time_us is not None and rows.position is not None
    numbers = (at_us, rows.time_us, before_us, rows.position)
    return StateTable(name, rows.keys, numbered_rows(dict(zip(_BESIDE, numbers, strict=True)), rows.columns))


def _from_table(table: StateTable) -> tuple[IntArray, Batch]:
    at_us, time_us, before_us, position = (table.columns.column(n).to_numpy() for n in _BESIDE)
    late = bool((before_us > MIN_US).any())
    return at_us, Batch(fields_in(table.columns), time_us, before_us if late else None, position, table.keys)


def _merged(runs: list[tuple[IntArray, Batch]]) -> tuple[IntArray, Batch]:
    if len(runs) == 1:
        return runs[0]
    return _sorted(np.concatenate([at_us for at_us, _ in runs]), together([rows for _, rows in runs]))


def _sorted(at_us: IntArray, batch: Batch) -> tuple[IntArray, Batch]:
    time_us, position = batch.time_us, batch.position
    assert time_us is not None and position is not None
    if bool((at_us[1:] > at_us[:-1]).all()):
        return at_us, batch
    order = np.lexsort((position, time_us, at_us))
    return at_us[order], batch.take(order)
