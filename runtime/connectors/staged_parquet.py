"""One Parquet file from a run with checkpoints: pieces, put together at the end.

A Parquet file cannot be read before it is whole, nor gone on with. So rows are kept in Arrow files next to it, a
piece for each checkpoint, and the Parquet file is made of them when the run has ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from millstream.connectors.base import Prepared, Writer
from millstream.connectors.output_files import OutputFile, cannot_write, check_same, sync_folder
from millstream.errors import SinkError


class StagedParquetWriter(Writer):
    """Args:
    pieces: those that count, where the run goes on from a checkpoint; None: it starts anew.
    """

    def __init__(self, path: str, pieces: list[str] | None) -> None:
        self._path = path
        self._pieces = list(pieces or [])
        self._schema: pa.Schema | None = None
        self._writer: Any = None
        self._remove_others()
        if pieces is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # what an earlier run wrote must not be taken for the result of this one

    def write(self, columns: pa.RecordBatch) -> None:
        if self._schema is None:
            self._schema = columns.schema.remove_metadata()
        check_same(self._path, self._schema, columns.schema)
        try:
            if self._writer is None:
                name = _piece(self._path, len(self._pieces))
                self._writer = pa.ipc.new_file(pa.OSFile(name, "wb"), self._schema)
                self._pieces.append(name)
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns.columns, schema=self._schema))
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def prepare(self, *, last: bool) -> Prepared:
        if self._writer is not None:
            try:
                self._writer.close()
                with open(self._pieces[-1], "rb") as file:
                    os.fsync(file.fileno())
                sync_folder(self._path)
            except OSError as error:
                raise cannot_write(self._path, error) from error
            self._writer = None
        pieces = list(self._pieces)  # as they are now: more follow while the checkpoint is written
        return Prepared({"pieces": pieces}, [pieces] if last else [])

    def close(self) -> None:
        return None

    def abort(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

    def _remove_others(self) -> None:
        """Pieces that no checkpoint counts are of a life of the run that failed, or of an earlier run."""
        folder, name = os.path.split(self._path)
        for found in os.listdir(folder or "."):
            piece = os.path.join(folder, found)
            if found.startswith(f".{name}.piece-") and piece not in self._pieces:
                os.unlink(piece)


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
        for piece in pieces:
            with pa.memory_map(piece) as mapped, pa.ipc.open_file(mapped) as reader:
                for number in range(reader.num_record_batches):
                    output.write(reader.get_batch(number))
        output.finish()
    for piece in pieces:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(piece)


def _piece(path: str, number: int) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.piece-{number}.arrow")
