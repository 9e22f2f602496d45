"""process, step by step on virtual time: what a user's class sees and can do, and what happens when it fails."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.errors import FlowError, UserCodeError
from millstream.state_codec import StateError
from millstream.testing import FlowTest

SCHEMA = pa.schema([("k", pa.string()), ("t", pa.int64()), ("x", pa.int64())])
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000


def bench(process: Any, *, timed: bool = True, workers: int = 1, **options: Any) -> FlowTest:
    flow = ms.Flow("bench")
    stream = flow.read_iterable([], schema=SCHEMA)
    if timed:
        stream = stream.event_time("t", unit="s", out_of_orderness="5s")
    control = options.pop("control", False)
    if control:
        told = flow.read_iterable([], schema=SCHEMA)
        options["control"] = told.event_time("t", unit="s") if timed else told
    stream.key_by("k").process(process, **options)
    return FlowTest(flow, workers)


def event(t: int, x: int = 0, k: str = "a") -> dict[str, Any]:
    return {"k": k, "t": t, "x": x}


def at(second: int) -> datetime:
    return EPOCH + timedelta(seconds=second)


class Sum(ms.Process):
    total = ms.value_state(0)

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.total.value += event.x
        ctx.emit({"k": ctx.key, "total": self.total.value})


# --- state ---


def test_each_key_has_state_of_its_own() -> None:
    test = bench(Sum, workers=2)
    test.feed([event(1, 5), event(2, 7, "b"), event(3, 1)])
    assert sorted((r["k"], r["total"]) for r in test.outputs()) == [("a", 5), ("a", 6), ("b", 7)]
    assert test.state("process", "a") == {"total": 6}
    assert test.state("process", "nobody") is None


def test_a_key_whose_state_was_cleared_is_forgotten() -> None:
    class Clearing(Sum):
        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            super().on_event(event, ctx)
            if event.x < 0:
                self.total.clear()

    test = bench(Clearing)
    test.feed([event(1, 5), event(2, 6, "b"), event(3, -1)])
    assert test.state("process", "a") is None
    assert test.figures("process")["keys"] == 1
    test.feed([event(4, 2)])
    assert test.state("process", "a") == {"total": 2}


def test_a_default_that_can_change_is_no_ones_but_the_keys() -> None:
    class Lists(ms.Process):
        given = ms.value_state([0])
        made = ms.value_state(dict)

        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            self.given.value.append(event.x)
            self.made.value[event.x] = 1

    test = bench(Lists)
    test.feed([event(1, 1), event(1, 2, "b"), event(2, 3)])
    assert test.state("process", "a") == {"given": [0, 1, 3], "made": {1: 1, 3: 1}}
    assert test.state("process", "b") == {"given": [0, 2], "made": {2: 1}}


def test_replacing_a_state_instead_of_its_value_is_an_error_that_says_how() -> None:
    class Wrong(Sum):
        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            self.total = 5  # type: ignore[assignment]

    with pytest.raises(UserCodeError, match=r"assign self\.total\.value"):
        bench(Wrong).feed([event(1)])


def test_events_can_be_kept_as_state() -> None:
    class Last(ms.Process):
        last = ms.value_state(None)

        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            ctx.emit({"before": None if self.last.value is None else self.last.value.x})
            self.last.value = event

    test = bench(Last)
    test.feed([event(1, 5)]).feed([event(2, 6)])
    assert [r["before"] for r in test.outputs()] == [None, 5]


def test_state_of_a_type_that_no_checkpoint_could_keep_is_refused_when_it_is_first_seen() -> None:
    class Handle:
        pass

    class Keeps(ms.Process):
        handles = ms.list_state()

        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            self.handles.append({"it": Handle()})

    with pytest.raises(StateError, match=r"process.*'handles'.*Handle.*key 'a'"):
        bench(Keeps).feed([event(1)])


def test_pickled_state_is_kept_where_the_user_asks_for_it() -> None:
    class Keeps(ms.Process):
        number = ms.value_state(1j, pickle=True)

        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            self.number.value *= 2

    assert bench(Keeps).feed([event(1)]).state("process", "a") == {"number": 2j}


def test_a_parameter_of_the_process_is_given_with_the_object() -> None:
    @dataclass
    class Over(ms.Process):
        limit: int

        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            if event.x > self.limit:
                ctx.emit(event)

    test = bench(Over(3)).feed([event(1, 3), event(2, 4)])
    assert [r["x"] for r in test.outputs()] == [4]


# --- timers ---


class Alarm(ms.Process):
    """Sets a timer so many seconds behind the event, and says what it sees when it fires."""

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        ctx.set_timer(timedelta(seconds=event.x))

    def on_timer(self, timer: ms.Timer, ctx: ms.ProcessContext) -> None:
        ctx.emit({"k": ctx.key, "for": timer.time, "time": ctx.time, "watermark": ctx.watermark})


def test_a_timer_fires_when_the_watermark_reaches_it() -> None:
    test = bench(Alarm).feed([event(10, 20)])
    assert test.timers("process", "a") == [ms.Timer(at(30), "", "event")]
    assert test.watermark(at(29)).outputs() == []
    assert test.watermark(at(30)).outputs() == [{"k": "a", "for": at(30), "time": at(30), "watermark": at(30)}]
    assert test.watermark(at(99)).outputs() == []
    assert test.figures("process").get("keys", 0) == 0


def test_a_timer_for_the_past_fires_with_the_next_watermark() -> None:
    test = bench(Alarm).watermark(at(100)).feed([event(100, -50)])
    assert test.outputs() == []
    assert [r["for"] for r in test.watermark(at(101)).outputs()] == [at(50)]


def test_a_late_event_is_handled_all_the_same() -> None:
    for order in ("arrival", "event_time"):
        test = bench(Sum, order=order).watermark(at(100)).feed([event(3, 5)]).end()
        assert [r["total"] for r in test.outputs()] == [5]


def test_a_processing_time_timer_fires_when_the_clock_reaches_it() -> None:
    class Later(ms.Process):
        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            ctx.set_timer(ctx.now + timedelta(seconds=10), clock="processing", name="soon")
            ctx.set_timer(timedelta(seconds=20), clock="processing", name="later")

        def on_timer(self, timer: ms.Timer, ctx: ms.ProcessContext) -> None:
            ctx.emit({"name": timer.name, "late_by": (ctx.now - timer.time).total_seconds()})

    for timed in (True, False):
        test = bench(Later, timed=timed).feed([event(1)])
        assert test.advance("9s").outputs() == []
        assert test.advance("1s").outputs() == [{"name": "soon", "late_by": 0.0}]
        test.end()
        assert (test.outputs(), test.figures("process")["timers_dropped"]) == ([], 1)


def test_at_the_end_timers_are_called_once_in_order_and_those_they_set_are_dropped() -> None:
    class Again(Alarm):
        def on_timer(self, timer: ms.Timer, ctx: ms.ProcessContext) -> None:
            super().on_timer(timer, ctx)
            ctx.set_timer(timedelta(seconds=1))

    test = bench(Again).feed([event(10, 30), event(11, 20), event(12, 30, "b")]).end()
    assert [(r["k"], r["for"]) for r in test.outputs()] == [("a", at(31)), ("a", at(40)), ("b", at(42))]
    assert test.figures("process")["timers_dropped"] == 3


def test_a_stream_without_event_time_has_no_timers_by_it() -> None:
    with pytest.raises(FlowError, match=r"process.*no.*event_time\(\).*clock='processing'"):
        bench(Alarm, timed=False).feed([event(1)])


def test_rows_of_a_timer_have_the_timers_time_for_windows_behind_it() -> None:
    flow = ms.Flow("behind")
    stream = flow.read_iterable([], schema=SCHEMA).event_time("t", unit="s")
    stream.key_by("k").process(Alarm).key_by("k").window(ms.tumbling("10s")).agg(n=ms.count())
    test = FlowTest(flow, 2).feed([event(1, 5), event(2, 18), event(30)]).end()
    panes = [(r["window_start"], r["n"]) for r in test.outputs("agg")]
    assert sorted(panes) == [(at(0), 1), (at(20), 1), (at(30), 1)]


# --- outputs ---


def test_side_outputs_go_their_own_way() -> None:
    class Split(ms.Process):
        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            ctx.emit({"even": event.x}) if event.x % 2 == 0 else ctx.emit({"odd": str(event.x)}, to="odd")

    test = bench(Split, outputs=["odd"]).feed([event(1, 1), event(2, 2), event(3, 3)])
    assert test.outputs("process") == [{"even": 2}]
    assert test.outputs("process.odd") == [{"odd": "1"}, {"odd": "3"}]


def test_emitting_to_an_output_that_is_not_declared_names_those_that_are() -> None:
    class Wrong(ms.Process):
        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            ctx.emit(event, to="odds")

    with pytest.raises(FlowError, match=r"'odds'.*declares 'odd'"):
        bench(Wrong, outputs=["odd"]).feed([event(1)])


# --- control ---


class Limited(ms.Process):
    limit = ms.value_state(0, shared=True)
    seen = ms.value_state(0)

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.seen.value += 1
        if event.x > self.limit.value:
            ctx.emit({"k": event.k, "x": event.x})

    def on_control(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.limit.value = event.x
        if event.k == "reset":
            ctx.for_each_key(lambda key: self.seen.clear())


def test_control_events_reach_every_worker_and_events_wait_for_them() -> None:
    test = bench(Limited, control=True, order="event_time", workers=3)
    test.feed("read_iterable", [event(t, 5, k) for t in (1, 10, 20) for k in "abc"])
    assert test.outputs() == []  # nobody knows what the control stream will say
    test.feed("read_iterable_2", [event(5, 9), event(15, 0, "reset")]).end()
    assert sorted((r["k"], r["x"]) for r in test.outputs()) == [(k, 5) for k in "abc" for _ in (1, 20)]
    assert [test.state("process", k) for k in "abc"] == [{"seen": 1}] * 3


def test_shared_state_cannot_be_written_by_an_event_nor_a_keys_by_control() -> None:
    class Writes(Limited):
        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            self.limit.value = 3

    with pytest.raises(UserCodeError, match="limit"):
        bench(Writes, control=True).feed("read_iterable", [event(1)])

    class Reads(Limited):
        def on_control(self, event: Any, ctx: ms.ProcessContext) -> None:
            self.seen.value = 1

    with pytest.raises(FlowError, match=r"seen.*for_each_key"):
        bench(Reads, control=True).feed("read_iterable_2", [event(1)])


def test_a_control_stream_without_event_time_is_refused_where_it_would_stop_time() -> None:
    flow = ms.Flow("untimed")
    told = flow.read_iterable([], schema=SCHEMA)
    events = flow.read_iterable([], schema=SCHEMA).event_time("t", unit="s")
    events.key_by("k").process(Limited, control=told).collect("out")
    with pytest.raises(FlowError, match=r"control stream has no event time.*idle="):
        flow.run_here()


# --- failures ---


class Fails(ms.Process):
    n = ms.value_state(0)

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        ctx.emit({"x": event.x})
        if event.x < 0:
            raise ValueError(f"cannot take {event.x}")
        ctx.set_timer(timedelta(seconds=1))

    def on_timer(self, timer: ms.Timer, ctx: ms.ProcessContext) -> None:
        ctx.emit({"x": 1_000})
        if timer.time == at(21):
            raise KeyError("no")


def test_a_failure_names_the_operator_the_key_the_event_and_the_users_line() -> None:
    with pytest.raises(UserCodeError, match=r"(?s)process .*key 'b'.*x=-7.*cannot take.*ValueError"):
        bench(Fails).feed([event(1), event(2, -7, "b")])
    with pytest.raises(
        UserCodeError, match=r"(?s)process .*on_timer.*key 'a', timer at 1970-01-01T00:00:21Z.*KeyError"
    ):
        bench(Fails).feed([event(20)]).end()


def test_with_dead_letters_what_failed_puts_nothing_out_and_the_rest_goes_on() -> None:
    test = bench(Fails, on_error="dead_letter")
    test.feed([event(1, 1), event(2, -7), event(3, 3), event(20, 4)]).end()
    assert [r["x"] for r in test.outputs()] == [1, 3, 4, 1_000, 1_000]
    assert [letter.reason for letter in test.dead_letters] == [
        "on_event raised ValueError: cannot take -7", "on_timer raised KeyError: 'no'",
    ]  # fmt: skip
    assert "key 'a'" in str(test.dead_letters[0].record)


# --- mistakes that are found when the flow is built ---


class NoEvent(ms.Process):
    def on_timer(self, timer: ms.Timer, ctx: ms.ProcessContext) -> None:
        return None


class Generates(ms.Process):
    def on_event(self, event: Any, ctx: ms.ProcessContext) -> Any:
        yield event


class NeedsMore(ms.Process):
    def __init__(self, limit: int) -> None:
        self.limit = limit

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        return None


@pytest.mark.parametrize(
    "process, options, message",
    [
        (print, {}, "expected a class derived from millstream.Process"),
        (NoEvent, {}, "NoEvent has no on_event"),
        (Generates, {}, "generator"),
        (NeedsMore, {}, r"NeedsMore cannot be made without arguments.*limit"),
        (Sum, {"outputs": ["main"]}, "'main' and 'dead letters' are taken"),
        (Sum, {"outputs": ["a", "a"]}, "a name of its own"),
        (Sum, {"order": "random"}, "expected 'event_time' or 'arrival'"),
        (Sum, {"order": "event_time", "timed": False}, r"call event_time\(\)"),
        (Sum, {"control": True}, "Sum has no on_control"),
    ],
)
def test_a_process_that_cannot_work_is_refused_when_the_flow_is_built(
    process: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FlowError, match=message):
        bench(process, **options)


def test_state_is_declared_with_durations_and_clocks_that_exist() -> None:
    for declare in (ms.value_state, ms.list_state, ms.map_state):
        with pytest.raises(FlowError, match="longer than nothing"):
            declare(ttl="0s")
        with pytest.raises(FlowError, match="'event' or 'processing'"):
            declare(ttl="1s", ttl_clock="wall")  # type: ignore[arg-type]
        with pytest.raises(FlowError, match="shared state has no ttl"):
            declare(ttl="1s", shared=True)


# --- lifetimes by the clock ---


def test_state_with_a_processing_time_ttl_is_freed_when_the_clock_says_so() -> None:
    class Remembers(ms.Process):
        seen = ms.map_state(ttl="10s", ttl_clock="processing")

        def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
            self.seen[event.x] = 1
            ctx.emit({"n": len(self.seen)})

    test = bench(Remembers, timed=False).feed([event(1, 1)]).advance("6s").feed([event(1, 2)])
    assert [r["n"] for r in test.outputs()] == [1, 2]
    assert test.advance("5s").state("process", "a") == {"seen": {2: 1}}
    test.advance("6s")
    assert (test.figures("process").get("keys", 0), test.figures("process").get("expired", 2)) == (0, 2)


def test_scan_forgets_by_the_clock_where_there_is_no_event_time() -> None:
    flow = ms.Flow("scan")
    flow.read_iterable([], schema=SCHEMA).key_by("k").scan(0, lambda s, e: (s + 1, {"n": s}), ttl="10s")
    test = FlowTest(flow).feed([event(1), event(1)]).advance("9s").feed([event(1)]).advance("11s")
    assert test.state("scan", "a") is None
    assert [r["n"] for r in test.feed([event(1)]).outputs()] == [0, 1, 2, 0]


def test_warnings_are_not_needed_for_state_that_the_process_itself_clears() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bench(Sum)
