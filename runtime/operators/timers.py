"""Timers of keys on one clock: a heap by the moment at which each is due.

A timer is (key, name, time). Setting it again changes nothing, cancelling takes it back, and it fires once.
It is due at its time, but not before `now`: one that is set for the past, or for the very moment at which the
process stands, is due one microsecond later, when time has moved on. So timers fire in time order, and a timer
that always sets another for the past cannot stop time.

The timers of a key hang on its record, which is what is kept; the heap is made of them. A cancelled timer leaves
its entry in the heap, which is made anew when half of it is such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from millstream.times import MAX_US

if TYPE_CHECKING:
    from millstream.operators.process_state import KeyRecord

_SMALL: Final = 64


TimerKey = tuple[str, int, str]
"""What tells the timers of a key apart: clock, time in microseconds, name."""

Due = tuple[int, int, str, int, "KeyRecord"]
"""An entry of the heap: due_us, time_us, name, the number of its setting, and the record of its key.

In this order, so that the timers of one key that are due at one moment go by time and name, whatever was set first.
Plain tuples: one is made for each timer.
"""


class Timers:
    """The timers of one clock.

    Args:
        changing: is told of each record before a timer of it fires or is removed with all others.
    Attributes:
        next_us: when the first is due, cancelled ones included; `MAX_US` when there is none.
        count: how many are set.
    """

    __slots__ = ("_changing", "_heap", "_number", "clock", "count", "next_us")

    def __init__(self, clock: str, changing: Callable[[KeyRecord], None]) -> None:
        self._changing = changing
        self.clock = clock
        self.next_us = MAX_US
        self.count = 0
        self._heap: list[Due] = []
        self._number = 0

    def set(self, record: KeyRecord, time_us: int, name: str, now_us: int) -> None:
        key = (self.clock, time_us, name)
        timers = record.timers
        if timers is None:
            timers = record.timers = {}
        elif key in timers:
            return
        due_us = time_us if time_us > now_us else now_us + 1
        self._number += 1
        entry = timers[key] = (due_us, time_us, name, self._number, record)
        heappush(self._heap, entry)
        self.count += 1
        if due_us < self.next_us:
            self.next_us = due_us

    def cancel(self, record: KeyRecord, time_us: int | None, name: str) -> bool:
        """Take back one timer, or all of a name. Returns whether there was one."""
        if not record.timers:
            return False
        if time_us is not None:
            cancelled = [k for k in ((self.clock, time_us, name),) if k in record.timers]
        else:
            cancelled = [k for k in record.timers if (k[0], k[2]) == (self.clock, name)]
        for key in cancelled:
            del record.timers[key]
        if not record.timers:
            record.timers = None
        self.count -= len(cancelled)
        if len(self._heap) > _SMALL and len(self._heap) > 2 * self.count:
            self._heap = [e for e in self._heap if _is_set(e, self.clock)]
            heapify(self._heap)
        self._look()
        return bool(cancelled)

    def pop(self, until_us: int) -> Due | None:
        """Remove and return the first timer that is due at ``until_us``; None: there is none any more."""
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            entry = heappop(heap)
            _, time_us, name, _, record = entry
            timers = record.timers
            key = (self.clock, time_us, name)
            if timers is not None and timers.get(key) is entry:
                self._changing(record)
                del timers[key]
                if not timers:
                    record.timers = None
                self.count -= 1
                self.next_us = heap[0][0] if heap else MAX_US
                return entry
        self._look()
        return None

    def clear(self) -> list[KeyRecord]:
        """Remove all timers; returns the records that had one."""
        entries = list(self)
        for _, time_us, name, _, record in entries:
            assert record.timers is not None
            self._changing(record)
            del record.timers[self.clock, time_us, name]
            record.timers = record.timers or None
        self._heap = []
        self.count = 0
        self.next_us = MAX_US
        return [record for *_, record in entries]

    def __iter__(self) -> Iterator[Due]:
        return (entry for entry in sorted(self._heap) if _is_set(entry, self.clock))

    def _look(self) -> None:
        self.next_us = self._heap[0][0] if self._heap else MAX_US


def _is_set(entry: Due, clock: str) -> bool:
    _, time_us, name, _, record = entry
    return record.timers is not None and record.timers.get((clock, time_us, name)) is entry
