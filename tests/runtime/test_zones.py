"""Clocks of time zones: what `zoneinfo` says of one instant, for columns of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import FlowError
from millstream.zones import DAY_US, ZoneClock

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Midnights that are skipped or shown twice, half hours, a day that never was, and none of that.
ZONES = ["Europe/Berlin", "America/Sao_Paulo", "America/St_Johns", "Asia/Beirut", "Pacific/Apia", "UTC"]

instants = st.lists(st.integers(-(3 * 10**15), 4 * 10**15), min_size=1, max_size=20)


def shown(zone: str, time_us: int) -> int:
    local = (EPOCH + timedelta(microseconds=time_us)).astimezone(ZoneInfo(zone)).replace(tzinfo=UTC)
    return (local - EPOCH) // timedelta(microseconds=1)


@given(st.sampled_from(ZONES), instants)
def test_the_clock_shows_what_zoneinfo_says(zone: str, times: list[int]) -> None:
    clock = ZoneClock(zone, "test")
    for part in (times[:1], times):
        assert clock.shown_at(np.array(part)).tolist() == [shown(zone, t) for t in part]


@given(st.sampled_from(ZONES), st.lists(st.integers(-20_000, 40_000), min_size=1, max_size=20))
def test_a_day_starts_when_the_clock_first_shows_it(zone: str, days: list[int]) -> None:
    clock = ZoneClock(zone, "test")
    midnights = np.array(days) * DAY_US
    starts = clock.first_shows(midnights)
    for midnight, start in zip(midnights.tolist(), starts.tolist(), strict=True):
        assert shown(zone, start) >= midnight > shown(zone, start - 1)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2024-03-31", 23),
        ("Europe/Berlin", "2024-10-27", 25),
        ("Europe/Berlin", "2024-06-01", 24),
        ("America/Sao_Paulo", "2018-11-04", 23),  # the clock goes from 00:00 to 01:00
        ("Pacific/Apia", "2011-12-30", 0),  # skipped whole
    ],
)
def test_days_have_as_many_hours_as_their_clock_gives_them(zone: str, day: str, hours: int) -> None:
    midnight = (datetime.fromisoformat(day).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    start, end = ZoneClock(zone, "test").first_shows(np.array([midnight, midnight + DAY_US])).tolist()
    assert (end - start) // 3_600_000_000 == hours


def test_times_that_no_calendar_has_go_by_the_clock_of_the_last_year_that_one_has() -> None:
    clock = ZoneClock("Europe/Berlin", "test")
    far = np.array([-(2**61), 2**61])
    ahead = clock.shown_at(far) - far
    assert (abs(ahead) < DAY_US).all()
    assert (clock.first_shows(far + ahead) == far).all()


def test_a_zone_that_there_is_not_is_refused_by_name() -> None:
    with pytest.raises(FlowError, match="tz='Europe/Atlantis' is no time zone"):
        ZoneClock("Europe/Atlantis", "flow.py:3 tumbling")
