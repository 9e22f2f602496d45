"""Which sessions put out a pane at a watermark, as which, and with which it is over: whole columns at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from millstream.batch import BoolArray, IntArray
from millstream.operators.windows import panes
from millstream.operators.windows.panes import TimingArray
from millstream.operators.windows.parts import SessionParts
from millstream.times import MAX_US, MIN_US, saturating_add


@dataclass(frozen=True, slots=True)
class Firing:
    """What becomes of each session.

    Attributes:
        due: it puts out a pane.
        expired: nothing more comes to it.
        pane: int64[n], the number of that pane.
        timing: int8[n], of that pane.
    """

    due: BoolArray
    expired: BoolArray
    pane: IntArray
    timing: TimingArray


@dataclass(frozen=True, slots=True)
class FiringDelays:
    """How long after its end a session fires, and expires."""

    fire_us: int
    expire_us: int

    def at(
        self,
        watermark_us: int,
        before_us: int,
        end_us: IntArray,
        changed: BoolArray,
        full: BoolArray,
        last: tuple[IntArray, TimingArray],
    ) -> Firing:
        """Which sessions fire at a watermark.

        Args:
            before_us: the watermark at which this was asked last.
            changed: rows came to it since its last pane.
            full: by enough for an early pane.
            last: number and timing of its last pane.
        """
        pane, timing = last
        ended = _reached(end_us, self.fire_us, watermark_us)
        early = changed & ~ended & full
        # A session fires at its end also where an early pane said everything already.
        due = early | (ended & (changed | ((pane >= 0) & (timing == panes.EARLY))))
        ended_before = _reached(end_us, self.fire_us, before_us)
        now = np.where(early, panes.EARLY, np.where(ended_before, panes.LATE, panes.ON_TIME)).astype(np.int8)
        return Firing(due, _reached(end_us, self.expire_us, watermark_us), pane + 1, now)


def last_panes(count: int, shown: SessionParts, of: IntArray) -> tuple[IntArray, TimingArray]:
    """The number and timing of the last pane of each session, -1 for none."""
    pane, timing = np.full(count, -1, np.int64), np.zeros(count, np.int8)
    np.maximum.at(pane, of, shown.pane)
    last = shown.pane == pane[of]
    timing[of[last]] = shown.timing[last]
    return pane, timing


def _reached(end_us: IntArray, delay_us: int, watermark_us: int) -> BoolArray:
    """Whether end + delay <= watermark."""
    if watermark_us == MAX_US:
        return np.ones(len(end_us), np.bool_)
    if watermark_us == MIN_US or delay_us == MAX_US:
        return np.zeros(len(end_us), np.bool_)
    reached: BoolArray = end_us <= saturating_add(watermark_us, -delay_us)
    return reached
