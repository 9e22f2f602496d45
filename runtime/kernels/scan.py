"""Single bytes found in a column of text, by NumPy over the whole column at once.

Arrow looks for a pattern row by row at two nanoseconds a byte; comparing all bytes with one costs a
thirtieth of that. It is right for ASCII only, whose bytes are never part of another character.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import as_numpy, index_array
from millstream.kernels.arrays import array_of, validity
from millstream.kernels.types import INT64, STRING


def is_one_byte(text: str) -> bool:
    return len(text) == 1 and text.isascii()


class _Text:
    """The memory of a column of text: where each row starts and ends, and the bytes in between."""

    def __init__(self, column: Any) -> None:
        offset_type = np.dtype(np.int32 if column.type == STRING else np.int64)
        rows, buffers = len(column), column.buffers()
        if rows:
            self.ends = as_numpy(buffers[1], offset_type, rows + 1, column.offset * offset_type.itemsize)
        else:
            self.ends = np.zeros(1, offset_type)
        self.low, self.high = int(self.ends[0]), int(self.ends[-1])
        self.data = buffers[2]

    def has(self, byte: str) -> npt.NDArray[np.bool_]:
        """For each byte of all rows, whether it is this one."""
        if self.high == self.low:
            return np.zeros(0, np.bool_)
        hits: npt.NDArray[np.bool_] = as_numpy(self.data, np.uint8, self.high - self.low, self.low) == ord(byte)
        return hits


def count_byte(column: Any, byte: str) -> Any:
    """How often a byte occurs in each row, int64.

    The hits as a bit map, with the number of hits before each word of 64: what stands before any byte is then
    that number and the bits below it in its word.
    """
    text = _Text(column)
    bits = np.packbits(text.has(byte), bitorder="little")
    words = np.zeros(len(bits) // 8 + 1, np.uint64)
    words.view(np.uint8)[: len(bits)] = bits
    before = np.zeros(len(words), np.int64)
    np.cumsum(np.bitwise_count(words[:-1]), out=before[1:])
    ends = (text.ends - text.low).astype(np.uint64)
    word, below = (ends >> np.uint64(6)).astype(np.intp), (np.uint64(1) << (ends & np.uint64(63))) - np.uint64(1)
    rank = before[word] + np.bitwise_count(words[word] & below)
    return array_of(np.diff(rank), INT64, *validity(column))


class Parts:
    """A column of text split at a byte, of which single parts are asked for.

    The list of all parts is never made: a part is a piece of the column's own memory, which is read as strings
    that are alternately the part and what lies between two of them.
    """

    def __init__(self, column: Any, by: str) -> None:
        self.column = column
        self._text = _Text(column)
        self._by = by

    @cached_property
    def _cuts(self) -> npt.NDArray[np.signedinteger]:
        """Where the separators are, and one place beyond the last for rows without any."""
        ends = self._text.ends
        found = np.flatnonzero(self._text.has(self._by))
        cuts = np.empty(len(found) + 1, ends.dtype)
        np.add(found, self._text.low, out=cuts[:-1], casting="unsafe")
        cuts[-1] = self._text.high
        return cuts

    @cached_property
    def _even(self) -> npt.NDArray[np.signedinteger] | None:
        """The separators row by row where every row has as many, as rows of one form do; else None."""
        ends, found = self._text.ends, self._cuts[:-1]
        rows = len(ends) - 1
        if not rows or not len(found) or len(found) % rows:
            return None
        table = found.reshape(rows, -1)
        return table if (table[:, 0] >= ends[:-1]).all() and (table[:, -1] < ends[1:]).all() else None

    @cached_property
    def _first(self) -> npt.NDArray[np.intp]:
        """The number of separators before each row, and in all of them."""
        return np.searchsorted(self._cuts[:-1], self._text.ends)

    def get(self, index: int) -> Any:
        """The part with this number, counted from the end when negative; null where there is none."""
        rows = len(self.column)
        if not rows:
            return self.column
        bounds, missing = self._bounds(index)
        kind: Any = pa.StringArray if self.column.type == STRING else pa.LargeStringArray
        buffer: Any = bounds
        pieces = kind.from_buffers(2 * rows - 1, pa.py_buffer(buffer), self._text.data)
        if self.column.null_count:
            null = self.column.is_null().to_numpy(zero_copy_only=False)
            missing = null if missing is None else missing | null
        return pieces.take(index_array(np.arange(0, 2 * rows, 2), missing))

    def _bounds(self, index: int) -> tuple[npt.NDArray[np.signedinteger], npt.NDArray[np.bool_] | None]:
        """Start and end of the part of each row, alternately; and the rows that have none, if any."""
        ends, cuts = self._text.ends, self._cuts
        bounds = np.empty(2 * len(self.column), ends.dtype)
        table = self._even
        if table is not None and 0 < index < table.shape[1]:
            np.add(table[:, index - 1], 1, out=bounds[0::2])
            bounds[1::2] = table[:, index]
            return bounds, None
        first, last = self._first[:-1], self._first[1:]
        cut = first + index if index >= 0 else last + (index + 1)  # the separator behind the part
        missing = (cut < first) | (cut > last)
        known = np.clip(cut, first, last)
        bounds[0::2] = np.where(known == first, ends[:-1], cuts[known - 1] + 1)
        bounds[1::2] = np.where(known == last, ends[1:], cuts[known])
        return bounds, missing if missing.any() else None
