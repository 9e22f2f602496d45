"""A list of numbers for each slot: ranges of one pool, each with room to grow.

A list that outgrows its range moves to the end of the pool; the pool is put together anew when most of it is
unused. Reading and writing some lists costs their length, however many others there are.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from millstream.batch import IntArray
from millstream.ranges import ranges
from millstream.state.columns import grown

_LEAST: Final = 1_024


class SlotLists:
    """Lists of int64 by slot; a slot that was never put has an empty one."""

    def __init__(self) -> None:
        self._pool: IntArray = np.zeros(_LEAST, np.int64)
        self._start: IntArray = np.zeros(_LEAST, np.int64)
        self._count: IntArray = np.zeros(_LEAST, np.int64)
        self._room: IntArray = np.zeros(_LEAST, np.int64)
        self._end = 0  # of the part of the pool that was given out
        self.numbers = 0

    def take(self, slots: IntArray) -> tuple[IntArray, IntArray]:
        """The lists of these slots, end to end: (length of each list, numbers)."""
        self._reach(slots)
        counts = self._count[slots]
        return counts, self._pool[ranges(self._start[slots], counts)]

    def put(self, slots: IntArray, counts: IntArray, numbers: IntArray) -> None:
        """Replace the lists of these slots, each given once, by numbers that lie end to end."""
        self._reach(slots)
        self.numbers += len(numbers) - int(self._count[slots].sum())
        self._count[slots] = counts
        self._room[slots[counts == 0]] = 0
        moving = slots[counts > self._room[slots]]
        if len(moving):
            self._move(moving)
        self._pool[ranges(self._start[slots], counts)] = numbers

    def replace_all(self, new: IntArray) -> None:
        """Put ``new[number]`` in place of each number."""
        slots = np.flatnonzero(self._count)
        rows = ranges(self._start[slots], self._count[slots])
        self._pool[rows] = new[self._pool[rows]]

    def all(self) -> tuple[IntArray, IntArray, IntArray]:
        """Everything: the slots that have numbers, the length of their lists, the numbers."""
        slots = np.flatnonzero(self._count)
        return slots, *self.take(slots)

    @property
    def nbytes(self) -> int:
        return self._pool.nbytes + self._start.nbytes + self._count.nbytes + self._room.nbytes

    def _reach(self, slots: IntArray) -> None:
        capacity = int(slots.max(initial=-1)) + 1
        if capacity > len(self._start):
            self._start = grown(self._start, capacity)
            self._count = grown(self._count, capacity)
            self._room = grown(self._room, capacity)

    def _move(self, slots: IntArray) -> None:
        """Give these slots a new range with room; what their old one holds is not wanted any more."""
        room = 2 ** np.ceil(np.log2(self._count[slots])).astype(np.int64)
        self._room[slots] = 0
        if self._end + int(room.sum()) > len(self._pool) and self._end > 2 * int(self._room.sum()) + _LEAST:
            self._compact(int(room.sum()))
        self._pool = grown(self._pool, self._end + int(room.sum()))
        self._room[slots] = room
        self._start[slots] = self._end + np.cumsum(room) - room
        self._end += int(room.sum())

    def _compact(self, spare: int) -> None:
        slots = np.flatnonzero(self._room)
        room = self._room[slots]
        start = np.cumsum(room) - room
        # A list that was just replaced may be shorter than what its range still holds: copy whole ranges.
        held = self._pool[ranges(self._start[slots], room)]
        self._end = len(held)
        self._pool = np.zeros(max(_LEAST, self._end + spare), np.int64)
        self._pool[: self._end] = held
        self._start[slots] = start
