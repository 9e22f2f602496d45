"""Watermarks, each edge from both sides and against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.times import MAX_US, MIN_US
from millstream.watermarks import (
    InputStatus,
    InputWatermarks,
    PartitionClock,
    times_before,
    too_far_ahead,
    watermark_before,
)

ACTIVE, IDLE, ENDED = InputStatus.ACTIVE, InputStatus.IDLE, InputStatus.ENDED

times = st.lists(st.integers(-60, 60), max_size=12)
starts = st.one_of(st.just(MIN_US), st.integers(-60, 60))
spans = st.sampled_from([0, 1, 5, 40])


def array(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


# --- before each row ---


def test_the_largest_time_before_a_row_does_not_count_the_row_itself() -> None:
    assert times_before(array([3, 1, 5, 4]), MIN_US).tolist() == [MIN_US, 3, 3, 5]
    assert times_before(array([3, 1, 5, 4]), 4).tolist() == [4, 4, 4, 5]
    assert times_before(array([]), 4).tolist() == []


@pytest.mark.parametrize(("time", "told"), [(11, False), (10, True), (9, True)])
def test_a_row_at_the_watermark_or_behind_it_is_told_where_it_was(time: int, told: bool) -> None:
    watermark = watermark_before(array([time]), 15, 5, MIN_US)
    assert (watermark is not None) == told
    if watermark is not None:
        assert watermark.tolist() == [10]


def test_the_first_event_of_a_partition_has_no_watermark_before_it_and_minus_infinity_does_not_wrap() -> None:
    assert watermark_before(array([-(2**62)]), MIN_US, 10, MIN_US) is None
    watermark = watermark_before(array([5, 100, 5]), MIN_US, 10, MIN_US)
    assert watermark is not None
    assert watermark.tolist() == [MIN_US, -5, 90]


def test_the_floor_holds_for_every_row() -> None:
    watermark = watermark_before(array([5, 100, 5]), MIN_US, 10, 50)
    assert watermark is not None
    assert watermark.tolist() == [50, 50, 90]


@given(times, starts, spans, starts)
def test_watermark_before_is_what_a_loop_finds(values: list[int], max_us: int, span: int, floor_us: int) -> None:
    expected: list[int] = []
    largest = max_us
    for time in values:
        expected.append(max(MIN_US if largest == MIN_US else largest - span, floor_us))
        largest = max(largest, time)
    behind = any(t < w for t, w in zip(values, expected, strict=True))
    found = watermark_before(array(values), max_us, span, floor_us)
    assert (None if found is None else found.tolist()) == (expected if behind else None)


# --- too far ahead ---


@pytest.mark.parametrize(("time", "rejected"), [(19, False), (20, False), (21, True)])
def test_a_row_exactly_as_far_ahead_as_allowed_is_accepted(time: int, rejected: bool) -> None:
    found = too_far_ahead(array([time]), 10, 10)
    assert (found is not None and found.tolist() == [True]) == rejected


def test_nothing_is_too_far_ahead_of_the_first_row_but_what_follows_is_measured_by_it() -> None:
    assert too_far_ahead(array([10**15]), MIN_US, 10) is None
    found = too_far_ahead(array([10**15, 10**15 + 11, 10**15 + 10, 10**15 + 20]), MIN_US, 10)
    assert found is not None
    assert found.tolist() == [False, True, False, False]


def test_infinity_is_never_exceeded() -> None:
    assert too_far_ahead(array([-(2**61), 2**61]), MIN_US, MAX_US) is None


@given(times, starts, spans)
def test_too_far_ahead_is_what_a_loop_finds(values: list[int], max_us: int, ahead: int) -> None:
    expected: list[bool] = []
    largest = max_us
    for time in values:
        expected.append(largest != MIN_US and time > largest + ahead)
        if not expected[-1]:
            largest = max(largest, time)
    found = too_far_ahead(array(values), max_us, ahead)
    assert (None if found is None else found.tolist()) == (expected if any(expected) else None)


@given(times, spans, st.integers(0, 12))
def test_too_far_ahead_does_not_depend_on_a_cut(values: list[int], ahead: int, cut: int) -> None:
    def rejected(part: list[int], max_us: int) -> tuple[list[bool], int]:
        found = too_far_ahead(array(part), max_us, ahead)
        flags = [False] * len(part) if found is None else found.tolist()
        return flags, max([max_us, *(t for t, bad in zip(part, flags, strict=True) if not bad)])

    whole, _ = rejected(values, MIN_US)
    first, largest = rejected(values[:cut], MIN_US)
    second, _ = rejected(values[cut:], largest)
    assert first + second == whole


# --- a partition's clock ---


def test_a_partition_clock_never_goes_back() -> None:
    clock = PartitionClock(5)
    clock.advance(20)
    assert (clock.max_us, clock.watermark_us) == (20, 15)
    clock.advance(10)
    assert (clock.max_us, clock.watermark_us) == (20, 15)
    clock.raise_to(18)
    clock.advance(21)
    assert (clock.max_us, clock.watermark_us) == (21, 18)


def test_a_block_without_times_moves_no_clock() -> None:
    clock = PartitionClock(5)
    clock.advance(MIN_US)
    assert (clock.max_us, clock.watermark_us) == (MIN_US, MIN_US)


# --- several inputs ---


def inputs(count: int) -> InputWatermarks:
    watermarks = InputWatermarks()
    for key in range(count):
        watermarks.add(key)
    return watermarks


def test_the_lowest_input_decides_and_says_when_it_moved() -> None:
    two = inputs(2)
    assert not two.update(0, 10, ACTIVE)
    assert two.watermark_us == MIN_US
    assert two.update(1, 7, ACTIVE)
    assert two.watermark_us == 7
    assert not two.update(0, 20, ACTIVE)
    assert two.update(1, 30, ACTIVE)
    assert two.watermark_us == 20


def test_an_input_that_goes_back_is_held_at_its_highest() -> None:
    one = inputs(1)
    one.update(0, 10, ACTIVE)
    assert not one.update(0, 5, ACTIVE)
    assert one.watermark_us == 10


def test_an_idle_input_does_not_count_until_it_is_active_again() -> None:
    two = inputs(2)
    two.update(0, 10, ACTIVE)
    assert two.update(1, MIN_US, IDLE)
    assert two.watermark_us == 10
    assert two.update(0, 20, ACTIVE)
    assert not two.update(1, 15, ACTIVE), "it holds the watermark, but cannot take it back"
    assert two.watermark_us == 20
    assert not two.update(0, 40, ACTIVE)
    assert two.update(1, 30, ACTIVE)
    assert two.watermark_us == 30


def test_when_all_are_idle_the_highest_counts() -> None:
    two = inputs(2)
    two.update(0, 10, ACTIVE)
    two.update(1, 20, ACTIVE)
    assert two.watermark_us == 10
    assert not two.update(0, 10, IDLE) or two.watermark_us == 20
    two.update(1, 20, IDLE)
    assert two.watermark_us == 20
    assert two.all_idle


def test_a_finished_input_no_longer_counts_and_when_all_have_finished_time_ends() -> None:
    two = inputs(2)
    two.update(0, 10, ACTIVE)
    assert two.update(1, MIN_US, ENDED)
    assert two.watermark_us == 10
    assert not two.ended
    assert two.update(0, 10, ENDED)
    assert two.watermark_us == MAX_US
    assert two.ended


def test_an_idle_input_beside_a_finished_one_counts() -> None:
    two = inputs(2)
    two.update(0, 30, ENDED)
    assert two.update(1, 12, IDLE)
    assert two.watermark_us == 12


def test_without_inputs_there_is_no_watermark_and_no_end() -> None:
    none = inputs(0)
    assert (none.watermark_us, none.ended, none.all_idle) == (MIN_US, False, False)
