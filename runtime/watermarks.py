"""Watermarks: of one source partition from its event times, and of a receiver from its inputs.

A watermark w says: no event with time < w is expected any more. With bounded out-of-orderness d a
source partition's watermark is the largest event time seen in it, less d (`PartitionClock`). Windows
fire by the minimum over the inputs that count (`InputWatermarks`): a finished input no longer counts,
nor does an idle one until it has caught up; when all are idle the highest is used.

Nothing here reads a clock: where wall time matters, it is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from millstream.batch import BoolArray, IntArray
from millstream.times import MAX_US, MIN_US, saturating_add


class InputStatus(IntEnum):
    """What an input says of itself with every message."""

    ACTIVE = 0
    IDLE = 1  # does not hold the minimum back: silent for its idle timeout, or not yet caught up since
    ENDED = 2  # nothing more will come


def times_before(times_us: IntArray, max_us: int) -> IntArray:
    """The largest time before each row, int64[n], where ``max_us`` is the largest before the first."""
    before = np.empty_like(times_us)
    before[:1] = max_us
    np.maximum.accumulate(times_us[:-1], out=before[1:])
    return np.maximum(before, max_us, out=before)


def watermark_before(times_us: IntArray, max_us: int, out_of_orderness_us: int, floor_us: int) -> IntArray | None:
    """The watermark before each row, or None when no row is at or behind it.

    Args:
        times_us: int64[n], event times of a block in the order of its source partition.
        max_us: the partition's largest time before the block; `MIN_US` when there was none.
        out_of_orderness_us: how much the watermark stays behind the largest time.
        floor_us: what the watermark is at least: higher than the partition's own only after idleness.
    """
    if len(times_us) == 0:
        return None
    highest_us = max(saturating_add(max(max_us, int(times_us.max())), -out_of_orderness_us), floor_us)
    if int(times_us.min()) > highest_us:
        return None
    largest = times_before(times_us, max_us)
    # The first row of a partition has nothing before it: "minus infinity less d" must not wrap.
    watermark = np.where(largest < MIN_US + out_of_orderness_us, MIN_US, largest - out_of_orderness_us)
    np.maximum(watermark, floor_us, out=watermark)
    return watermark if (times_us <= watermark).any() else None


def too_far_ahead(times_us: IntArray, max_us: int, max_ahead_us: int) -> BoolArray | None:
    """The rows further than ``max_ahead_us`` beyond the largest time accepted before them.

    A rejected row moves nothing, so the rows behind it are judged without it. The first row of a
    partition has nothing to be compared with and is accepted.

    Returns:
        bool[n], or None when there is none: the common case, found in one pass.
    """
    if len(times_us) == 0 or max_ahead_us == MAX_US:
        return None
    start_us = max_us if max_us != MIN_US else int(times_us[0])
    if int(times_us.max()) <= saturating_add(start_us, max_ahead_us):
        return None
    largest = times_before(times_us, start_us)
    if not (times_us > largest + max_ahead_us).any():
        return None
    rejected = np.zeros(len(times_us), np.bool_)
    current = start_us
    for row, time_us in enumerate(times_us.tolist()):
        if time_us > current + max_ahead_us:
            rejected[row] = True
        elif time_us > current:
            current = time_us
    return rejected


@dataclass(slots=True)
class PartitionClock:
    """The watermark of one source partition at one ``event_time()``.

    Attributes:
        max_us: the largest event time accepted.
        watermark_us: never goes back, also when idleness or the wall clock raised it.
    """

    out_of_orderness_us: int
    max_us: int = MIN_US
    watermark_us: int = MIN_US

    def advance(self, max_us: int) -> None:
        """Take note of the largest time of a block."""
        if max_us > self.max_us:
            self.max_us = max_us
            self.raise_to(saturating_add(max_us, -self.out_of_orderness_us))

    def raise_to(self, watermark_us: int) -> None:
        self.watermark_us = max(self.watermark_us, watermark_us)


@dataclass(slots=True)
class _Input:
    watermark_us: int = MIN_US
    status: InputStatus = InputStatus.ACTIVE


@dataclass(slots=True)
class InputWatermarks:
    """The watermark of a receiver: the minimum over its inputs.

    With no inputs at all there is no watermark; with all of them ended it is `MAX_US`.

    Attributes:
        highest_us: the highest watermark of any input, the end of the input not counted.
    """

    inputs: dict[int, _Input] = field(default_factory=dict)
    watermark_us: int = MIN_US
    highest_us: int = MIN_US

    def add(self, key: int) -> None:
        self.inputs.setdefault(key, _Input())

    def update(self, key: int, watermark_us: int, status: InputStatus) -> bool:
        """Take note of what an input says. Returns whether the receiver's watermark went up."""
        entry = self.inputs[key]
        entry.watermark_us = max(entry.watermark_us, watermark_us)
        if watermark_us < MAX_US:
            self.highest_us = max(self.highest_us, watermark_us)
        entry.status = status
        combined = self._combined()
        if combined <= self.watermark_us:
            return False
        self.watermark_us = combined
        return True

    def _combined(self) -> int:
        open_inputs = [i for i in self.inputs.values() if i.status is not InputStatus.ENDED]
        if not open_inputs:
            return MAX_US if self.inputs else MIN_US
        active = [i.watermark_us for i in open_inputs if i.status is InputStatus.ACTIVE]
        return min(active) if active else max(i.watermark_us for i in open_inputs)

    @property
    def open_inputs(self) -> set[int]:
        return {key for key, entry in self.inputs.items() if entry.status is not InputStatus.ENDED}

    @property
    def all_idle(self) -> bool:
        """Whether no input counts: what this receiver passes on is then idle, too."""
        return bool(self.inputs) and not any(i.status is InputStatus.ACTIVE for i in self.inputs.values())

    @property
    def ended(self) -> bool:
        return bool(self.inputs) and all(i.status is InputStatus.ENDED for i in self.inputs.values())
