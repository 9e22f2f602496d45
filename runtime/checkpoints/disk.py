"""The few things that checkpoints ask of a disk, so that a simulated one can fail in every way a real one does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa

BytesLike = bytes | memoryview | pa.Buffer


class Disk(Protocol):
    """Paths are relative to the directory of the checkpoints, with "/" between their parts."""

    def write(self, path: str, pieces: Iterable[BytesLike]) -> None:
        """Make a file, or replace it: whole and durable when this returns, whatever happens in between.

        Raises:
            OSError: it could not be made; what was there before still is.
        """

    def read(self, path: str) -> pa.Buffer:
        """The whole file.

        Raises:
            OSError: it is not there, or cannot be read.
        """

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none if it is not there."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""

    def rename(self, path: str, to: str) -> None:
        """Give a file another name.

        Raises:
            OSError: it still has the one that it had.
        """


class DirectoryDisk:
    """A directory of the file system."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, pieces: Iterable[BytesLike]) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with unfinished.open("wb", buffering=0) as file:
                for piece in pieces:
                    _write_all(file.fileno(), memoryview(piece))
                os.fsync(file.fileno())
            os.replace(unfinished, target)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        with _opened(target.parent) as folder:
            os.fsync(folder)  # or the name may be gone after a power cut, though its content is not

    def read(self, path: str) -> pa.Buffer:
        with pa.memory_map(str(self.root / path)) as file:
            return file.read_buffer()

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(n for n in os.listdir(self.root / folder) if not n.startswith("."))
        except FileNotFoundError:
            return []

    def remove(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)

    def rename(self, path: str, to: str) -> None:
        (self.root / path).rename(self.root / to)


def _write_all(descriptor: int, data: memoryview) -> None:
    data = data.cast("B")
    while data:
        data = data[os.write(descriptor, data) :]


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
