"""Where windows lie, against looking at one candidate after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.operators.windows.slices import AFTER_ALL, WindowLayout
from millstream.specs.windows import Windows
from millstream.times import MAX_US, MIN_US
from millstream.zones import DAY_US

BERLIN_2024_US = 1_704_063_600_000_000
HOUR_US = 3_600_000_000


@st.composite
def layouts(draw: st.DrawFn) -> tuple[WindowLayout, int]:
    """A layout, and a time near which to look."""
    if draw(st.booleans()):
        size = draw(st.integers(1, 40))
        slide = draw(st.integers(1, size))
        offset = draw(st.integers(-100, 100))
        return WindowLayout(Windows(size, slide, offset), "test"), draw(st.integers(-200, 200))
    size = draw(st.integers(1, 5))
    slide = draw(st.integers(1, size))
    offset = draw(st.integers(-50, 50)) * HOUR_US
    windows = Windows(size * DAY_US, slide * DAY_US, offset, "Europe/Berlin")
    return WindowLayout(windows, "test"), BERLIN_2024_US + draw(st.integers(0, 366 * 24)) * HOUR_US


def candidates(layout: WindowLayout, time_us: int) -> list[tuple[int, int, int]]:
    """(window, start, end) of the windows around a time."""
    around = int(layout.last(layout.slices.of(np.array([time_us])))[0])
    windows = np.arange(around - 60, around + 60)
    return list(zip(windows.tolist(), *(b.tolist() for b in layout.bounds_us(windows)), strict=True))


@given(layouts())
def test_a_time_is_in_the_windows_from_the_first_to_the_last(case: tuple[WindowLayout, int]) -> None:
    layout, time_us = case
    slices = layout.slices.of(np.array([time_us]))
    held = [w for w, start, end in candidates(layout, time_us) if start <= time_us < end]
    assert held == list(range(int(layout.first(slices)[0]), int(layout.last(slices)[0]) + 1))
    assert held or layout.step > layout.width


@given(layouts(), st.integers(0, 30))
def test_a_window_has_ended_when_the_watermark_reaches_its_end_and_the_delay(
    case: tuple[WindowLayout, int], delay: int
) -> None:
    layout, time_us = case
    first = min(w for w, _, end in candidates(layout, time_us) if end + delay > time_us)
    assert layout.ended(time_us, delay) == first
    assert layout.ended_each(np.array([time_us, time_us]), delay).tolist() == [first, first]


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_the_ends_of_the_line_saturate(zone: str | None) -> None:
    layout = WindowLayout(Windows(DAY_US, DAY_US, 0, zone), "test")
    assert layout.ended(MAX_US, 5) == AFTER_ALL
    assert layout.ended(MIN_US, 5) == layout.ended(0, MAX_US) == -AFTER_ALL
    each = layout.ended_each(np.array([MIN_US, MIN_US + 1, 0, MAX_US]), 5 * DAY_US).tolist()
    assert each == [-AFTER_ALL, -AFTER_ALL, layout.ended(0, 5 * DAY_US), AFTER_ALL]
