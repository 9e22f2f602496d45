"""map_async: many calls under way, answers in order, nothing late for being slow."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.errors import FlowError, UserCodeError


def events(flow: ms.Flow, count: int) -> ms.Stream:
    return flow.read_iterable([{"i": i, "at": 1_000 * i} for i in range(count)])


def answered(function: Any, count: int = 50, batch_size: int = 7, **options: Any) -> tuple[list[int], ms.RunResult]:
    flow = ms.Flow("enrich")
    events(flow, count).map_async(function, **options).collect("out")
    result = flow.run_here(batch_size=batch_size)
    table = result.tables["out"]
    return (table["answer"].to_pylist() if table.num_columns else []), result


async def sooner_the_later(event: Any) -> dict[str, int]:
    """Answers after a while, later events sooner."""
    await asyncio.sleep(0.012 - event.i % 5 * 0.002)
    return {"answer": event.i}


def test_answers_leave_in_the_order_of_their_events() -> None:
    assert answered(sooner_the_later, capacity=20)[0] == list(range(50))


def test_unordered_answers_are_all_there() -> None:
    assert sorted(answered(sooner_the_later, capacity=20, ordered=False)[0]) == list(range(50))


def test_calls_of_several_batches_are_under_way_at_once_but_no_more_than_the_capacity() -> None:
    under_way: set[int] = set()
    seen: list[int] = []

    async def ask(event: Any) -> dict[str, int]:
        under_way.add(event.i)
        seen.append(len(under_way))
        await asyncio.sleep(0.005)
        under_way.remove(event.i)
        return {"answer": event.i}

    assert answered(ask, capacity=5, batch_size=1)[0] == list(range(50))
    assert max(seen) == 5


def test_an_answer_of_none_puts_nothing_out() -> None:
    async def ask(event: Any) -> dict[str, int] | None:
        return {"answer": event.i} if event.i % 2 else None

    assert answered(ask)[0] == list(range(1, 50, 2))


def test_a_plain_function_runs_in_threads_at_the_same_time() -> None:
    meeting = threading.Barrier(4, timeout=20)

    def ask(event: Any) -> dict[str, int]:
        meeting.wait()  # nobody leaves before four are here
        return {"answer": event.i}

    assert answered(ask, count=8, capacity=4)[0] == list(range(8))


def test_a_call_that_fails_is_made_again() -> None:
    tries: dict[int, int] = {}

    async def ask(event: Any) -> dict[str, int]:
        tries[event.i] = tries.get(event.i, 0) + 1
        if event.i == 3 and tries[3] < 3:
            raise ConnectionError("not now")
        return {"answer": event.i}

    assert answered(ask, count=5, retries=2)[0] == list(range(5))
    assert tries == {0: 1, 1: 1, 2: 1, 3: 3, 4: 1}


def test_the_last_failure_ends_the_run_and_names_the_event() -> None:
    async def ask(event: Any) -> dict[str, int]:
        if event.i == 3:
            raise ConnectionError("no route to the service")
        return {"answer": event.i}

    with pytest.raises(UserCodeError, match="no route to the service") as caught:
        answered(ask, count=5)
    assert "i=3" in str(caught.value)


def test_a_call_that_takes_too_long_becomes_a_dead_letter_where_that_is_wanted() -> None:
    async def ask(event: Any) -> dict[str, int]:
        await asyncio.sleep(30 if event.i == 3 else 0)
        return {"answer": event.i}

    answers, result = answered(ask, count=5, timeout="50ms", on_error="dead_letter")
    assert answers == [0, 1, 2, 4]
    assert result.dead_letters == 1
    assert "no answer within 0.05 s" in str(result.letters[0])


@pytest.mark.parametrize("ordered", [True, False])
def test_no_event_is_late_because_its_answer_was_slow(ordered: bool) -> None:
    flow = ms.Flow("enrich")

    async def ask(event: Any) -> dict[str, int]:
        await asyncio.sleep(0.03 if event.i % 10 == 0 else 0.0)
        return {"i": event.i}

    enriched = events(flow, 100).event_time("at", unit="ms").map_async(ask, ordered=ordered)
    counts = enriched.key_by(k=ms.col("i") % 2).window(ms.tumbling("10s")).agg(events=ms.count())
    counts.collect("out")
    counts.late.collect("late")
    result = flow.run_here(batch_size=3)
    assert result.tables["out"]["events"].to_pylist() == [5] * 20
    assert result.tables["late"].num_rows == 0


def test_it_works_in_worker_processes_and_behind_a_window() -> None:
    flow = ms.Flow("enrich")

    async def ask(pane: Any) -> dict[str, int]:
        await asyncio.sleep(0.001)
        return {"k": pane.k, "events": pane.events}

    counts = events(flow, 100).event_time("at", unit="ms").key_by(k=ms.col("i") % 4)
    panes = counts.window(ms.tumbling("10s")).agg(events=ms.count())
    panes.map_async(ask, schema={"k": int, "events": int}).collect("out")
    table = flow.run(workers=2).tables["out"]
    assert table.num_rows == 40
    assert sum(table["events"].to_pylist()) == 100


def test_what_makes_no_sense_is_refused_where_it_is_written() -> None:
    stream = ms.Flow("enrich").read_arrow(pa.table({"i": [1]}))
    with pytest.raises(FlowError, match=r"test_map_async\.py:\d+ map_async: capacity=0"):
        stream.map_async(time.sleep, capacity=0)
    with pytest.raises(FlowError, match="leaves no time for an answer"):
        stream.map_async(time.sleep, timeout="0s")
    with pytest.raises(FlowError, match="expected a function"):
        stream.map_async(3)  # type: ignore[arg-type]


def test_explain_says_how_it_works() -> None:
    flow = ms.Flow("enrich")
    stream = flow.read_arrow(pa.table({"i": [1]})).map_async(time.sleep, capacity=3, ordered=False)
    assert list(flow.nodes[stream.port.node].spec.notes()) == [
        "up to 3 calls at once in each worker; results leave as they come, but never behind their watermark"
    ]
