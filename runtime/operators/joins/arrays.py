"""NumPy arrays that grow at the end.

What has been appended stays where it is until rows are forgotten, and then goes to new memory: a slice that was given out
does not change unless somebody writes to `values`.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

_Number = TypeVar("_Number", bound=np.generic)


class GrowingArray(Generic[_Number]):
    """A NumPy array with room at its end."""

    def __init__(self, dtype: type[_Number]) -> None:
        self._room: npt.NDArray[_Number] = np.empty(0, dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> npt.NDArray[_Number]:
        """What there is; writing to it changes the column."""
        return self._room[: self._count]

    def extend(self, values: npt.NDArray[_Number]) -> None:
        needed = self._count + len(values)
        if needed > len(self._room):
            room = np.empty(max(needed, 2 * len(self._room), 1_024), self._room.dtype)
            room[: self._count] = self.values
            self._room = room
        self._room[self._count : needed] = values
        self._count = needed

    def fill(self, count: int, value: Any) -> None:
        """Append ``count`` times the same value."""
        self.extend(np.full(count, value, self._room.dtype))

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        """Only these entries, in this order; the memory of the others returns."""
        self._room = self.values[rows]
        self._count = len(rows)

    @property
    def nbytes(self) -> int:
        return self._room.nbytes


class RareArray:
    """int64 values that are mostly missing: there is an array from the first that is not."""

    def __init__(self, missing: int) -> None:
        self._missing = missing
        self._values: GrowingArray[np.int64] | None = None
        self._count = 0

    def extend(self, values: npt.NDArray[np.int64] | None, count: int) -> None:
        """Append values; None: ``count`` that are missing."""
        if values is not None and self._values is None:
            self._values = GrowingArray(np.int64)
            self._values.fill(self._count, self._missing)
        if self._values is not None:
            self._values.extend(np.full(count, self._missing) if values is None else values)
        self._count += count

    def take(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64] | None:
        return None if self._values is None else self._values.values[rows]

    def slice(self, start: int, stop: int) -> npt.NDArray[np.int64] | None:
        return None if self._values is None else self._values.values[start:stop]

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        self._count = len(rows)
        if self._values is not None:
            self._values.keep(rows)

    @property
    def nbytes(self) -> int:
        return 0 if self._values is None else self._values.nbytes
