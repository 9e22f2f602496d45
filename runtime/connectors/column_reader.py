"""Reading what is columns already: batches of any size, handed out as slices without a copy."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from millstream.connectors.base import Block, Offset, Reader

FileBatch = tuple[str, pa.RecordBatch]
"""A batch and the file that it came from."""


class ColumnReader(Reader):
    """Batches one after the other, each cut into blocks of the size that is asked for.

    Args:
        limit: end after so many rows.
        after: pass over what came up to this offset; the batches start with its file.
    """

    def __init__(self, batches: Iterator[FileBatch], limit: int | None = None, after: Offset | None = None) -> None:
        self._batches = batches
        self._origin: str = "" if after is None else after["file"]
        self._skip: int = 0 if after is None else after["row"]
        self._columns: pa.RecordBatch | None = None
        self._row = 0  # of the current batch
        self._offset = 0  # of the current file
        self._row_bytes = 0.0
        self._left = limit if after is None else after["left"]

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        if self._left is not None:
            max_rows = min(max_rows, self._left)
        if not max_rows:
            self.close()
        while self._columns is None or self._row >= self._columns.num_rows:
            following = next(self._batches, None)
            if following is None:
                self.close()
                return None
            origin, columns = following
            if origin != self._origin:
                self._origin, self._offset = origin, 0
            passed = min(self._skip, columns.num_rows)
            self._skip -= passed
            self._offset += passed
            self._columns, self._row = columns, passed
            self._row_bytes = columns.nbytes / max(columns.num_rows, 1)
        left = self._columns.num_rows - self._row
        fitting = int(max_bytes / self._row_bytes) if self._row_bytes else left
        # Of what is a little too large for one block, two would cost more than that one.
        rows = min(max_rows, left if left <= 2 * fitting else max(1, fitting))
        block = Block(self._columns.slice(self._row, rows), self._offset, 0, self._origin)
        self._row += rows
        self._offset += rows
        if self._left is not None:
            self._left -= rows
            self.ended = self._left == 0
        return block

    def offset(self) -> Offset:
        """The file, and how many of its rows were read."""
        return {"file": self._origin, "row": self._offset + self._skip, "left": self._left}

    def close(self) -> None:
        self.ended = True
        self._columns = None
        self._batches = iter(())
