"""Files as sources open them: paths and globs, in natural order, compressed or plain, and what is wrong with one.

Names are sorted as people count: "part-2" comes before "part-10". Paths stay as the user wrote them; they
name the file in errors and dead letters.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, Literal, Protocol

import pyarrow as pa

from millstream.errors import FlowError, SourceError

Compression = Literal["infer", "gzip", "zstd"] | None
PathLike = str | os.PathLike[str]
Paths = PathLike | Sequence[PathLike]

_SUFFIXES: Final[dict[str, Literal["gzip", "zstd"]]] = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_BEGINNING_BYTES: Final = 4096
_SKIPPED_BYTES: Final = 1 << 20
_DIGITS = re.compile(r"(\d+)")


def path_list(paths: Paths) -> list[str]:
    """One path or several, as text."""
    if isinstance(paths, str | os.PathLike):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]


def natural_key(name: str) -> list[tuple[int, str, int]]:
    """Sorts runs of digits by the number they stand for."""
    return [(1, "", int(part)) if part.isdigit() else (0, part, 0) for part in _DIGITS.split(name) if part]


def matching(paths: Sequence[str]) -> list[str]:
    """The files behind paths and globs: those of each in natural order. Each can be opened at this moment.

    Raises:
        SourceError: one is missing, a directory, or not to be read; or a glob matches nothing.
    """
    if not paths:
        raise SourceError("no path given: name at least one file")
    found: list[str] = []
    for path in paths:
        files = expand(path)
        if not files:
            raise SourceError(f"{path}: no file matches; looked in {os.getcwd()}, where relative paths start")
        found += files
    for path in found:
        check_readable(path)
    return found


def expand(path: str) -> list[str]:
    """The files that a glob matches; a path without wildcards, or that exists as it stands, is itself."""
    if not glob.has_magic(path) or os.path.lexists(path):
        return [path]
    matches = glob.glob(path, recursive=True)
    return sorted((match for match in matches if not os.path.isdir(match)), key=natural_key)


def check_readable(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise cannot_read(path, error) from error
    if stat.S_ISDIR(mode):
        raise SourceError(f"{path}: is a directory; to read the files in it use a glob, {os.path.join(path, '*')!r}")
    if not os.access(path, os.R_OK):
        raise cannot_read(path, PermissionError())


def cannot_read(path: str, error: OSError) -> SourceError:
    """What went wrong with a file, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        where = "" if os.path.isabs(path) else f"; looked in {os.getcwd()}, where relative paths start"
        return SourceError(f"{path}: there is no such file{where}")
    if isinstance(error, PermissionError):
        return SourceError(f"{path}: no permission to read it; check its mode and owner and those of its folders")
    if isinstance(error, NotADirectoryError):
        return SourceError(f"{path}: a part of the path is a file, not a folder")
    return SourceError(f"{path}: cannot be read: {error.strerror or error}")


def compression_of(path: str, given: Compression) -> Literal["gzip", "zstd"] | None:
    """How a file is compressed: as given, or by its suffix.

    Raises:
        FlowError: the given one is not known.
    """
    if given == "infer":
        return _SUFFIXES.get(os.path.splitext(path)[1].lower())
    if given not in (None, "gzip", "zstd"):
        raise FlowError(f"compression={given!r}: there are 'infer', 'gzip', 'zstd' and None")
    return given


class TextFile(Protocol):
    """An open file, read from its start, decompressed."""

    def more(self, rest: bytes, nbytes: int) -> bytes:
        """``rest``, which an earlier call gave and which was not used, followed by up to ``nbytes`` new bytes.

        Raises:
            SourceError: it cannot be read.
        """

    def skip_to(self, position: int) -> None:
        """Go on at this byte of the (decompressed) file, at or behind the one that comes next.

        Raises:
            SourceError: it cannot be read so far.
        """

    def close(self) -> None: ...


def open_text(path: str, compression: Compression) -> TextFile:
    """Open a file for reading.

    Raises:
        SourceError: it cannot be opened.
    """
    codec = compression_of(path, compression)
    if codec is not None:
        return _CompressedFile(path, codec)
    return PlainFile(path)


def beginning_of(path: str, compression: Compression, nbytes: int) -> str:
    """A digest of the first bytes of a file, at most ``nbytes``: tells it from others whatever its name, as it grows."""
    file = open_text(path, compression)
    try:
        start = b""
        wanted = min(nbytes, _BEGINNING_BYTES)
        while len(start) < wanted and len(more := file.more(start, wanted - len(start))) > len(start):
            start = more
        return blake2b(start[:wanted], digest_size=16).hexdigest()
    finally:
        file.close()


class PlainFile:
    """A file without compression.

    What was left over is read again together with the new bytes: a line from the page cache is cheaper than
    moving the rest of a block behind it.

    Attributes:
        identity: the device and inode of a regular file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            status = os.fstat(self._descriptor)
            self._seekable = stat.S_ISREG(status.st_mode)
        except OSError as error:
            raise cannot_read(path, error) from error
        self.identity = (status.st_dev, status.st_ino) if self._seekable else None
        self._position = 0

    def more(self, rest: bytes, nbytes: int) -> bytes:
        try:
            if not self._seekable:
                return rest + os.read(self._descriptor, nbytes)
            start = self._position - len(rest)
            data = os.pread(self._descriptor, len(rest) + nbytes, start)
        except OSError as error:
            raise cannot_read(self.path, error) from error
        self._position = start + len(data)
        return data

    def skip_to(self, position: int) -> None:
        if not self._seekable:
            raise SourceError(f"{self.path}: is no regular file, so reading cannot go on in its middle")
        size = os.fstat(self._descriptor).st_size
        if size < position:
            raise SourceError(
                f"{self.path}: has {size} bytes, and {position} had been read: it was cut short or replaced"
            )
        self._position = position

    def replaced(self) -> bool:
        """Whether the path now leads to another file, or to fewer bytes than were read: rotated or truncated."""
        mine = os.fstat(self._descriptor)
        try:
            current = os.stat(self.path)
        except FileNotFoundError:
            return False  # between the two steps of a rotation: the new file is yet to come
        except OSError as error:
            raise cannot_read(self.path, error) from error
        return (current.st_dev, current.st_ino) != (mine.st_dev, mine.st_ino) or mine.st_size < self._position

    def close(self) -> None:
        os.close(self._descriptor)


class _CompressedFile:
    """gzip or zstd, also of several members one after the other."""

    def __init__(self, path: str, codec: Literal["gzip", "zstd"]) -> None:
        self.path, self._codec = path, codec
        self._position = 0
        try:
            self._file = pa.OSFile(path, "rb")
            self._empty = self._file.size() == 0
            self._stream = pa.CompressedInputStream(self._file, codec)
        except OSError as error:
            raise cannot_read(path, error) from error

    def more(self, rest: bytes, nbytes: int) -> bytes:
        if self._empty:  # what a killed program leaves behind: no events, not even a header to be wrong
            return rest
        try:
            data = self._stream.read(nbytes)
        except OSError as error:
            raise SourceError(
                f"{self.path}: damaged, or not {self._codec}: {error}; say compression=None if it is plain"
            ) from error
        self._position += len(data)
        return rest + data

    def skip_to(self, position: int) -> None:
        while self._position < position:
            passed = len(self.more(b"", min(position - self._position, _SKIPPED_BYTES)))
            if not passed:
                raise SourceError(
                    f"{self.path}: holds {self._position} bytes, and {position} had been read: it was replaced"
                )

    def close(self) -> None:
        self._stream.close()
        self._file.close()
