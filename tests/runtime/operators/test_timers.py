"""Timers: fired in order, once, and taken back."""

from __future__ import annotations

from millstream.operators.process_state import KeyRecord
from millstream.operators.timers import Timers
from millstream.times import MAX_US


def fired(timers: Timers, until_us: int) -> list[tuple[str, int, str]]:
    result = []
    while (due := timers.pop(until_us)) is not None:
        result.append((due[4].key, due[1], due[2]))
    return result


def key(name: str) -> KeyRecord:
    return KeyRecord(name, ())


def unchanged(record: KeyRecord) -> None:
    """No snapshot is being written."""


def test_timers_fire_when_time_has_come_to_them_in_order_of_time_then_name() -> None:
    timers, a, b = Timers("event", unchanged), key("a"), key("b")
    for record, time_us, name in [(a, 10, "z"), (b, 5, ""), (a, 10, "n"), (a, 11, "")]:
        timers.set(record, time_us, name, 0)
    assert (timers.next_us, timers.count) == (5, 4)
    assert fired(timers, 4) == []
    assert fired(timers, 10) == [("b", 5, ""), ("a", 10, "n"), ("a", 10, "z")]
    assert fired(timers, 10) == []
    assert (timers.next_us, timers.count, b.timers) == (11, 1, None)


def test_the_same_timer_set_twice_is_one() -> None:
    timers, a = Timers("event", unchanged), key("a")
    timers.set(a, 10, "", 0)
    timers.set(a, 10, "", 3)
    assert (fired(timers, 100), timers.count) == ([("a", 10, "")], 0)


def test_a_timer_for_the_past_or_for_now_is_due_when_time_has_moved_on() -> None:
    timers, a = Timers("event", unchanged), key("a")
    timers.set(a, 3, "past", 10)
    timers.set(a, 10, "now", 10)
    timers.set(a, 11, "next", 10)
    assert fired(timers, 10) == []
    assert fired(timers, 11) == [("a", 3, "past"), ("a", 10, "now"), ("a", 11, "next")]


def test_a_cancelled_timer_does_not_fire_and_can_be_set_again() -> None:
    timers, a = Timers("event", unchanged), key("a")
    timers.set(a, 10, "n", 0)
    timers.set(a, 20, "n", 0)
    timers.set(a, 10, "other", 0)
    assert timers.cancel(a, 10, "n")
    assert not timers.cancel(a, 10, "n")
    timers.set(a, 10, "n", 0)
    assert timers.cancel(a, None, "other")
    assert fired(timers, 100) == [("a", 10, "n"), ("a", 20, "n")]
    assert (a.timers, timers.count) == (None, 0)


def test_timers_that_are_always_cancelled_leave_nothing_behind() -> None:
    timers, a = Timers("event", unchanged), key("a")
    for time_us in range(10_000):
        timers.set(a, time_us + 1_000_000, "idle", 0)
        timers.cancel(a, None, "idle")
    assert len(timers._heap) < 200
    assert timers.next_us == MAX_US or timers.count == 0


def test_clearing_returns_the_keys_that_had_a_timer() -> None:
    timers, a, b = Timers("event", unchanged), key("a"), key("b")
    timers.set(a, 1, "", 0)
    timers.set(b, 1, "", 0)
    timers.cancel(b, 1, "")
    assert [r.key for r in timers.clear()] == ["a"]
    assert (a.timers, timers.count, fired(timers, 100)) == (None, 0, [])
