"""One Parquet file from a run with checkpoints: pieces, put together at the end.

A Parquet file cannot be read before it is whole, nor gone on with. So rows are kept in Arrow files next to it, a
piece for each checkpoint, and the Parquet file is made of them when the run has ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pyarrow as pa

from millstream.connectors.base import Prepared, Writer
from millstream.connectors.output_files import OutputFile
from millstream.connectors.pieces import PieceWriter, remove_pieces, rows_of_pieces
from millstream.errors import SinkError


class StagedParquetWriter(Writer):
    """Args:
    pieces: those that count, where the run goes on from a checkpoint; None: it starts anew.
    """

    def __init__(self, path: str, pieces: list[str] | None) -> None:
        self._pieces = list(pieces or [])
        self._writer = PieceWriter(path, keep=self._pieces)
        if pieces is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # what an earlier run wrote must not be taken for the result of this one

    def write(self, columns: pa.RecordBatch) -> None:
        self._writer.write(columns, len(self._pieces))

    def prepare(self, *, last: bool) -> Prepared:
        piece = self._writer.seal()
        if piece is not None:
            self._pieces.append(piece)
        pieces = list(self._pieces)  # as they are now: more follow while the checkpoint is written
        return Prepared({"pieces": pieces}, [pieces] if last else [])

    def close(self) -> None:
        return None

    def abort(self) -> None:
        self._writer.abandon()


def assemble(path: str, pieces: list[str], open_output: Callable[[str], OutputFile]) -> None:
    """Make the file of its pieces, and remove them. Doing it twice is doing it once.

    Raises:
        SinkError: a piece is gone, or the file cannot be written.
    """
    gone = [piece for piece in pieces if not os.path.exists(piece)]
    if gone and not os.path.exists(path):
        raise SinkError(f"{gone[0]}: a piece of {path} is not there any more")
    if not gone:
        output = open_output(path)
        for columns in rows_of_pieces(pieces):
            output.write(columns)
        output.finish()
    remove_pieces(pieces)
