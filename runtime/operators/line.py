"""Rows that wait for their place on the line of event time, late ones too.

Other than `InOrder` this loses no row: a late one, whose time is before the watermark of its own source partition
just before it, stands where that watermark was. That place is at or ahead of every watermark that the operator has
had by then, so it does not depend on how the stream was cut or on the other partitions (unless one was idle; then
what has passed has passed, and the row stands at the operator's own watermark).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from millstream.batch import Batch, IntArray
from millstream.checkpoints.tables import StateTable
from millstream.operators.ordering import RUNS_KEPT, WaitingRun, compacted, take_before, together
from millstream.operators.row_tables import fields_in, numbered_rows
from millstream.runs import first_small
from millstream.times import MIN_US

_NOTHING: Final[IntArray] = np.zeros(0, np.int64)


def place_us(batch: Batch) -> IntArray | None:
    """Where each row stands: its time, or the watermark that it missed; None where there is no event time."""
    if batch.time_us is None or batch.before_us is None:
        return batch.time_us
    return np.maximum(batch.time_us, batch.before_us)


class Line:
    """The rows of one input that wait.

    Attributes:
        runs: by place, then time, then position.
    """

    def __init__(self) -> None:
        self.runs: list[WaitingRun] = []

    def add(self, batch: Batch, watermark_us: int) -> None:
        if batch.num_rows == 0:
            return
        at_us = place_us(batch)
        assert at_us is not None
        if int(at_us.min()) < watermark_us:
            at_us = np.maximum(at_us, watermark_us)
        self.runs.append(_sorted(at_us, batch))
        if len(self.runs) > RUNS_KEPT:
            small = first_small([len(run) for run in self.runs])
            merged = _merged(self.runs[small:])
            self.runs[small:] = [replace(merged, rows=compacted(merged.rows))]

    def due(self, watermark_us: int) -> tuple[Batch | None, IntArray]:
        """Give out the rows that stand before ``watermark_us``, in order, and where each stands."""
        ready, self.runs = take_before(self.runs, watermark_us)
        if not ready:
            return None, _NOTHING
        merged = _merged(ready)
        return merged.rows, merged.place_us

    def snapshot(self, name: str) -> list[StateTable]:
        """What waits, a table for each run."""
        return [_as_table(name, run) for run in self.runs]

    def restore(self, table: StateTable) -> None:
        """Take what waited in a line before."""
        if table.num_rows:
            at_us, waited = _from_table(table)
            run = _sorted(at_us, waited)
            self.runs.append(replace(run, saved=table.saved, first=table.first) if run.rows is waited else run)

    @property
    def rows(self) -> int:
        return sum(map(len, self.runs))


_BESIDE: Final = ("place_us", "time_us", "before_us", "position")


def _as_table(name: str, run: WaitingRun) -> StateTable:
    rows = run.rows
    before_us = np.full(len(run), MIN_US) if rows.before_us is None else rows.before_us
    assert rows.time_us is not None and rows.position is not None
    numbers = (run.place_us, rows.time_us, before_us, rows.position)
    columns = numbered_rows(dict(zip(_BESIDE, numbers, strict=True)), rows.columns)
    return StateTable(name, rows.keys, columns, run.saved, run.first)


def _from_table(table: StateTable) -> tuple[IntArray, Batch]:
    at_us, time_us, before_us, position = (table.columns.column(n).to_numpy() for n in _BESIDE)
    late = bool((before_us > MIN_US).any())
    return at_us, Batch(fields_in(table.columns), time_us, before_us if late else None, position, table.keys)


def _merged(runs: list[WaitingRun]) -> WaitingRun:
    if len(runs) == 1:
        return runs[0]
    return _sorted(np.concatenate([run.place_us for run in runs]), together([run.rows for run in runs]))


def _sorted(at_us: IntArray, batch: Batch) -> WaitingRun:
    time_us, position = batch.time_us, batch.position
    assert time_us is not None and position is not None
    if (at_us[1:] > at_us[:-1]).all():
        return WaitingRun(at_us, batch)
    order = np.lexsort((position, time_us, at_us))
    sorted_already = bool((order[1:] > order[:-1]).all())
    return WaitingRun(at_us, batch) if sorted_already else WaitingRun(at_us[order], batch.take(order))
