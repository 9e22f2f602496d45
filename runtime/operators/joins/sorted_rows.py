"""Where the rows of a key are, and those of a span of time among them: row numbers sorted by (key, time).

A batch becomes a `Segment` of its own; segments of about one size are merged a few at a time, as in a
log-structured merge tree (O'Neil et al., 1996), so that a row is moved a logarithm of times and a look touches a
logarithm of segments, and of those only the ones that overlap it in time. Key and time are packed into one
integer, so that a look is a binary search of NumPy's, and one over sorted queries, which stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from millstream.batch import IntArray

_FAN: Final = 4
_PACKED_LIMIT: Final = 1 << 62
PAIRS_AT_ONCE: Final = 65_536


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows sorted by (key, time).

    Attributes:
        packed: int64[n], ascending: key * width + the place of the time among those of the segment.
        row: int64[n], the number of each row where it is kept.
        key: int64[n], the number of its key.
        time_us: int64[n]; None where only keys are looked for.
        ranks: the distinct times, where times are too far apart to be packed as they are.
        base_us, width: a time's place is ``time - base_us`` (or its rank), below ``width``.
    """

    packed: IntArray
    row: IntArray
    key: IntArray
    time_us: IntArray | None
    ranks: IntArray | None
    base_us: int
    last_us: int
    width: int

    def __len__(self) -> int:
        return len(self.row)

    def find(self, key: IntArray, from_us: IntArray | None, to_us: IntArray | None) -> tuple[IntArray, IntArray]:
        """For each query the range [start, end) of this segment's entries with its key and a time in [from, to]."""
        key = np.minimum(key, int(self.key[-1]) + 1)  # beyond the last key there is nothing, and nothing may overflow
        if self.time_us is None:
            return np.searchsorted(self.packed, key), np.searchsorted(self.packed, key, "right")
        assert from_us is not None and to_us is not None
        packed = key * self.width
        start = np.searchsorted(self.packed, packed + self._place(from_us, "left"))
        end = np.searchsorted(self.packed, packed + self._place(to_us, "right"))
        return start, end

    def _place(self, time_us: IntArray, side: str) -> IntArray:
        """How many of the segment's places are before a time ("left"), or up to it ("right")."""
        if self.ranks is not None:
            return np.searchsorted(self.ranks, time_us, "left" if side == "left" else "right")
        low = self.base_us if side == "left" else self.base_us - 1
        return np.clip(time_us, low, low + self.width - 1) - low

    def keep(self, new_row: IntArray, new_key: IntArray | None) -> Segment | None:
        """The entries whose row is still there, under their new numbers (-1: gone)."""
        row = new_row[self.row]
        left = row >= 0
        if not left.any():
            return None
        key = self.key[left] if new_key is None else new_key[self.key[left]]
        return make_segment(key, None if self.time_us is None else self.time_us[left], row[left], in_order=True)

    @property
    def nbytes(self) -> int:
        times = 0 if self.time_us is None else self.time_us.nbytes
        return self.packed.nbytes + self.row.nbytes + self.key.nbytes + times


def make_segment(key: IntArray, time_us: IntArray | None, row: IntArray, *, in_order: bool = False) -> Segment:
    """A segment of rows in any order, at least one.

    Args:
        in_order: the rows are sorted by (key, time) already.
    """
    packed, ranks, base_us, last_us, width = key, None, 0, 0, 1
    if time_us is not None:
        base_us, last_us = int(time_us.min()), int(time_us.max())
        width = last_us - base_us + 2
        if (int(key.max()) + 2) * width < _PACKED_LIMIT:
            packed = key * width + (time_us - base_us)
        else:
            ranks, place = np.unique(time_us, return_inverse=True)
            width = len(ranks) + 1
            packed = key * width + place
    if not in_order:
        order = np.argsort(packed)
        key, packed, row = key[order], packed[order], row[order]
        time_us = None if time_us is None else time_us[order]
    return Segment(packed, row, key, time_us, ranks, base_us, last_us, width)


@dataclass(frozen=True, slots=True)
class Found:
    """What a look found: for query i the rows ``row[start[i] : start[i] + count[i]]``."""

    row: IntArray
    start: IntArray
    count: IntArray

    def pairs(self) -> Iterator[tuple[IntArray, IntArray]]:
        """(query, row) of all that was found, `PAIRS_AT_ONCE` at a time, however many rows one key has."""
        ends = np.cumsum(self.count)
        total = int(ends[-1]) if len(ends) else 0
        offset = self.start - (ends - self.count)  # from the number of a pair to its entry
        for first in range(0, total, PAIRS_AT_ONCE):
            last = min(first + PAIRS_AT_ONCE, total)
            low, high = np.searchsorted(ends, [first, last - 1], "right")
            counts = self.count[low : high + 1].copy()
            counts[-1] -= ends[high] - last
            counts[0] -= first - (ends[low] - self.count[low])
            query = np.repeat(np.arange(low, high + 1), counts)
            yield query, self.row[np.arange(first, last) + offset[query]]


