"""Clocks of time zones: what they show at an instant, and when they first show a time; columns at a time.

`zoneinfo` answers for one instant and does not tell its transitions, so they are found by asking it for every day
in which times have been seen, and kept. Before the year 1 and after 9999 the clock stays as it is there.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from millstream.batch import IntArray
from millstream.errors import FlowError
from millstream.times import SECOND_US

DAY_US: Final = 86_400 * SECOND_US
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# A day away from what `datetime` can show, for its answers are in local time.
_FIRST_DAY: Final = (datetime(1, 1, 3, tzinfo=UTC) - _EPOCH).days
_LAST_DAY: Final = (datetime(9999, 12, 29, tzinfo=UTC) - _EPOCH).days
_MARGIN_DAYS: Final = 400


def load_zone(name: str, where: str) -> ZoneInfo:
    """Raises:
    FlowError: there is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise FlowError(
            f"{where}: tz={name!r} is no time zone that this machine knows; use a name such as 'Europe/Berlin', "
            "and `pip install tzdata` where the system has no zones"
        ) from error


class ZoneClock:
    """The clock of a zone.

    Attributes:
        starts_us: int64[n], when each offset starts to hold; the first, "before everything", is the least int64.
        offsets_us: int64[n], what the clock is ahead of UTC.
    """

    def __init__(self, name: str, where: str) -> None:
        self._zone = load_zone(name, where)
        self._days: tuple[int, int] | None = None
        self.starts_us: IntArray = np.zeros(0, np.int64)
        self.offsets_us: IntArray = np.zeros(0, np.int64)

    def shown_at(self, time_us: IntArray) -> IntArray:
        """What the clock shows at these instants, as microseconds of a calendar without zones."""
        if not len(time_us):
            return time_us
        lowest, highest = int(time_us.min()), int(time_us.max())
        self._cover(lowest, highest)
        first, last = (int(np.searchsorted(self.starts_us, t, "right")) - 1 for t in (lowest, highest))
        at = first if first == last else np.searchsorted(self.starts_us, time_us, "right") - 1
        shown: IntArray = time_us + self.offsets_us[at]
        return shown

    def first_shows(self, shown_us: IntArray) -> IntArray:
        """The first instant at which the clock shows these times or later ones.

        So a midnight that the clock skips is the moment of the skip, and one that it shows twice is the first.
        """
        if not len(shown_us):
            return shown_us
        self._cover(int(shown_us.min()) - 2 * DAY_US, int(shown_us.max()) + 2 * DAY_US)
        # Each offset holds until the clock shows this; where it is set back it shows some of that again.
        until = np.maximum.accumulate(self.starts_us[1:] + self.offsets_us[:-1])
        at = np.searchsorted(until, shown_us, "right")
        first: IntArray = np.maximum(self.starts_us[at], shown_us - self.offsets_us[at])
        return first

    def _cover(self, lowest_us: int, highest_us: int) -> None:
        """Know all transitions between two instants."""
        first = min(max(lowest_us // DAY_US, _FIRST_DAY), _LAST_DAY)
        last = min(max(highest_us // DAY_US + 1, _FIRST_DAY), _LAST_DAY)
        if self._days is not None:
            if self._days[0] <= first and last <= self._days[1]:
                return
            first, last = min(first, self._days[0]), max(last, self._days[1])
        first, last = max(first - _MARGIN_DAYS, _FIRST_DAY), min(last + _MARGIN_DAYS, _LAST_DAY)
        starts, offsets = [np.iinfo(np.int64).min], [self._offset_us(first * 86_400)]
        for day in range(first, last):
            after = self._offset_us((day + 1) * 86_400)
            if after != offsets[-1]:
                starts.append(self._change_s(day * 86_400, (day + 1) * 86_400) * SECOND_US)
                offsets.append(after)
        self._days = first, last
        self.starts_us, self.offsets_us = np.array(starts, np.int64), np.array(offsets, np.int64)

    def _change_s(self, before_s: int, after_s: int) -> int:
        """The second in which the offset changes, between two that have different ones."""
        old = self._offset_us(before_s)
        while after_s - before_s > 1:
            middle = (before_s + after_s) // 2
            if self._offset_us(middle) == old:
                before_s = middle
            else:
                after_s = middle
        return after_s

    def _offset_us(self, time_s: int) -> int:
        offset = (_EPOCH + timedelta(seconds=time_s)).astimezone(self._zone).utcoffset()
        assert offset is not None
        return offset // timedelta(microseconds=1)
