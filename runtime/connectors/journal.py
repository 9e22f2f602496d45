"""What a source can give only once, kept until checkpoints count it.

A journal is a folder of segments. Each holds records: the length, the position and a checksum of both and of the bytes, then
the bytes. Positions count bytes since the flow was started anew; a segment's name is the position of its first record::

    journal/read_stdin.stdin/00000000000000000000.journal

A record is with the operating system before anything is done with it: whatever process is killed, it is there. It is not
waited for until it is on the disk, which would cost each block some milliseconds; after a power cut what no checkpoint
counts may be missing. A segment goes when a checkpoint counts all of it. Together they hold no more than a bound: a source
whose journal is full is not read until a checkpoint was made.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

import xxhash

from millstream.connectors.output_files import cannot_write
from millstream.errors import SourceError

SEGMENT_BYTES: Final = 64 << 20
MOST_BYTES: Final = 4 << 30

_HEAD: Final = struct.Struct("<IQQ")  # length, position, checksum
_SUFFIX: Final = ".journal"

Record = bytes | memoryview


class Journal:
    """Attributes:
    begin: the position of the first byte that is kept.
    end: the position behind the last.
    """

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open a journal, or begin one. A record that was cut short at the very end was never worked on, and goes.

        Raises:
            SourceError: it cannot be opened.
        """
        self._folder, self._most_bytes, self._segment_bytes = folder, most_bytes, segment_bytes
        self._descriptor = -1
        self._length = 0  # of the last segment
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._starts = sorted(int(name.stem) for name in folder.glob(f"*{_SUFFIX}"))
            self.begin = self.end = self._starts[0] if self._starts else 0
            if self._starts:
                self._open_last()
        except (OSError, ValueError) as error:
            raise SourceError(f"{folder}: the journal cannot be opened: {error}") from error

    @property
    def full(self) -> bool:
        return self.end - self.begin >= self._most_bytes

    def append(self, record: Record) -> None:
        """Keep a record; when this returns, no kill of any process can lose it.

        Raises:
            SourceError: it cannot be written, the disk being full for one. The journal is as it was.
        """
        position = self.end.to_bytes(8, "little")
        checksum = xxhash.xxh3_64(position)
        checksum.update(record)
        head = _HEAD.pack(len(record), self.end, checksum.intdigest())
        try:
            if self._descriptor < 0 or self._length >= self._segment_bytes:
                self._begin_segment()
            written = os.writev(self._descriptor, (head, record))
            if written < len(head) + len(record):
                rest = memoryview(head + bytes(record))[written:]
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            if self._descriptor >= 0:
                os.ftruncate(self._descriptor, self._length)
            raise _cannot_keep(self._folder, error) from error
        self._length += len(head) + len(record)
        self.end += len(record)

    def records(self, position: int = 0) -> Iterator[bytes]:
        """What was kept from a position on; of a record in which that lies, the rest.

        Raises:
            SourceError: it is damaged, or the journal begins behind that position.
        """
        if position < self.begin:
            raise SourceError(
                f"{self._folder}: the journal begins at {self.begin}, and the checkpoint goes on from {position}: a part is "
                "missing; put it back, or start anew with --fresh"
            )
        # As they are now: segments that a checkpoint counts are removed while later ones are still read.
        for start, expected in pairwise([*self._starts, self.end]):
            if expected <= position:
                continue
            path, at = self._path(start), start
            with path.open("rb") as file:
                while (record := _next(file.fileno(), at)) is not None:
                    at += len(record)
                    if record and at > position:
                        yield record[max(0, position - (at - len(record))) :]
            if at < expected:
                raise SourceError(
                    f"{path}: damaged behind position {at}: what follows cannot be read; start anew with --fresh"
                )

    def go_on_from(self, position: int) -> Iterator[bytes]:
        """What is to be worked on again from a position that a checkpoint counts; what comes next follows it.

        Raises:
            SourceError: as for `records`.
        """
        if position > self.end:  # a power cut took what the checkpoint counts, and nothing else is missing
            self.close()
            self._remove(len(self._starts))
            self.begin = self.end = position
        return self.records(position)

    def trim(self, position: int) -> None:
        """Remove the segments of which nothing from this position on is needed."""
        if position >= self.end:
            self.close()
            self._remove(len(self._starts))
        else:
            self._remove(sum(start <= position for start in self._starts[1:]))

    def _remove(self, segments: int) -> None:
        for start in self._starts[:segments]:
            self._path(start).unlink(missing_ok=True)
        self._starts = self._starts[segments:]
        self.begin = self._starts[0] if self._starts else self.end

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open_last(self) -> None:
        start = self._starts[-1]
        self._descriptor = os.open(self._path(start), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self.end = start
        while (record := _next(self._descriptor, self.end)) is not None:
            self.end += len(record)
            self._length += _HEAD.size + len(record)
        os.ftruncate(self._descriptor, self._length)

    def _begin_segment(self) -> None:
        self.close()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path(self.end), flags, 0o600)
        self._length = 0
        if not self._starts or self._starts[-1] != self.end:
            self._starts.append(self.end)

    def _path(self, start: int) -> Path:
        return self._folder / f"{start:020d}{_SUFFIX}"


def _next(descriptor: int, position: int) -> bytes | None:
    """The next whole record of a segment; None where there is no more, or what is there is none."""
    head = _read(descriptor, _HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, at, checksum = _HEAD.unpack(head)
    left = os.fstat(descriptor).st_size - os.lseek(descriptor, 0, os.SEEK_CUR)
    if at != position or length > left:
        return None
    record = _read(descriptor, length)
    found = xxhash.xxh3_64(at.to_bytes(8, "little"))
    found.update(record)
    return record if found.intdigest() == checksum else None


def _read(descriptor: int, nbytes: int) -> bytes:
    pieces: list[bytes] = []
    while nbytes and (piece := os.read(descriptor, nbytes)):
        pieces.append(piece)
        nbytes -= len(piece)
    return b"".join(pieces)


def _cannot_keep(folder: Path, error: OSError) -> SourceError:
    return SourceError(f"the journal of a source: {cannot_write(str(folder), error)}")
