"""``on_error=ms.retry(...)``: functions that raised are called again after a pause, and what holds besides is as without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.batch import make_columns
from millstream.coordinator.local import LocalRun, VirtualClock
from millstream.planner import make_plan
from millstream.streams import Stream
from tests.harness.running import Way, run

CALLS: Counter[int] = Counter()


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def flaky(value: int) -> int:
    """Raises on multiples of three the first two times, and on multiples of ten for ever."""
    CALLS[value] += 1
    if value % 10 == 0 or (value % 3 == 0 and CALLS[value] <= 2):
        raise ConnectionError(f"no answer for {value}")
    return value


def columns(rows: pa.RecordBatch) -> pa.RecordBatch:
    return make_columns(["v"], [pa.array([flaky(v) for v in rows.column("v").to_pylist()], pa.int64())])


WAYS: dict[str, Callable[[Stream, Any], Stream]] = {
    "map": lambda s, policy: s.map(lambda e: {"v": flaky(e.v)}, on_error=policy),
    "flat_map": lambda s, policy: s.flat_map(lambda e: [{"v": flaky(e.v)}], on_error=policy),
    "filter": lambda s, policy: s.filter(lambda e: flaky(e.v) >= 0, on_error=policy),
    "map_async": lambda s, policy: s.map_async(lambda e: {"v": flaky(e.v)}, on_error=policy),
    "on": lambda s, policy: s.on("k", lambda e: {"v": flaky(e.v)}, on_error=policy),
}


def events(flow: ms.Flow, count: int = 40) -> Stream:
    return flow.read_arrow(pa.table({"type": ["k"] * count, "v": range(1, count + 1)}))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("then", ["dead_letter", "skip"])
def test_what_passes_is_tried_again_and_what_does_not_is_set_aside(way: str, batch_size: int, then: Any) -> None:
    flow = ms.Flow("retrying")
    WAYS[way](events(flow), ms.retry(times=2, backoff="1ms", then=then)).collect("out")
    result = flow.run_here(batch_size=batch_size)
    assert result.tables["out"].column("v").to_pylist() == [v for v in range(1, 41) if v % 10]
    assert (result.dead_letters, result.skipped) == ((4, 0) if then == "dead_letter" else (0, 4))
    assert result.retried == sum(CALLS.values()) - 40
    assert all(CALLS[v] == 3 for v in CALLS if v % 10 == 0 or v % 3 == 0)
    assert all(CALLS[v] == 1 for v in CALLS if v % 10 and v % 3)


def test_a_dead_letter_says_how_often_the_function_was_called() -> None:
    flow = ms.Flow("retrying")
    WAYS["map"](events(flow), ms.retry(times=2, backoff="1ms", then="dead_letter")).collect("out")
    reasons = [letter.reason for letter in run(flow).dead]
    assert reasons[0] == "the function raised ConnectionError: no answer for 10 (in each of 3 attempts)"


def test_the_run_ends_when_the_last_attempt_failed_and_that_is_how_it_was_asked_for() -> None:
    flow = ms.Flow("retrying")
    WAYS["map"](events(flow), ms.retry(times=2, backoff="1ms")).collect("out")
    with pytest.raises(ms.UserCodeError, match="no answer for 10"):
        flow.run_here()
    assert CALLS[10] == 3


def test_a_function_over_columns_is_called_again_with_the_whole_batch_and_then_with_parts_of_it() -> None:
    flow = ms.Flow("retrying")
    policy = ms.retry(times=2, backoff="1ms", then="dead_letter")
    events(flow).map_batches(columns, on_error=policy).collect("out")
    result = flow.run_here()
    assert result.tables["out"].column("v").to_pylist() == [v for v in range(1, 41) if v % 10]
    assert result.dead_letters == 4


def test_for_each_hands_over_each_row_again_and_a_sink_all_of_them() -> None:
    seen: list[int] = []

    class Whole:
        def __init__(self) -> None:
            self.tries = 0

        def write(self, rows: list[ms.Row]) -> None:
            self.tries += 1
            if self.tries < 3:
                raise ConnectionError("down")
            seen.extend(row.v for row in rows)

    flow = ms.Flow("retrying")
    events(flow).for_each(
        lambda e: seen.append(flaky(e.v)), on_error=ms.retry(times=2, backoff="1ms", then="dead_letter")
    )
    result = flow.run_here()
    assert sorted(seen) == [v for v in range(1, 41) if v % 10]
    assert (result.dead_letters, result.rows_out) == (4, 36)

    seen.clear()
    flow = ms.Flow("retrying")
    events(flow).sink(Whole, on_error=ms.retry(times=2, backoff="1ms"))
    assert flow.run_here().rows_out == 40
    assert seen == list(range(1, 41))


def test_the_rows_of_a_slice_wait_together_and_only_processing_time_passes() -> None:
    flow = ms.Flow("retrying")
    policy = ms.retry(times=2, backoff="1h", longest="2h", then="skip")
    events(flow).map(lambda e: {"v": flaky(e.v)}, on_error=policy).collect("out")
    clock = VirtualClock()
    local = LocalRun(make_plan(flow, workers=1), lambda letter: None, clock=clock)
    before_us = clock()
    local.run()
    passed_h = (clock() - before_us) / 3_600e6
    assert 3 <= passed_h < 3.01, "an hour and two, whatever the number of rows that failed"


@pytest.mark.parametrize("workers", [1, 3])
def test_windows_behind_a_function_that_is_tried_again_are_those_of_one_that_never_fails(workers: int) -> None:
    def flow_of(function: Callable[[Any], Any]) -> ms.Flow:
        flow = ms.Flow("retrying")
        rows = pa.table({"t": list(range(0, 400, 10)), "k": ["a", "b"] * 20, "v": range(1, 41)})
        timed = flow.read_arrow(rows).event_time("t", unit="s", out_of_orderness="20s")
        mapped = timed.map(function, on_error=ms.retry(times=2, backoff="1ms", then="skip"))
        mapped.key_by("k").window(ms.tumbling("1m")).agg(total=ms.sum("v")).collect("out")
        return flow

    way = Way(workers=workers, batch_rows=7)
    outcome = run(flow_of(lambda e: e.with_(v=flaky(e.v))), way)
    wanted = run(flow_of(lambda e: e if e.v % 10 else 1 / 0), way)
    key = lambda row: (row["window_start"], row["k"])  # noqa: E731
    assert sorted(outcome.rows["out"], key=key) == sorted(wanted.rows["out"], key=key)
    assert outcome.late == 0


def test_what_the_flow_says_holds_for_every_operator_that_does_not_say_otherwise() -> None:
    flow = ms.Flow("retrying", on_error="skip")
    stream = events(flow).map(lambda e: {"v": flaky(e.v), "k": 1})
    stream.filter(lambda e: 1 / (e.v - 1) >= 0, on_error="dead_letter").key_by("k").scan(
        0, lambda n, e: (n, {"v": 1 // (e.v - 2)})
    ).for_each(lambda e: None)
    result = flow.run_here()
    assert (result.skipped, result.dead_letters) == (16 + 1, 1)


def test_functions_with_state_are_not_called_again() -> None:
    policy = ms.retry(times=2, backoff="1ms", then="skip")
    flow = ms.Flow("retrying", on_error=policy)
    with pytest.raises(ms.FlowError, match="a function with state is not called again"):
        events(flow).key_by("v").scan(0, lambda n, e: (n, e), on_error=policy)
    events(flow).key_by("v").scan(0, lambda n, e: (n, {"v": flaky(e.v)})).collect("out")
    assert flow.run_here().skipped == 16
    assert set(CALLS.values()) == {1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": 0}, "1 at least"),
        ({"backoff": "1m", "longest": "1s"}, "longest the longest"),
        ({"then": "retry"}, "none of 'fail', 'dead_letter' and 'skip'"),
        ({"backoff": "soon"}, "soon"),
    ],
)
def test_a_retry_that_makes_no_sense_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ms.FlowError, match=message):
        ms.retry(**arguments)
