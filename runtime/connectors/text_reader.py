"""Reading text files one after the other, and following the last one as it grows.

Following ends never. The last file is looked at ten times a second; a last line without its newline waits
for the rest. A file that is replaced (rotated) or cut short (truncated) is read to its end and then anew
from its start, and files that begin to match a glob come after those that are known.
"""

from __future__ import annotations

import glob
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from millstream.connectors.base import Block, Offset, Reader
from millstream.connectors.blocks import DEFAULT_BYTES, BlockCutter, EndsOf, ReadHeader, count_records, line_ends
from millstream.connectors.file_range import LEAST_BYTES, FileRange
from millstream.connectors.files import Compression, PlainFile, TextFile, beginning_of, expand, natural_key, open_text
from millstream.errors import SourceError

LOOK_AGAIN_S = 0.1

_LEAST_BYTES = 4096


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
        limit: int | None = None,
        after: Offset | None = None,
    ) -> None:
        """
        Args:
            files: their paths, in the order to read them.
            compression: as in `files.open_text`.
            ends_of: where records end.
            header: reads the header of each file; None: they have none.
            follow: the paths and globs to look at for more; None: end with the last file.
            limit: end after so many records.
            after: pass over what was read up to this offset.
        Raises:
            SourceError: what is there now is not what was read then.
        """
        self._waiting = deque(files)
        self._seen = set(files)
        self._compression, self._ends_of, self._header, self._follow = compression, ends_of, header, follow
        self._path = ""
        self._file: TextFile | None = None
        self._cutter = BlockCutter("")
        self._left = limit
        self._due: float | None = None
        if after is not None:
            self._resume(after)

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        self._due = None
        if self._left is not None:
            max_rows = min(max_rows, self._left)
        while not self.ended and max_rows:
            block = self._cutter.take(max_rows, max_bytes)
            if block is not None:
                return self._counted(self._found(block))
            if self._file is None:
                self._open_next()
            elif not self._refill(max_bytes) and not self._finish_file():
                self._due = time.monotonic() + LOOK_AGAIN_S
                return None
        self.ended = True
        return None

    def _counted(self, block: Block) -> Block:
        if self._left is not None:
            assert isinstance(block.payload, bytes | memoryview)
            self._left -= count_records(block.payload, self._ends_of)
            self.ended = self._left == 0
        return block

    def _found(self, block: Block) -> Block:
        """A block that says where its bytes are, if they are as they are in the file, and stay there."""
        file = self._file
        if self._follow is not None or not isinstance(file, PlainFile) or file.identity is None:
            return block
        if block.nbytes < LEAST_BYTES or self._cutter.header is not None:
            return block
        found_at = FileRange(os.path.abspath(self._path), *file.identity, block.offset, block.nbytes)
        return replace(block, found_at=found_at)

    def offset(self) -> Offset:
        """The file, how far it was read, what its beginning was (it may be renamed), and the files behind it."""
        return {
            "file": self._path if self._file is not None else None,
            "byte": self._cutter.offset,
            "line": self._cutter.line,
            "beginning": beginning_of(self._path, self._compression, self._cutter.offset) if self._file else None,
            "waiting": list(self._waiting),
            "seen": sorted(self._seen),
            "left": self._left,
        }

    def _resume(self, after: Offset) -> None:
        self._left = after["left"]
        new = [path for path in self._seen if path not in after["seen"]] if self._follow is not None else []
        self._seen.update(after["seen"])
        self._waiting = deque([*after["waiting"], *sorted(new, key=natural_key)])
        path, byte = after["file"], after["byte"]
        if path is None:
            return
        found = self._find(path, after["beginning"], byte)
        if found != path:
            self._waiting.appendleft(path)  # it was rotated: what is under its name now comes next
        self._waiting.appendleft(found)
        self._open_next()
        assert self._file is not None
        if byte:
            # The header, which blocks may have to bring along, is at the start of the file.
            while self._cutter.at_start and self._refill(DEFAULT_BYTES):
                pass
            self._file.close()
            self._file = open_text(found, self._compression)
            self._file.skip_to(byte)
            self._cutter.resume(byte, after["line"])

    def _find(self, path: str, beginning: str, byte: int) -> str:
        """The file that was being read: under its name, or in a follower's case under the name it was rotated to."""
        candidates = [path]
        if self._follow is not None:
            candidates += [p for p in expand(f"{glob.escape(path)}*") if p != path]
        for candidate in candidates:
            if os.path.exists(candidate) and beginning_of(candidate, self._compression, byte) == beginning:
                return candidate
        raise SourceError(
            f"{path}: is not the file any more of which {byte} bytes had been read; put that one back, "
            "or start anew with --fresh"
        )

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
        self._cutter = BlockCutter(self._path, self._ends_of, self._header)

    def _refill(self, nbytes: int) -> bool:
        """Read on; whether there was anything new."""
        assert self._file is not None
        rest = self._cutter.rest()
        # A block of the size that was asked for; or twice as much each time, so that a very long line is not
        # looked through again and again.
        data = self._file.more(rest, max(nbytes - len(rest), len(rest), _LEAST_BYTES))
        if len(data) <= len(rest):
            return False
        self._cutter.refill(data, at_end=False)
        return True

    def _finish_file(self) -> bool:
        """At the end of what the file holds now: whether to go on, with its last line or with another file."""
        if self._follow is not None and not self._waiting and not self._more_to_follow():
            return False
        if self._refill(DEFAULT_BYTES):  # what was written between the last look and the rotation
            return True
        rest = self._cutter.rest()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._cutter.refill(rest, at_end=True)
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
