"""Columns of state: a value for each slot (`SlotColumn`), and rows by the number they were added under (`RowLog`).

Values with a NumPy type are overwritten in place. Others (text, lists, what may be null) are appended to a log in
parts, each at least twice as long as the next, so that adding a batch costs a logarithm and not a copy of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from millstream.accumulators import Column, concat, nbytes, take
from millstream.batch import IntArray

_FIRST_CAPACITY: Final = 1_024

Index = npt.NDArray[np.integer]


class ColumnLog:
    """One column that is appended to; a value keeps its number when parts are put together.

    Many parts cost every read a little, so they are put together as well when as much was read as is there.
    """

    def __init__(self) -> None:
        self._parts: list[Column] = []
        self._starts: list[int] = []
        self._length = 0
        self._read = 0

    def __len__(self) -> int:
        return self._length

    def append(self, values: Column) -> None:
        if len(values) == 0 and self._parts:
            return
        self._parts.append(values)
        self._starts.append(self._length)
        self._length += len(values)
        while len(self._parts) > 1 and len(self._parts[-2]) <= 2 * len(self._parts[-1]):
            last = self._parts.pop()
            self._starts.pop()
            self._parts[-1] = concat([self._parts[-1], last])

    def take(self, numbers: Index) -> Column:
        """The values with these numbers, in this order; something was appended before, be it of no length."""
        self._read += len(numbers)
        if len(self._parts) > 1 and self._read > self._length:
            self._parts, self._starts, self._read = [concat(self._parts)], [0], 0
        if len(self._parts) == 1 or len(numbers) == 0:
            return take(self._parts[0], numbers)
        part_of = np.searchsorted(self._starts, numbers, side="right") - 1
        used = np.unique(part_of)
        if len(used) == 1:
            part = int(used[0])
            return take(self._parts[part], numbers - self._starts[part])
        order = np.argsort(part_of, kind="stable")
        bounds = np.searchsorted(part_of[order], used)
        found = [
            take(self._parts[part], numbers[rows] - self._starts[part])
            for part, rows in zip(used.tolist(), np.split(order, bounds[1:]), strict=True)
        ]
        back = np.empty(len(order), np.intp)
        back[order] = np.arange(len(order))
        return take(concat(found), back)

    def keep(self, numbers: Index) -> None:
        """Forget all values but these, which are numbered anew from 0."""
        self._parts, self._starts, self._length = [self.take(numbers)], [0], len(numbers)

    @property
    def nbytes(self) -> int:
        return sum(map(nbytes, self._parts))


class SlotColumn:
    """One value for each slot that has been put."""

    def __init__(self) -> None:
        self._values: npt.NDArray[Any] | None = None
        self._log: ColumnLog | None = None
        self._at = np.full(0, -1, np.int64)

    def take(self, slots: IntArray) -> Column:
        if self._log is not None:
            return self._log.take(self._at[slots])
        assert self._values is not None
        return self._values[slots]

    def put(self, slots: IntArray, rows: Column, room: int = 0) -> None:
        """Set the values of these slots, each at most once; room: for how many slots there should be room."""
        if len(slots) == 0:
            return
        capacity = max(room, int(slots.max()) + 1)
        if self._log is None and isinstance(rows, np.ndarray):
            if self._values is None:
                self._values = np.zeros(max(_FIRST_CAPACITY, capacity), rows.dtype)
            if rows.dtype == self._values.dtype:
                self._values = grown(self._values, capacity)
                self._values[slots] = rows
                return
        self._at = grown(self._at, capacity, -1)
        if self._log is None:
            self._log = ColumnLog()
            if self._values is not None:
                # The column widens or shows its first null: from now on it is a log.
                self._log.append(self._values)
                self._at = grown(self._at, len(self._values), -1)
                self._at[: len(self._values)] = np.arange(len(self._values))
                self._values = None
        start = len(self._log)
        self._log.append(rows)
        self._at[slots] = np.arange(start, start + len(slots))
        if len(self._log) > 2 * len(self._at) + _FIRST_CAPACITY:
            self._compact()

    def forget(self, slots: IntArray) -> None:
        """Let go of the values of these slots; what they held is freed in time."""
        if self._log is not None:
            self._at[slots] = -1
        elif self._values is not None and self._values.dtype == object:
            self._values[slots] = None

    def _compact(self) -> None:
        assert self._log is not None
        used = np.flatnonzero(self._at >= 0)
        self._log.keep(self._at[used])
        self._at[used] = np.arange(len(used))

    @property
    def nbytes(self) -> int:
        return (0 if self._values is None else nbytes(self._values)) + (0 if self._log is None else self._log.nbytes)


class RowLog:
    """Rows of several columns, numbered as they are added."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._columns = [ColumnLog() for _ in range(width)]
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, columns: Sequence[Column], rows: int) -> IntArray:
        """Add rows; returns their numbers."""
        for log, values in zip(self._columns, columns, strict=True):
            log.append(values)
        first, self._length = self._length, self._length + rows
        return np.arange(first, self._length)

    def take(self, column: int, numbers: Index) -> Column:
        return self._columns[column].take(numbers)

    def keep(self, numbers: Index) -> None:
        """Forget all rows but these, which are numbered anew from 0."""
        for log in self._columns:
            log.keep(numbers)
        self._length = len(numbers)

    @property
    def nbytes(self) -> int:
        return sum(log.nbytes for log in self._columns)


def grown(values: npt.NDArray[Any], capacity: int, fill: int = 0) -> npt.NDArray[Any]:
    """The array, or a copy at least twice as long where it is shorter than ``capacity``."""
    if capacity <= len(values):
        return values
    size = max(capacity, 2 * len(values), _FIRST_CAPACITY)
    # Zeros take no memory before something is put in their place.
    longer = np.empty(size, values.dtype) if fill else np.zeros(size, values.dtype)
    longer[: len(values)] = values
    if fill:
        longer[len(values) :] = fill
    return longer
