"""What joins keep and for how long, how far they hold their watermark back, and how much they put out at once."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from harness.joins import Driver

from millstream.operators.joins.as_of import AsOfJoin
from millstream.operators.joins.content import content_hash
from millstream.operators.joins.interval import IntervalJoin
from millstream.operators.joins.sorted_rows import PAIRS_AT_ONCE
from millstream.operators.joins.updating import UpdatingJoin
from millstream.operators.joins.window import WindowJoin
from millstream.specs.joins import (
    LATE_LEFT,
    LATE_RIGHT,
    AsOfJoinSpec,
    IntervalJoinSpec,
    UpdatingJoinSpec,
    WindowJoinSpec,
)
from millstream.specs.windows import Windows
from millstream.times import MAX_US


def interval(how: str = "inner", lower: int = -10, upper: int = 20) -> Driver:
    return Driver(IntervalJoin, IntervalJoinSpec, how, lower_us=lower, upper_us=upper)


# --- interval ---


@pytest.mark.parametrize("right, matches", [(89, False), (90, True), (120, True), (121, False)])
def test_both_ends_of_the_interval_belong_to_it(right: int, matches: bool) -> None:
    for first in (0, 1):
        job = interval()
        rows = [[(1, 100)], [(1, right)]]
        job.rows(first, rows[first])
        found = job.rows(1 - first, rows[1 - first])
        assert found == ([{"k": 1, "a": 100, "b": right}] if matches else [])
        assert not matches or (
            job.batches[0].time_us is not None and job.batches[0].time_us.tolist() == [max(100, right)]
        )


def test_a_row_at_the_watermark_is_joined_and_one_before_it_is_late() -> None:
    job = interval()
    job.rows(1, [(1, 100)])
    job.watermark(100)
    assert job.rows(0, [(1, 100)]) == [{"k": 1, "a": 100, "b": 100}]
    (late,) = job.rows(0, [(1, 99)])
    assert late["port"] == LATE_LEFT and late["a"] == 99 and "passed its time" in late["late_reason"]
    assert job.operator.context.counters.late == 1


def test_a_row_is_late_by_the_watermark_of_its_own_partition_too() -> None:
    job = interval()
    job.rows(1, [(1, 100)])
    (late,) = job.rows(0, [(1, 100)], before=101)
    assert late["port"] == LATE_LEFT
    assert len(job.rows(0, [(1, 100)], before=100)) == 1


def test_each_side_is_kept_as_long_as_it_can_be_matched() -> None:
    job = interval()
    job.rows(0, [(1, 100)])
    job.rows(1, [(2, 100)])
    job.watermark(110)  # right rows at 100 match left rows up to 110
    assert job.kept == (1, 1)
    job.watermark(111)
    assert job.kept == (1, 0)
    job.watermark(120)  # left rows at 100 match right rows up to 120
    assert job.rows(1, [(1, 120)]) == [{"k": 1, "a": 100, "b": 120}]
    job.watermark(121)
    assert job.kept[0] == 0


def test_rows_of_a_quiet_side_are_forgotten_when_the_other_goes_on() -> None:
    job = interval()
    job.rows(0, [(k, k) for k in range(10_000)])
    for time in range(0, 10_200, 100):
        job.rows(1, [(1, time + 20)])
        job.watermark(time)
        assert job.kept[0] <= 2 * max(0, 10_000 - (time - 20)) + 1
    assert job.kept[0] == 0
    assert len(job.operator.index) < 5_000


def test_keys_that_come_and_go_leave_nothing_behind() -> None:
    job = interval()
    for step in range(60):
        rows = [(1_000 * step + k, 100 * step) for k in range(1_000)]
        assert job.rows(0, rows) == []
        assert len(job.rows(1, rows)) == 1_000
        job.watermark(100 * step)
    figures = job.operator.figures()
    assert figures["keys"] <= 20_000
    assert figures["state_bytes"] < 4_000_000


def test_a_row_without_a_match_comes_out_when_none_can_come_any_more_and_not_behind_the_watermark_held_back() -> None:
    job = interval("full")
    assert job.operator.held_back_us() == 20
    job.rows(0, [(1, 100), (None, 105)])  # type: ignore[list-item]
    assert [b.columns.to_pylist() for b in job.batches] == [[{"k": None, "a": 105, "b": None}]]
    assert job.watermark(120) == []
    assert job.watermark(121) == [{"k": 1, "a": 100, "b": None}]
    assert job.rows(1, [(1, 130)]) == []
    assert job.watermark(MAX_US) == [{"k": 1, "a": None, "b": 130}]


def test_rows_without_a_match_come_out_in_the_order_of_event_time() -> None:
    job = interval("left")
    times = [7, 3, 9, 1, 5]
    for time in times:
        job.rows(0, [(time, time)])
    assert [r["a"] for r in job.watermark(MAX_US)] == sorted(times)


@pytest.mark.parametrize("how, lower, upper, held", [
    ("inner", -10, 20, 0), ("left", -10, 20, 20), ("right", -10, 20, 10), ("full", -10, 20, 20), ("semi", -10, 20, 20),
    ("anti", -10, 20, 20), ("left", -10, -5, 0), ("right", 5, 20, 0),
])  # fmt: skip
def test_the_watermark_is_held_back_for_rows_that_wait_for_a_match(how: str, lower: int, upper: int, held: int) -> None:
    assert interval(how, lower, upper).operator.held_back_us() == held


def test_a_late_row_of_a_side_that_is_kept_comes_out_alone_with_the_watermark_that_it_missed() -> None:
    job = interval("left")
    job.watermark(100)
    assert job.rows(0, [(1, 50)]) == [{"k": 1, "a": 50, "b": None}]
    before_us = job.batches[-1].before_us
    assert before_us is not None and before_us.tolist() == [100]


def test_a_key_with_many_rows_comes_out_in_batches() -> None:
    job = interval()
    job.rows(1, [(1, 100)] * 700)
    assert len(job.rows(0, [(1, 100)] * 700)) == 490_000
    assert max(b.num_rows for b in job.batches) <= 2 * PAIRS_AT_ONCE
    assert len(job.batches) > 3


def test_times_at_the_ends_of_the_line_do_not_wrap() -> None:
    job = Driver(IntervalJoin, IntervalJoinSpec, "inner", lower_us=-MAX_US, upper_us=MAX_US)
    job.rows(0, [(1, -(2**60)), (1, 2**60)])
    assert len(job.rows(1, [(1, 0)])) == 2


# --- updating ---


def updating(how: str, **settings: Any) -> Driver:
    return Driver(UpdatingJoin, UpdatingJoinSpec, how, **settings)


def signs(job: Driver) -> list[tuple[int, dict[str, Any]]]:
    """What came out since the last look: the sign of each row, and the row."""
    out = [
        (1 if batch.sign is None else int(batch.sign[n]), row)
        for batch in job.batches
        for n, row in enumerate(batch.columns.to_pylist())
    ]
    job.batches = []
    return out


def test_a_row_without_a_match_is_taken_back_before_its_match_comes_out() -> None:
    job = updating("left")
    job.rows(0, [(1, 5)])
    assert signs(job) == [(1, {"k": 1, "a": 5, "b": None})]
    job.rows(1, [(1, 7)])
    assert signs(job) == [(-1, {"k": 1, "a": 5, "b": None}), (1, {"k": 1, "a": 5, "b": 7})]
    job.rows(1, [(1, 8)])
    assert signs(job) == [(1, {"k": 1, "a": 5, "b": 8})]


def test_it_comes_back_when_its_last_match_is_taken_back() -> None:
    job = updating("left", retracts=(False, True))
    job.rows(0, [(1, 5)])
    job.rows(1, [(1, 7), (1, 8)], signs=[1, 1])
    signs(job)
    job.rows(1, [(1, 7)], signs=[-1])
    assert signs(job) == [(-1, {"k": 1, "a": 5, "b": 7})]
    job.rows(1, [(1, 8)], signs=[-1])
    assert signs(job) == [(-1, {"k": 1, "a": 5, "b": 8}), (1, {"k": 1, "a": 5, "b": None})]


def test_a_row_that_comes_and_goes_in_one_batch_comes_out_before_it_is_taken_back() -> None:
    job = updating("inner", retracts=(True, False))
    job.rows(1, [(1, 7)])
    job.rows(0, [(1, 5), (1, 5), (1, 6)], signs=[1, -1, 1])
    pair = {"k": 1, "a": 5, "b": 7}
    assert signs(job) == [(1, pair), (-1, pair), (1, {"k": 1, "a": 6, "b": 7})]


def test_of_two_equal_rows_one_is_taken_back() -> None:
    job = updating("inner", retracts=(True, False))
    job.rows(0, [(1, 5), (1, 5)], signs=[1, 1])
    job.rows(0, [(1, 5)], signs=[-1])
    job.batches = []
    assert len(job.rows(1, [(1, 7)])) == 1


def test_what_takes_back_a_row_that_is_not_there_takes_back_nothing() -> None:
    job = updating("inner", retracts=(True, False))
    job.rows(1, [(1, 7)])
    assert job.rows(0, [(1, 5)], signs=[-1]) == []


def test_rows_that_were_taken_back_leave_the_memory() -> None:
    job = updating("full", retracts=(True, True))
    for step in range(40):
        rows = [(k, step) for k in range(1_000)]
        job.rows(0, rows, signs=[1] * 1_000)
        job.rows(0, rows, signs=[-1] * 1_000)
    assert job.kept[0] <= 10_000


def test_a_semi_join_keeps_one_right_row_of_a_key_and_forgets_left_rows_that_have_met_it() -> None:
    job = updating("semi")
    for step in range(20):
        job.rows(1, [(k, step) for k in range(900)])
        assert len(job.rows(0, [(k, step) for k in range(1_000)])) == 900
    assert job.kept[1] == 900
    assert job.kept[0] <= 2 * 20 * 100 + 5_000


def test_with_a_time_to_live_rows_are_kept_for_twice_as_long() -> None:
    job = updating("inner", ttl_us=10)
    job.rows(0, [(1, 100)])
    job.watermark(110)
    (pair,) = job.rows(1, [(1, 100)])  # not late: it is no more than the time to live behind the watermark
    assert pair == {"k": 1, "a": 100, "b": 100}
    (late,) = job.rows(1, [(1, 99)])
    assert late["port"] == LATE_RIGHT
    job.watermark(121)
    assert job.kept == (0, 0)


def test_rows_say_the_same_when_all_their_fields_do_lists_and_structs_among_them() -> None:
    lists = pa.array([[1, 2], [2, 1], [1, 2], None, [], [1], [1, None]])
    structs = pa.array([{"x": "a"}, {"x": "a"}, {"x": "a"}, None, None, {"x": None}, {"x": "b"}])
    numbers = content_hash([lists, structs, pa.array(["t"] * 7)], 7).tolist()
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 6
    nested = pa.array([[[1], [2]], [[1, 2]], [[1], [2]], [[2], [1]], None, [[]], [[1], [2], []]])
    assert len(set(content_hash([nested], 7).tolist())) == 6
    assert len(set(content_hash([], 3).tolist())) == 1


# --- windows ---


def test_a_window_comes_out_once_when_it_has_expired() -> None:
    job = Driver(WindowJoin, WindowJoinSpec, "full", windows=Windows(10, 10), allowed_lateness_us=5)
    assert job.operator.held_back_us() == 5
    job.rows(0, [(1, 3), (2, 4), (1, 12)])
    job.rows(1, [(1, 9), (3, 5)])
    assert job.watermark(14) == []
    out = job.watermark(15)
    assert sorted(out, key=lambda r: r["k"]) == [
        {"k": 1, "a": 3, "b": 9}, {"k": 2, "a": 4, "b": None}, {"k": 3, "a": None, "b": 5},
    ]  # fmt: skip
    assert all(b.time_us is not None and set(b.time_us.tolist()) == {9} for b in job.batches)
    assert job.rows(0, [(1, 9)]) == [{"k": 1, "a": 9, "b": None}]  # late: it comes out alone
    assert job.watermark(MAX_US) == [{"k": 1, "a": 12, "b": None}]


def test_rows_of_windows_that_came_out_leave_the_memory() -> None:
    job = Driver(WindowJoin, WindowJoinSpec, "inner", windows=Windows(20, 10))
    for start in range(0, 1_000, 10):
        job.rows(0, [(k, start) for k in range(1_000)])
        job.watermark(start)
    assert job.kept[0] <= 12_000


# --- as of ---


def test_only_the_versions_that_can_be_asked_for_are_kept() -> None:
    job = Driver(AsOfJoin, AsOfJoinSpec, "left")
    for step in range(50):
        job.rows(1, [(k, 10 * step) for k in range(1_000)])
        job.rows(0, [(7, 10 * step + 5)])
        assert job.watermark(10 * step + 6) == [{"k": 7, "a": 10 * step + 5, "b": 10 * step}]
    assert job.kept[1] <= 8_000


def test_versions_older_than_the_tolerance_are_forgotten_and_their_keys_too() -> None:
    job = Driver(AsOfJoin, AsOfJoinSpec, "inner", tolerance_us=10)
    for step in range(50):
        job.rows(1, [(1_000 * step + k, 100 * step) for k in range(1_000)])
        job.watermark(100 * step + 1)
    assert job.kept[1] <= 8_000
    assert job.operator.figures()["keys"] <= 20_000
