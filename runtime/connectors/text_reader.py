"""Reading text files one after the other, and following the last one as it grows.

Following ends never. The last file is looked at ten times a second; a last line without its newline waits
for the rest. A file that is replaced (rotated) or cut short (truncated) is read to its end and then anew
from its start, and files that begin to match a glob come after those that are known.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from millstream.connectors.base import Block, Reader
from millstream.connectors.blocks import BlockCutter, EndsOf, line_ends
from millstream.connectors.decoders import with_header
from millstream.connectors.files import Compression, PlainFile, TextFile, expand, open_text

LOOK_AGAIN_S = 0.1

ReadHeader = Callable[[str, bytes], tuple[int, bytes | None]]
"""From a file's path and first records to the length of its header, and the header if its blocks must bring it."""


class TextReader(Reader):
    """The files of one source partition."""

    def __init__(
        self,
        files: Sequence[str],
        compression: Compression,
        *,
        ends_of: EndsOf = line_ends,
        header: ReadHeader | None = None,
        follow: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            files: their paths, in the order to read them.
            compression: as in `files.open_text`.
            ends_of: where records end.
            header: reads the header of each file; None: they have none.
            follow: the paths and globs to look at for more; None: end with the last file.
        """
        self._waiting = deque(files)
        self._seen = set(files)
        self._compression, self._ends_of, self._header, self._follow = compression, ends_of, header, follow
        self._path = ""
        self._file: TextFile | None = None
        self._cutter = BlockCutter("", ends_of)
        self._at_start = True
        self._own_header: bytes | None = None
        self._due: float | None = None

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        self._due = None
        while not self.ended:
            block = self._cutter.take(max_rows, max_bytes)
            if block is not None:
                if self._own_header is None:
                    return block
                return Block(with_header(self._own_header, block.payload), block.offset, block.line, block.origin)
            if self._file is None:
                self._open_next()
            elif not self._refill(max_bytes) and not self._finish_file():
                self._due = time.monotonic() + LOOK_AGAIN_S
                return None
        return None

    def due_s(self) -> float | None:
        return self._due

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self.ended = True

    def _open_next(self) -> None:
        if not self._waiting:
            self.ended = True
            return
        self._path = self._waiting.popleft()
        self._file = open_text(self._path, self._compression)
        self._cutter = BlockCutter(self._path, self._ends_of)
        self._at_start, self._own_header = True, None

    def _refill(self, nbytes: int) -> bool:
        """Read on; whether there was anything new."""
        assert self._file is not None
        rest = self._cutter.rest()
        # At least as much as there is: a very long line is then looked through a few times, not many.
        data = self._file.more(rest, max(nbytes, len(rest)))
        if len(data) <= len(rest):
            return False
        self._cut(data, at_end=False)
        return True

    def _cut(self, data: bytes, *, at_end: bool) -> None:
        self._cutter.refill(data, at_end=at_end)
        if self._at_start and (records := self._cutter.peek()):
            self._at_start = False
            if self._header is not None:
                length, self._own_header = self._header(self._path, records)
                self._cutter.skip(length)

    def _finish_file(self) -> bool:
        """At the end of what the file holds now: whether to go on, with its last line or with another file."""
        if self._follow is not None and not self._waiting and not self._more_to_follow():
            return False
        if self._refill(1 << 20):  # what was written between the last look and the rotation
            return True
        rest = self._cutter.rest()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._cut(rest, at_end=True)
        return True

    def _more_to_follow(self) -> bool:
        assert self._follow is not None
        if isinstance(self._file, PlainFile) and self._file.replaced():
            self._waiting.append(self._path)
        for pattern in self._follow:
            for path in expand(pattern):
                if path not in self._seen:
                    self._seen.add(path)
                    self._waiting.append(path)
        return bool(self._waiting)
