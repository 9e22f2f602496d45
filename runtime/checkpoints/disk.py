"""The few things that checkpoints ask of a disk, so that a simulated one can fail in every way a real one does."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa

BytesLike = bytes | memoryview | pa.Buffer

_PIECES_AT_ONCE: Final = 1_024
"""Linux takes no more."""


class Disk(Protocol):
    """Paths are relative to the directory of the checkpoints, with "/" between their parts."""

    def write(self, path: str, pieces: Iterable[BytesLike]) -> None:
        """Make a file, or replace it: whole and durable when this returns, whatever happens in between.

        Raises:
            OSError: it could not be made; what was there before still is.
        """

    def add(self, path: str, pieces: Iterable[BytesLike]) -> None:
        """Make a file that is not there yet, and that nobody looks at before `sync` has returned.

        Raises:
            OSError: it could not be made; a part of it may be there.
        """

    def sync(self, folder: str) -> None:
        """What was added to a folder is durable when this returns.

        Raises:
            OSError: it is not.
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
                _write_all(file.fileno(), pieces)
                os.fsync(file.fileno())
            os.replace(unfinished, target)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        _sync_folder(target.parent)

    def add(self, path: str, pieces: Iterable[BytesLike]) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb", buffering=0) as file:
            _write_all(file.fileno(), pieces)
            os.fsync(file.fileno())

    def sync(self, folder: str) -> None:
        target = self.root / folder
        if target.exists():
            _sync_folder(target)

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


def _write_all(descriptor: int, pieces: Iterable[BytesLike]) -> None:
    """Write pieces as they lie: many of them in one call, since each call takes the interpreter's lock anew."""
    left = deque(view for piece in pieces if len(view := memoryview(piece).cast("B")))
    while left:
        written = os.writev(descriptor, list(islice(left, _PIECES_AT_ONCE)))
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if written:
            left[0] = left[0][written:]


def _sync_folder(folder: Path) -> None:
    """Or a name may be gone after a power cut, though its content is not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
