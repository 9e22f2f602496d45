"""Rows put aside until a checkpoint counts them: Arrow files next to where they will be shown.

What cannot be gone on with (a Parquet file) or must show whole epochs alone (a table of a database) gets its rows by
way of *pieces*, one for each checkpoint. A piece that no checkpoint counts is of a life of the run that failed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa

from millstream.connectors.output_files import cannot_write, check_same, sync_folder


class PieceWriter:
    """Writes rows into pieces, one after the other.

    Attributes:
        nbytes: how much was given to the piece that is open.
    """

    def __init__(self, path: str, keep: Collection[str] = ()) -> None:
        """
        Args:
            path: what the pieces are for; they lie next to it, under dot-names.
            keep: pieces that count. Others of the same path are removed.
        """
        self.path = path
        self.nbytes = 0
        self.schema: pa.Schema | None = None
        self._name = ""
        self._writer: Any = None
        folder, name = os.path.split(path)
        try:
            for found in os.listdir(folder or "."):
                piece = os.path.join(folder, found)
                if found.startswith(f".{name}.piece-") and piece not in keep:
                    os.unlink(piece)
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, columns: pa.RecordBatch, number: int) -> None:
        """Add rows to the open piece; where none is, it gets this number.

        Raises:
            SinkError: they cannot be written, or their fields are not those of the rows before.
        """
        if self.schema is None:
            self.schema = columns.schema.remove_metadata()
        check_same(self.path, self.schema, columns.schema)
        try:
            if self._writer is None:
                folder, name = os.path.split(self.path)
                self._name = os.path.join(folder, f".{name}.piece-{number}.arrow")
                self._writer = pa.ipc.new_file(pa.OSFile(self._name, "wb"), self.schema)
            # Built anew, as whether a field may be null can differ from batch to batch.
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns.columns, schema=self.schema))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.nbytes += columns.nbytes

    def seal(self) -> str | None:
        """Make the open piece whole and durable; returns its name, or None where there is none."""
        if self._writer is None:
            return None
        try:
            self._writer.close()
            with open(self._name, "rb") as file:
                os.fsync(file.fileno())
            sync_folder(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._writer, self.nbytes = None, 0
        return self._name

    def abandon(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


def rows_of_pieces(pieces: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """What was written, in order."""
    for piece in pieces:
        with pa.memory_map(piece) as mapped, pa.ipc.open_file(mapped) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


def remove_pieces(pieces: Sequence[str]) -> None:
    for piece in pieces:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(piece)
