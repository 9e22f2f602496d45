"""One side of a join as an operator keeps it: the rows that may still be matched, and where they are."""

from __future__ import annotations

from typing import Final

import numpy as np

from millstream.batch import BoolArray, IntArray
from millstream.operators.joins.rows import KeptRows
from millstream.operators.joins.sorted_rows import DueRows, SortedRows
from millstream.times import MIN_US

MATCHES: Final = "matches"
_CHECK_ROWS: Final = 4_096


class Side:
    """The rows of one input that may still be matched.

    Attributes:
        where: where the rows of a key are.
        content: where the rows of a key and content are, if rows of this side may be taken back; else None.
        due: the rows that come out when no match can come any more, by time.
    """

    def __init__(self, where: str, *, counts_matches: bool, retracts: bool = False) -> None:
        self.kept = KeptRows(where, counts_matches=counts_matches)
        self.where = SortedRows()
        self.content = SortedRows() if retracts else None
        self.due = DueRows()
        self._last_us = MIN_US
        self._look_again_us = MIN_US
        self._rows_looked_at = 0

    def __len__(self) -> int:
        return len(self.kept)

    def seen(self, time_us: IntArray) -> None:
        """Take note of the times of rows that are kept from now on."""
        self._last_us = max(self._last_us, int(time_us.max()))

    def forget_before(self, limit_us: int) -> bool:
        """Rows with time < limit are of no use: free their memory, when they are half of what is kept or more.

        Returns:
            Whether rows are gone.
        """
        if not len(self) or (
            limit_us <= min(self._last_us, self._look_again_us)
            and len(self) - self._rows_looked_at < max(_CHECK_ROWS, len(self) // 4)
        ):
            return False
        useful = self.kept.time_us.values >= limit_us
        count = int(np.count_nonzero(useful))
        gone = 2 * count <= len(self)
        if gone:
            self.keep(useful)
        self._rows_looked_at = len(self)
        self._look_again_us = limit_us + (self._last_us - limit_us) // 2 if count else self._last_us
        return gone

    def forget_gone(self) -> bool:
        """Free the memory of rows that were taken back, when they are half of what is kept or more."""
        gone = 2 * self.kept.gone_count >= max(len(self), _CHECK_ROWS)
        if gone:
            self.keep(~self.kept.gone.values)
        return gone

    def keep(self, mask: BoolArray) -> None:
        """Only these rows; they get new numbers, in the same order."""
        self.renumber(self.kept.keep(np.flatnonzero(mask)), None)
        self._rows_looked_at = len(self)

    def renumber(self, rows: IntArray, keys: IntArray | None) -> None:
        """Follow rows and keys to their new numbers."""
        self.where.keep(rows, keys)
        if self.content is not None:
            self.content.keep(rows, keys)
        self.due.keep(rows)

    def notes(self) -> dict[str, IntArray]:
        """By name, what is noted of each row beside the row, and changes; goes into tables of state."""
        return {MATCHES: self.kept.matches.values} if self.kept.counts_matches else {}

    @property
    def nbytes(self) -> int:
        return self.kept.nbytes + self.where.nbytes + (0 if self.content is None else self.content.nbytes)
