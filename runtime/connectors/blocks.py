"""From bytes to blocks: a text source cuts what it has read at record boundaries, and knows where it is.

The payload of a block is a view of the bytes that were read, not a copy. Where more records came than were
asked for, the places where they end are looked up once, so that taking one record at a time costs no more
for each than taking many.

A header is passed over. Where it differs from file to file (CSV), blocks bring it along in front of their records,
since they may be decoded in another process and in any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from millstream.connectors.base import Block
from millstream.connectors.text import BOM, csv_records
from millstream.errors import SourceError

DEFAULT_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
"""A line longer than this is taken for a sign that the file is no text."""

Ends = npt.NDArray[np.int64]
EndsOf = Callable[[bytes, bool], Ends | None]
"""From bytes, and whether they are the last, to where records end; None: at every newline."""


ReadHeader = Callable[[str, bytes], tuple[int, bytes | None]]
"""From a file's path and first records to the length of its header, and the header if its blocks must bring it."""

_MARK: Final = b"\xff\x00header:"
"""Starts a block that brings its header. No good record can start so: 0xFF is not UTF-8."""


def split_mark(payload: bytes) -> tuple[bytes | None, bytes]:
    """The header that a block brings, if any, and its records."""
    if not payload.startswith(_MARK):
        return None, payload
    start = len(_MARK) + 4
    end = start + int.from_bytes(payload[len(_MARK) : start], "little")
    return payload[start:end], payload[end:]


def with_mark(header: bytes, records: bytes) -> bytes:
    """A block that brings its header, if there is one."""
    return _marked(header) + records if header else records


def _marked(header: bytes) -> bytes:
    return b"".join((_MARK, len(header).to_bytes(4, "little"), header))


def line_ends(data: bytes, at_end: bool) -> Ends | None:
    """Records are lines."""
    return None


def csv_ends(quote: str, delimiter: str) -> EndsOf:
    """Records are lines, except that a newline inside quotes ends none."""
    quote_byte, delimiter_byte = quote.encode(), delimiter.encode()

    def ends(data: bytes, at_end: bool) -> Ends | None:
        if not quote_byte or quote_byte not in data:
            return None
        return csv_records(data, at_end=at_end, quote=quote_byte, delimiter=delimiter_byte).ends

    return ends