def pairs_of(founds: Iterable[Found]) -> Iterator[tuple[IntArray, IntArray]]:
    """(query, row) of several looks, small ones together: what is made of pairs costs as much for few as for many."""
    held: list[tuple[IntArray, IntArray]] = []
    count = 0
    for found in founds:
        for query, row in found.pairs():
            held.append((query, row))
            count += len(row)
            if 2 * count > PAIRS_AT_ONCE:
                yield _end_to_end(held)
                held, count = [], 0
    if held:
        yield _end_to_end(held)


def _end_to_end(parts: Sequence[tuple[IntArray, IntArray]]) -> tuple[IntArray, IntArray]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([q for q, _ in parts]), np.concatenate([r for _, r in parts])


class SortedRows:
    """The rows of one side, by (key, time) or by key alone."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def add(self, segment: Segment) -> None:
        self.segments.append(segment)
        while True:
            limit = _FAN * len(self.segments[-1])
            alike = 0
            for earlier in reversed(self.segments):
                if len(earlier) >= limit:
                    break
                alike += 1
            if alike < _FAN:
                return
            self.segments[-alike:] = [_merged(self.segments[-alike:])]

    def find(self, key: IntArray, from_us: IntArray | None, to_us: IntArray | None) -> Iterator[Found]:
        """Where the rows of each query are; queries sorted by (key, time) are answered fastest."""
        if not len(key):
            return
        from_least = None if from_us is None else int(from_us.min())
        to_most = None if to_us is None else int(to_us.max())
        for segment in self.segments:
            if from_least is not None and segment.last_us < from_least:
                continue
            if to_most is not None and segment.base_us > to_most:
                continue
            start, end = segment.find(key, from_us, to_us)
            count = np.maximum(end - start, 0)
            if count.any():
                yield Found(segment.row, start, count)

    def keep(self, new_row: IntArray, new_key: IntArray | None) -> None:
        """Follow rows and keys to their new numbers; those that are gone (-1) are forgotten."""
        kept = [s.keep(new_row, new_key) for s in self.segments]
        self.segments = [s for s in kept if s is not None]

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.segments)


def _merged(segments: Sequence[Segment]) -> Segment:
    times = [s.time_us for s in segments if s.time_us is not None]
    return make_segment(
        np.concatenate([s.key for s in segments]),
        np.concatenate(times) if times else None,
        np.concatenate([s.row for s in segments]),
    )


class DueRows:
    """Rows by event time: which of them a watermark has passed."""

    _RUNS_KEPT: Final = 16

    def __init__(self) -> None:
        self._runs: list[tuple[IntArray, IntArray]] = []  # times ascending, and the rows

    def add(self, time_us: IntArray, row: IntArray) -> None:
        if len(time_us):
            order = np.argsort(time_us, kind="stable")
            self._runs.append((time_us[order], row[order]))
        if len(self._runs) > self._RUNS_KEPT:
            self._runs = [self._together(self._runs)]

    def take_before(self, limit_us: int) -> IntArray:
        """Remove and return the rows with time < limit, by time."""
        due: list[tuple[IntArray, IntArray]] = []
        left: list[tuple[IntArray, IntArray]] = []
        for time_us, row in self._runs:
            at = int(np.searchsorted(time_us, limit_us))
            if at:
                due.append((time_us[:at], row[:at]))
            if at < len(row):
                left.append((time_us[at:], row[at:]))
        self._runs = left
        return self._together(due)[1] if due else np.zeros(0, np.int64)

    def keep(self, new_row: IntArray) -> None:
        """Follow rows to their new numbers; those that are gone (-1) are forgotten."""
        runs = [(time_us, new_row[row]) for time_us, row in self._runs]
        self._runs = [(time_us[row >= 0], row[row >= 0]) for time_us, row in runs]

    @staticmethod
    def _together(runs: Sequence[tuple[IntArray, IntArray]]) -> tuple[IntArray, IntArray]:
        time_us, row = np.concatenate([t for t, _ in runs]), np.concatenate([r for _, r in runs])
        order = np.argsort(time_us, kind="stable")
        return time_us[order], row[order]
