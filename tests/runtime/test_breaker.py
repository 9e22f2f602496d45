"""When the circuit breaker ends a run, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.breaker import LEAST_EVENTS, Breaker


def breaker(most: float = 0.1) -> Breaker:
    return Breaker("parse (flow.py:3)", most)


def test_a_share_that_is_allowed_goes_on_and_one_event_more_does_not() -> None:
    breaker().check(LEAST_EVENTS, LEAST_EVENTS // 10)
    with pytest.raises(ms.TooManyErrors, match=r"101 of its last 1,000 events failed \(10%\)"):
        breaker().check(LEAST_EVENTS, LEAST_EVENTS // 10 + 1)


def test_before_there_are_enough_events_any_number_of_them_may_fail() -> None:
    watched = breaker()
    watched.check(LEAST_EVENTS - 1, LEAST_EVENTS - 1)
    with pytest.raises(ms.TooManyErrors):
        watched.check(LEAST_EVENTS, LEAST_EVENTS)


def test_a_million_good_events_do_not_hide_that_every_event_fails_now() -> None:
    watched = breaker(0.5)
    for thousand in range(1, 1_001):
        watched.check(thousand * 1_000, 0)
    for hundred in range(1, 10):
        watched.check(1_000_000 + hundred * 100, hundred * 100)
    with pytest.raises(ms.TooManyErrors):
        for hundred in range(10, 21):
            watched.check(1_000_000 + hundred * 100, hundred * 100)


def test_the_most_frequent_reason_is_told_with_one_of_its_events() -> None:
    watched = breaker()
    for number in range(400):
        watched.note(f"field 'v': {number} is no time")
    for _ in range(300):
        watched.note("not an object")
    with pytest.raises(ms.TooManyErrors, match="400 times such as: field 'v': 0 is no time"):
        watched.check(1_000, 700)


def test_what_was_counted_before_a_run_went_on_does_not_end_it_again() -> None:
    watched = breaker()
    watched.begin_at(10_000, 9_000)
    watched.check(11_000, 9_050)
    with pytest.raises(ms.TooManyErrors, match="250 of its last 2,000"):
        watched.check(12_000, 9_250)


@pytest.mark.parametrize("on_error", ["dead_letter", "skip"])
def test_a_run_of_which_too_many_events_fail_ends_with_a_sentence(on_error: Any) -> None:
    def inverse(event: Any) -> dict[str, float]:
        return {"v": 1 / (event.v % 2)}

    flow = ms.Flow("breaking", on_error=on_error, most_errors=0.4)
    flow.read_arrow(pa.table({"v": range(5_000)})).map(inverse).collect("out")
    with pytest.raises(
        ms.TooManyErrors, match=r"map \(test_breaker.py:\d+\): .* events failed \(50%\).* ZeroDivisionError"
    ):
        flow.run_here()
    flow.most_errors = 0.5
    assert flow.run_here().rows_out == 2_500


def test_lines_that_cannot_be_read_count_and_a_few_of_them_do_not_matter(tmp_path: Path) -> None:
    lines = ['{"v": 1}\n' if number % 4 else '{"v": \n' for number in range(4_000)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    for most, ends in ((0.2, True), (0.3, False)):
        flow = ms.Flow("breaking", most_errors=most)
        flow.read_jsonl(tmp_path / "in.jsonl").collect("out")
        if ends:
            with pytest.raises(ms.TooManyErrors, match=r"read_jsonl .* events failed \(25%\)"):
                flow.run_here()
        else:
            assert flow.run_here().dead_letters == 1_000


@pytest.mark.parametrize("most", [-0.1, 1, 10])
def test_what_is_no_share_is_refused(most: float) -> None:
    with pytest.raises(ms.FlowError, match="no share"):
        ms.Flow("breaking", most_errors=most)