class BlockCutter:
    """The bytes of one file that have been read and not yet handed out.

    Attributes:
        origin: the file's path as the user wrote it.
        offset: how many bytes of the file were handed out.
        line: the number of the next line, from 1.
        at_start: nothing was read yet, not even the header.
    """

    def __init__(self, origin: str, ends_of: EndsOf = line_ends, header: ReadHeader | None = None) -> None:
        """
        Args:
            origin: the path.
            ends_of: where records end.
            header: reads the header; None: there is none.
        """
        self.origin = origin
        self.offset = 0
        self.line = 1
        self._ends_of, self._header = ends_of, header
        self._mark: bytes | None = None
        self.at_start = True
        self._data = b""
        self._start = 0  # what was handed out, of the data
        self._whole = 0  # where the last whole record ends
        self._ends: Ends | None = None
        self._next = 0  # in _ends, the first that was not handed out

    @property
    def header(self) -> bytes | None:
        """The header that blocks bring along, once it was read."""
        return None if self._mark is None else split_mark(self._mark)[0]

    def resume(self, offset: int, line: int, header: bytes | None = None) -> None:
        """Forget what was read: bytes come from this offset on, with this line. The header, if any, was passed over."""
        self.offset, self.line = offset, line
        if header is not None:
            self._mark = _marked(header)
        self._data, self._start, self._whole, self._ends, self._next = b"", 0, 0, None, 0
        self.at_start = self.at_start and offset == 0

    def rest(self) -> bytes:
        """What was not handed out; valid when `take` has nothing more, and then less than a record."""
        # Keeping only this gives the block's memory back before the next one is read.
        self._data = self._data[self._start :]
        self._start = self._whole = 0
        return self._data

    def refill(self, data: bytes, *, at_end: bool) -> None:
        """Go on with the rest and what came after it, in one piece.

        Raises:
            SourceError: there is no end of a line in sight.
        """
        self._data, self._start, self._next = data, 0, 0
        self._ends = self._ends_of(data, at_end)
        if at_end:
            self._whole = len(data)
        elif self._ends is None:
            self._whole = data.rfind(b"\n") + 1
        else:
            self._whole = int(self._ends[-1]) if len(self._ends) else 0
        if not self._whole and len(data) > MAX_LINE_BYTES:
            raise SourceError(
                f"{self.origin}: line {self.line} is longer than {MAX_LINE_BYTES >> 20} MiB; is this a text file, "
                "and not compressed under another name?"
            )
        if self.at_start and self._whole:
            self.at_start = False
            self._pass_start()

    def _pass_start(self) -> None:
        if self._data.startswith(BOM):
            self._skip(len(BOM))
        if self._header is not None:
            length, header = self._header(self.origin, self._data[self._start : self._whole])
            self._skip(length)
            if header is not None:
                self._mark = _marked(header)

    def _skip(self, nbytes: int) -> None:
        end = self._start + nbytes
        self.line += self._data.count(b"\n", self._start, end)
        self.offset += nbytes
        self._start = end
        if self._ends is not None:
            self._next = int(np.searchsorted(self._ends, end, side="right"))

    def take(self, max_rows: int, max_bytes: int) -> Block | None:
        """The next block: at most ``max_rows`` records, and more than ``max_bytes`` only for a single record."""
        start, whole = self._start, self._whole
        if start == whole:
            return None
        if self._ends is None or (self._next == 0 and whole - start <= max_bytes):
            lines = _newlines(self._data, start, whole)
            if whole - start <= max_bytes and lines + (self._data[whole - 1] != _NEWLINE) <= max_rows:
                return self._hand_out(whole, lines)
        if self._ends is None:
            self._ends = _ends_of_lines(self._data, whole)
            self._next = int(np.searchsorted(self._ends, start, side="right"))
        fitting = int(np.searchsorted(self._ends, start + max_bytes, side="right")) - self._next
        self._next += max(1, min(fitting, max_rows))
        end = int(self._ends[min(self._next, len(self._ends)) - 1])
        return self._hand_out(end, _newlines(self._data, start, end))

    def _hand_out(self, end: int, lines: int) -> Block:
        whole = self._start == 0 and end == len(self._data)
        payload: bytes | memoryview = self._data if whole else memoryview(self._data)[self._start : end]
        if self._mark is not None:
            payload = self._mark + payload
        block = Block(payload, self.offset, self.line, self.origin)
        self.offset += end - self._start
        self.line += lines
        self._start = end
        return block


def count_records(payload: bytes | memoryview, ends_of: EndsOf) -> int:
    """How many records a block holds: blank lines are none."""
    data = split_mark(bytes(payload))[1]
    ends = ends_of(data, True)
    if ends is None:
        lines = data.count(b"\n") + (data[-1:] not in (b"", b"\n"))
        return lines - len(_BLANK_LINE.findall(data))
    starts = [0, *ends[:-1].tolist()]
    return sum(bool(data[start:end].strip()) for start, end in zip(starts, ends.tolist(), strict=True))


_BLANK_LINE = re.compile(rb"^[ \t\r]*(?:\n|(?<=[ \t\r])\Z)", re.MULTILINE)
_NEWLINE = 0x0A
_PIECE_BYTES = 64 << 10
_FEW_BYTES = 4096  # below this NumPy's call costs more than it saves


def _newlines(data: bytes, start: int, end: int) -> int:
    if end - start < _FEW_BYTES:
        return data.count(b"\n", start, end)
    view = np.frombuffer(data, np.uint8, end - start, start)
    # In pieces that stay in the nearest cache, mask and all.
    pieces = range(0, len(view), _PIECE_BYTES)
    return sum(int(np.count_nonzero(view[at : at + _PIECE_BYTES] == _NEWLINE)) for at in pieces)


def _ends_of_lines(data: bytes, whole: int) -> Ends:
    ends = np.flatnonzero(np.frombuffer(data, np.uint8, whole) == _NEWLINE) + 1
    return ends if len(ends) and ends[-1] == whole else np.append(ends, whole)
