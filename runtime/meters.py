"""What a process measures of its own work: how long things took, how old rows are, which keys have many rows.

Counting is done once for a batch and never for a row. Every meter gives figures that are plain data and that add up:
those of several processes are those of the run, and those of two moments are those of the time between. Nothing is
decided by what is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from millstream.batch import Batch, Keys
from millstream.times import format_us

BUCKETS_AN_OCTAVE: Final = 8
"""So a bucket is 9 % wide, and a quantile is off by less than 5 %."""


@dataclass(slots=True)
class LatencyHistogram:
    """How long rows took, in buckets whose width grows with the time.

    Attributes:
        buckets: number of rows by bucket; bucket b holds times of 2**(b/8) to 2**((b+1)/8) microseconds.
    """

    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, elapsed_us: int, rows: int) -> None:
        bucket = int(math.log2(max(1, elapsed_us)) * BUCKETS_AN_OCTAVE)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + rows


def quantile_us(buckets: Mapping[int, int], share: float) -> float | None:
    """The time that this share of the rows did not exceed, in microseconds; None: there are no rows."""
    total = sum(buckets.values())
    if total <= 0:
        return None
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= share * total:
            break
    return float(2 ** ((bucket + 0.5) / BUCKETS_AN_OCTAVE))


_SAMPLE_EVERY: Final = 8
_SAMPLE_ROWS: Final = 4_096
_SMALLEST_SHARE: Final = 1 / 128
_KEYS_KEPT: Final = 64
_KEYS_SHOWN: Final = 10
_MEMORY_ROWS: Final = 2**22
_TEXT_LENGTH: Final = 60


@dataclass(slots=True)
class _Counter:
    rows: int
    error: int = 0


@dataclass(slots=True)
class KeySketch:
    """The keys with the most rows, of late: Space-Saving over a few thousand rows of one batch in eight.

    A key that is not among the counters takes the place of the one with the fewest rows, and its count with it as an
    error. Keys with few rows in a batch are not looked at: none of them is hot. Counts are halved now and then, so that
    a key which was hot an hour ago is not so for ever.

    Metwally et al., "Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005.
    """

    rows: int = 0
    counters: dict[str, _Counter] = field(default_factory=dict)
    _batches: int = 0

    def offer(self, keys: Keys) -> None:
        """Take note of a batch's keys, or leave it out."""
        self._batches += 1
        if self._batches % _SAMPLE_EVERY != 1 or not len(keys.codes):
            return
        codes = keys.codes[:: max(1, len(keys.codes) // _SAMPLE_ROWS)]
        rows = len(codes)
        counts = np.bincount(codes)
        heavy = np.flatnonzero(counts >= max(1.0, rows * _SMALLEST_SHARE))
        self.rows += rows
        for values, count in zip(keys.distinct.take(heavy).to_pylist(), counts[heavy].tolist(), strict=True):
            self._add(_text(values.values()), count)
        if self.rows > _MEMORY_ROWS:
            self._forget_half()

    def _add(self, key: str, rows: int) -> None:
        known = self.counters.get(key)
        if known is not None:
            known.rows += rows
        elif len(self.counters) < _KEYS_KEPT:
            self.counters[key] = _Counter(rows)
        else:
            least = min(self.counters, key=lambda k: self.counters[k].rows)
            error = self.counters.pop(least).rows
            self.counters[key] = _Counter(error + rows, error)

    def _forget_half(self) -> None:
        self.rows //= 2
        for counter in self.counters.values():
            counter.rows //= 2
            counter.error //= 2

    def figures(self) -> list[Any]:
        """[rows looked at, [[key, rows that are certainly its], ...]], the hottest first."""
        certain = sorted(((c.rows - c.error, key) for key, c in self.counters.items()), reverse=True)
        return [self.rows, [[key, rows] for rows, key in certain[:_KEYS_SHOWN] if rows]]


ROWS_SHOWN: Final = 8
_VALUE_LENGTH: Final = 200


def last_rows(batch: Batch) -> list[Any]:
    """[names, rows as texts]: the last rows of a batch, with their keys, and their event times where they have any."""
    few = batch.slice(max(0, batch.num_rows - ROWS_SHOWN), ROWS_SHOWN)
    columns = few.all_columns()
    names, values = list(columns.schema.names), [c.to_pylist() for c in columns.columns]
    if few.time_us is not None:
        names, values = [*names, "event time"], [*values, [format_us(int(t)) for t in few.time_us]]
    return [names, [[shortened(v) for v in row] for row in zip(*values, strict=True)]]


def shortened(value: object) -> str:
    """A value as it is shown beside others."""
    return _cut(str(value), _VALUE_LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _text(values: Iterable[Any]) -> str:
    return _cut(", ".join(map(str, values)), _TEXT_LENGTH)


def add_counts(total: dict[Any, Any], more: Mapping[Any, int]) -> None:
    """Add counters to others, name by name."""
    for name, value in more.items():
        total[name] = total.get(name, 0) + value
