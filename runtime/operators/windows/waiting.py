"""Overdue rows of sessions until it is their turn (see overdue.py): when their own watermark has been passed."""

from __future__ import annotations

from typing import Final

import numpy as np

from millstream.batch import Batch
from millstream.checkpoints.tables import StateTable
from millstream.operators.ordering import together
from millstream.operators.row_tables import fields_in, numbered_rows
from millstream.times import MAX_US

_NOTES: Final = ("time_us", "before_us", "position")


class WaitingRows:
    """Rows with the watermark that each is judged by, in ``before_us``."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []

    def __len__(self) -> int:
        return sum(b.num_rows for b in self._batches)

    def add(self, rows: Batch) -> None:
        self._batches.append(rows)

    def any_ready(self, watermark_us: int) -> bool:
        return any(int(b.before_us.min()) < watermark_us for b in self._batches if b.before_us is not None)

    def take_ready(self, watermark_us: int) -> Batch | None:
        """The rows whose watermark has been passed, in the order of (watermark, position)."""
        if not self._batches:
            return None
        waiting = together(self._batches)
        assert waiting.before_us is not None
        ready = waiting.before_us < watermark_us
        if watermark_us == MAX_US:
            ready[:] = True
        self._batches = [] if ready.all() else [waiting.where(~ready)]
        if not ready.any():
            return None
        rows = waiting.where(ready)
        assert rows.before_us is not None
        if rows.position is None:
            return rows.take(np.argsort(rows.before_us, kind="stable"))
        return rows.take(np.lexsort((rows.position, rows.before_us)))

    # --- checkpoints ---

    def tables(self, name: str) -> list[StateTable]:
        return [_as_table(name, rows) for rows in self._batches]

    def restore(self, table: StateTable) -> None:
        """Wait with the rows of such a table, too."""
        time_us, before_us, position = (table.columns.column(n).to_numpy() for n in _NOTES)
        self.add(Batch(fields_in(table.columns), time_us, before_us, position, table.keys))

    @property
    def nbytes(self) -> int:
        return sum(b.nbytes for b in self._batches)


def _as_table(name: str, rows: Batch) -> StateTable:
    assert rows.time_us is not None and rows.before_us is not None
    position = np.zeros(rows.num_rows, np.int64) if rows.position is None else rows.position
    notes = dict(zip(_NOTES, (rows.time_us, rows.before_us, position), strict=True))
    return StateTable(name, rows.keys, numbered_rows(notes, rows.columns))
