"""A hash table from 64-bit hashes to numbers, whose steps are taken by a whole batch at once.

Places are found by linear probing. The table holds numbers alone: what they stand for, and the hash of each, is kept by
whoever gives the numbers out, in columns by number. Numbers take four bytes: memory that is touched for the first time
costs more than all else where a large table is made at once, as it is after a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from millstream.batch import BoolArray, CodeArray, IntArray
from millstream.grouping import IndexArray
from millstream.keys import HashArray

_EMPTY: Final = -1
_REMOVED: Final = -2
_FIRST_SIZE: Final = 2_048
_BEYOND_CACHES: Final = 1 << 22
_NEAR: Final = 64

Equal = Callable[[IntArray, IndexArray], BoolArray]
"""Whether what these numbers stand for is what is in these rows, one by one."""


class HashTable:
    """Numbers from 0, by hashes that are given with every call: the hash of number i is ``known[i]``.

    ``known`` has room for at least two, so that the marks of places without a number can be looked up in it, too.
    """

    def __init__(self) -> None:
        self._places: IntArray | CodeArray = np.full(_FIRST_SIZE, _EMPTY, np.int32)
        self._taken = 0  # places that are not empty, those of removed numbers among them

    def in_order(self, hashes: HashArray) -> IndexArray:
        """All rows, in an order in which they are quickly looked for: through a large table from its beginning to its end."""
        size, count = len(self._places), len(hashes)
        if not _BEYOND_CACHES <= size <= min(count * _NEAR, 1 << 32):
            return np.arange(count)
        ordered = hashes & np.uint64(size - 1)
        ordered <<= np.uint64(32)
        ordered |= np.arange(count, dtype=np.uint64)
        ordered.sort()  # several times faster than argsort
        ordered &= np.uint64(0xFFFF_FFFF)
        return ordered.view(np.intp)

    def find(self, known: HashArray, hashes: HashArray, rows: IndexArray, equal: Equal | None) -> IntArray:
        """The number of each row, int64[hashes]; -1 where there is none.

        Args:
            hashes: of all rows.
            rows: those to look for.
            equal: None: where hashes are equal, so is what they are made of.
        """
        found = np.full(len(hashes), -1)
        last = len(self._places) - 1
        wanted = hashes[rows]
        at = (wanted & np.uint64(last)).view(np.intp)
        while len(rows):
            number = self._places[at]
            alike = (known[number] == wanted) & (number >= 0)
            found[rows[alike]] = number[alike]
            left = np.flatnonzero(~alike & (number != _EMPTY))
            rows, wanted, at = rows[left], wanted[left], (at[left] + 1) & last
        if equal is None:
            return found
        # All at once: of rows with one hash, which is next to never, the right one is looked for by itself.
        hits = np.flatnonzero(found >= 0)
        if len(hits):
            for row in hits[~equal(found[hits], hits)].tolist():
                found[row] = self._find_among_alike(known, row, int(hashes[row]), equal)
        return found

    def _find_among_alike(self, known: HashArray, row: int, row_hash: int, equal: Equal) -> int:
        last = len(self._places) - 1
        at = row_hash & last
        while (number := int(self._places[at])) != _EMPTY:
            alike = number >= 0 and int(known[number]) == row_hash
            if alike and equal(np.array([number]), np.array([row]))[0]:
                return number
            at = (at + 1) & last
        return -1

    def has_room(self, count: int) -> bool:
        """Whether so many more numbers can be inserted; otherwise `rebuild`."""
        return 2 * (self._taken + count) <= len(self._places)

    def insert(self, known: HashArray, numbers: IntArray) -> None:
        """Give places to numbers that have none."""
        if len(known) > 1 << 31 and self._places.dtype != np.int64:
            self._places = self._places.astype(np.int64)
        last = len(self._places) - 1
        self._taken += len(numbers)
        at = (known[numbers] & np.uint64(last)).astype(np.intp)
        while len(numbers):
            room = self._places[at] == _EMPTY
            self._places[at[room]] = numbers[room]  # of several for one place, the last stays
            left = self._places[at] != numbers
            numbers, at = numbers[left], (at[left] + 1) & last

    def remove(self, known: HashArray, numbers: IntArray) -> None:
        last = len(self._places) - 1
        at = (known[numbers] & np.uint64(last)).astype(np.intp)
        while len(wrong := np.flatnonzero(self._places[at] != numbers)):
            at[wrong] = (at[wrong] + 1) & last
        self._places[at] = _REMOVED

    def rebuild(self, known: HashArray, numbers: IntArray, room: int = 0) -> None:
        """Hold these numbers and no others; room: for how many there should be room."""
        size = _FIRST_SIZE
        while size < max(4 * len(numbers), 2 * room):
            size *= 2
        self._places, self._taken = np.full(size, _EMPTY, np.int32), 0
        self.insert(known, numbers)

    @property
    def nbytes(self) -> int:
        return self._places.nbytes
