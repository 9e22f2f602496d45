"""The testing kit: what is fed goes through the flow, time moves when it is told to, nothing else happens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.errors import FlowError, SchemaError, UserCodeError
from millstream.state_codec import StateError
from millstream.testing import FlowTest

START = datetime(2024, 5, 1, 10, tzinfo=UTC)
SCHEMA = pa.schema([("at", pa.timestamp("us", "UTC")), ("k", pa.string()), ("x", pa.int64())])


def event(second: int, k: str = "a", x: int = 1) -> dict[str, Any]:
    return {"at": START + timedelta(seconds=second), "k": k, "x": x}


def counting(**event_time: Any) -> ms.Flow:
    flow = ms.Flow("counting")
    stream = flow.read_jsonl("nowhere/*.jsonl", schema=SCHEMA).event_time("at", **event_time)
    panes = stream.key_by("k").window(ms.tumbling("10s")).agg(n=ms.count())
    panes.write_jsonl("out/counts.jsonl")
    return flow


@pytest.mark.parametrize("workers", [1, 3])
def test_windows_fire_when_the_watermark_is_told_and_nothing_is_written(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    test = FlowTest(counting(), workers)
    test.feed([event(1), event(2, "b"), event(9)])
    assert test.outputs() == []
    test.watermark(START + timedelta(seconds=10))
    assert sorted((r["k"], r["n"]) for r in test.outputs("agg")) == [("a", 2), ("b", 1)]
    assert test.outputs("write_jsonl") == []  # the same rows, which have been looked at
    test.feed([event(3, "late")])
    assert [r["k"] for r in test.outputs("agg.late")] == ["late"]
    test.end()
    assert test.outputs() == []
    assert list(tmp_path.iterdir()) == []


def test_the_flow_itself_is_left_as_it_was(tmp_path: Path) -> None:
    flow = ms.Flow("mine")
    flow.read_iterable([{"x": 1}, {"x": 2}]).filter(ms.col("x") > 1).collect("out")
    nodes = list(flow.nodes)
    test = FlowTest(flow).feed([{"x": 5}]).end()
    assert test.outputs("out") == [{"x": 5}]
    assert flow.nodes == nodes
    assert flow.run_here().tables["out"].to_pylist() == [{"x": 2}]


def test_batches_are_cut_as_the_test_wants_and_order_is_kept() -> None:
    flow = ms.Flow("order")
    flow.read_iterable([], schema=pa.schema([("x", pa.int64())])).collect("out")
    for size in (1, 3, 100):
        test = FlowTest(flow, batch_size=size).feed([{"x": i} for i in range(10)])
        test.feed(pa.table({"x": [10, 11]}))
        assert [r["x"] for r in test.outputs()] == list(range(12))


def test_several_sources_are_fed_by_name_and_watermarks_can_differ() -> None:
    flow = ms.Flow("two")
    left = flow.read_iterable([], schema=SCHEMA).event_time("at")
    right = flow.read_iterable([], schema=SCHEMA).event_time("at")
    left.union(right).key_by("k").window(ms.tumbling("10s")).agg(n=ms.count())
    test = FlowTest(flow)
    with pytest.raises(FlowError, match=r"2 sources.*'read_iterable', 'read_iterable_2'"):
        test.feed([event(1)])
    test.feed("read_iterable", [event(1)]).feed("read_iterable_2", [event(2)])
    assert test.watermark(START + timedelta(seconds=60), "read_iterable").outputs("agg") == []
    test.watermark(START + timedelta(seconds=60), "read_iterable_2")
    assert [r["n"] for r in test.outputs("agg")] == [2]


def test_a_silent_partition_becomes_idle_when_the_clock_has_been_moved_so_far() -> None:
    flow = ms.Flow("idle")
    left = flow.read_iterable([], schema=SCHEMA).event_time("at", idle="30s")
    right = flow.read_iterable([], schema=SCHEMA).event_time("at")
    left.union(right).key_by("k").window(ms.tumbling("10s")).agg(n=ms.count())
    test = FlowTest(flow).feed("read_iterable", [event(1)]).feed("read_iterable_2", [event(2), event(30)])
    assert test.advance("29s").outputs("agg") == []
    assert [r["n"] for r in test.advance("2s").outputs("agg")] == [2]


def test_a_source_whose_file_is_missing_shows_its_fields_with_the_first_rows() -> None:
    flow = ms.Flow("missing")
    flow.read_csv("no/such/file.csv").select(twice=ms.col("x") * 2).collect("out")
    test = FlowTest(flow).feed([{"x": 4, "y": "unread"}])
    assert test.outputs() == [{"twice": 8}]


def test_rows_that_the_source_could_not_have_given_are_refused() -> None:
    flow = ms.Flow("rows")
    flow.read_iterable([], schema=pa.schema([("amount", pa.int64())])).collect("out")
    with pytest.raises(SchemaError, match=r"'amuont'.*did you mean 'amount'"):
        FlowTest(flow).feed([{"amuont": 1}])
    with pytest.raises(SchemaError, match="amount"):
        FlowTest(flow).feed([{"amount": "many"}])
    assert FlowTest(flow).feed([{}]).outputs() == [{"amount": None}]


def test_what_is_asked_for_by_a_wrong_name_is_answered_with_the_right_ones() -> None:
    test = FlowTest(counting())
    with pytest.raises(FlowError, match=r"'aggs'.*'agg', 'agg.late', 'write_jsonl'"):
        test.outputs("aggs")
    with pytest.raises(FlowError, match="no operator is named 'nothing'"):
        test.state("nothing", "a")
    with pytest.raises(FlowError, match="keeps no state of yours"):
        test.state("agg", "a")
    with pytest.raises(FlowError, match="no source of that name"):
        test.feed("read_csv", [])
    with pytest.raises(FlowError, match="ISO 8601"):
        test.watermark("soon")


def test_a_flow_without_event_time_has_no_watermark_to_tell() -> None:
    flow = ms.Flow("untimed")
    flow.read_iterable([], schema=SCHEMA).collect("out")
    with pytest.raises(FlowError, match=r"event_time\(\)"):
        FlowTest(flow).watermark(START)


def test_an_error_of_the_users_is_raised_by_the_step_that_meets_it() -> None:
    flow = ms.Flow("raises")
    flow.read_iterable([], schema=SCHEMA).map(lambda e: {"y": 1 // e.x}).collect("out")
    test = FlowTest(flow).feed([event(1)])
    with pytest.raises(UserCodeError, match="ZeroDivisionError"):
        test.feed([event(2, x=0)])
    test.close()


def test_state_that_no_checkpoint_could_keep_is_found_wherever_it_hides() -> None:
    def step(state: list[Any], row: Any) -> tuple[list[Any], None]:
        # The second one is nested in a type that was seen, and looked well, before.
        return [*state, row.x if row.x < 2 else object()], None

    flow = ms.Flow("hides")
    flow.read_iterable([], schema=SCHEMA).key_by("k").scan(list, step)
    test = FlowTest(flow).feed([event(1)])
    with pytest.raises(StateError, match=r"scan.*object.*key 'a'"):
        test.feed([event(2, x=2)])


def test_time_stands_still_unless_it_is_moved() -> None:
    with FlowTest(counting(), start=START) as test:
        assert test.feed([event(1)]).now == START
        assert test.advance("1h30m").now == START + timedelta(minutes=90)
