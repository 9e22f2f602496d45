"""Where windows lie: times to slices, and slices to windows.

Time is cut into slices that no window cuts through: for hopping windows gcd(size, slide) wide, for others as
wide as the window. A slice has a number, and so has a window: window w is made of the slices from
w * step to w * step + width - 1. Only slices know where they are in time, so that days of a time zone need
nothing else than slices of other lengths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import gcd
from typing import Final

import numpy as np

from millstream.batch import IntArray
from millstream.specs.windows import Windows
from millstream.times import MAX_US, MIN_US, saturating_add
from millstream.zones import DAY_US, ZoneClock

AFTER_ALL: Final = 2**62
"""A window number behind every window: all have fired, or all have expired."""
_USABLE_US: Final = 2**62


class Slices(ABC):
    """A cut of time into numbered slices, each half-open."""

    @abstractmethod
    def of(self, time_us: IntArray) -> IntArray:
        """The slice of each time."""

    @abstractmethod
    def start_us(self, slices: IntArray) -> IntArray:
        """When each slice starts."""


@dataclass(frozen=True)
class EvenSlices(Slices):
    width_us: int
    offset_us: int

    def of(self, time_us: IntArray) -> IntArray:
        # NumPy divides unsigned integers by a constant several times faster than it floors signed ones,
        # so times are counted from the batch's lowest.
        if len(time_us) == 0:
            return time_us
        lowest = (int(time_us.min()) - self.offset_us) // self.width_us
        relative = (time_us - (lowest * self.width_us + self.offset_us)).view(np.uint64)
        return (relative // np.uint64(self.width_us)).view(np.int64) + lowest

    def start_us(self, slices: IntArray) -> IntArray:
        return slices * self.width_us + self.offset_us


class DaySlices(Slices):
    """Slices of whole days on the clock of a time zone, whatever their length is there."""

    def __init__(self, days: int, offset_us: int, clock: ZoneClock) -> None:
        self.shown = EvenSlices(days * DAY_US, offset_us)
        self.clock = clock

    def of(self, time_us: IntArray) -> IntArray:
        slices = self.shown.of(self.clock.shown_at(time_us))
        # A clock that is set back across midnight shows the old day again, but the new one has begun.
        return slices + (self.start_us(slices + 1) <= time_us)

    def start_us(self, slices: IntArray) -> IntArray:
        return self.clock.first_shows(self.shown.start_us(slices))


class WindowLayout:
    """Where the windows of a spec lie.

    Attributes:
        slices: the cut of time.
        width: how many slices a window is made of.
        step: how many slices further the next window starts.
    """

    def __init__(self, windows: Windows, where: str) -> None:
        slice_us = gcd(windows.size_us, windows.slide_us)
        self.width = windows.size_us // slice_us
        self.step = windows.slide_us // slice_us
        self.slices: Slices = EvenSlices(slice_us, windows.offset_us)
        if windows.zone is not None:
            self.slices = DaySlices(slice_us // DAY_US, windows.offset_us, ZoneClock(windows.zone, where))

    @property
    def overlap(self) -> bool:
        """Whether an event may be in several windows."""
        return self.width > self.step

    def first(self, slices: IntArray) -> IntArray:
        """The first window that each slice is in."""
        return slices - self.width + 1 if self.step == 1 else (slices - self.width) // self.step + 1

    def last(self, slices: IntArray) -> IntArray:
        """The last window that each slice is in."""
        return slices if self.step == 1 else slices // self.step

    def bounds_us(self, windows: IntArray) -> tuple[IntArray, IntArray]:
        """When each window starts and ends."""
        first = windows * self.step
        return self.slices.start_us(first), self.slices.start_us(first + self.width)

    def end_us(self, window: int) -> int:
        return int(self.bounds_us(np.array([window], np.int64))[1][0])

    def ended(self, watermark_us: int, delay_us: int = 0) -> int:
        """The first window with end + delay > watermark."""
        if watermark_us == MAX_US:
            return AFTER_ALL
        if watermark_us == MIN_US or delay_us == MAX_US:
            return -AFTER_ALL
        reached_us = saturating_add(watermark_us, -delay_us)
        if abs(reached_us) > _USABLE_US:
            return AFTER_ALL if reached_us > 0 else -AFTER_ALL
        return self._ended(np.array([reached_us], np.int64)).item()

    def ended_each(self, watermark_us: IntArray, delay_us: int) -> IntArray:
        """For each watermark, the first window with end + delay > watermark."""
        if delay_us == MAX_US:
            return np.full(len(watermark_us), -AFTER_ALL)
        reached_us = np.maximum(watermark_us, -_USABLE_US + delay_us) - delay_us
        ended = self._ended(np.clip(reached_us, -_USABLE_US, _USABLE_US))
        ended[reached_us <= -_USABLE_US] = -AFTER_ALL
        ended[watermark_us == MAX_US] = AFTER_ALL
        return ended

    def _ended(self, reached_us: IntArray) -> IntArray:
        # A window has ended when the slice behind its last has started.
        return (self.slices.of(reached_us) - self.width) // self.step + 1
