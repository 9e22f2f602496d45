"""Rates, shares and lags between two reports of a run."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream.coordinator.ui.graph import Graph, graph_of
from millstream.coordinator.ui.picture import picture
from millstream.planner import make_plan
from millstream.times import MAX_US, MIN_US

SECOND = 1_000_000


@pytest.fixture
def graph() -> Graph:
    flow = ms.Flow("clicks")
    table = pa.table({"at": pa.array([0], pa.timestamp("us", "UTC")), "user": ["ada"]})
    stream = flow.read_arrow(table).event_time("at").key_by("user")
    stream.window(ms.tumbling("1h")).agg(n=ms.count()).write_jsonl("out.jsonl")
    return graph_of(make_plan(flow, workers=2, ingest="coordinator"))


def report(seconds: float, *, attempt: int = 1, watermark_us: int = MIN_US, **processes: Any) -> dict[str, Any]:
    return {
        "time_us": int(seconds * SECOND), "seconds": seconds, "attempt": attempt, "state": "running",
        "watermark_us": watermark_us, "partitions": [], "processes": processes,
    }  # fmt: skip


def worker(seconds: float, **figures: Any) -> dict[str, Any]:
    return {"measured_s": seconds, **figures}


def test_rates_are_of_the_time_between_the_reports(graph: Graph) -> None:
    before = report(10, coordinator=worker(100, operators={"read_arrow": {"rows_in": 1_000}}))
    after = report(12, coordinator=worker(102, operators={"read_arrow": {"rows_in": 5_000}}))
    assert picture(graph, before, after)["events_per_s"] == pytest.approx(2_000)
    assert picture(graph, before, after)["events_in"] == 5_000


def test_shares_are_by_the_clock_of_the_process_itself(graph: Graph) -> None:
    before = report(10, worker_0=worker(100.0, idle_us=0, busy_us={"agg": 0}, operators={"agg": {}}))
    # The report is a second later, but the worker's own figures are of half a second later only.
    after = report(11, worker_0=worker(100.5, idle_us=100_000, busy_us={"agg": 300_000}, operators={"agg": {}}))
    drawn = picture(graph, before, after)["processes"]["worker_0"]
    assert drawn["busy"] == pytest.approx(0.8)
    assert drawn["operators"]["agg"] == pytest.approx(0.6)


def test_what_the_planner_added_works_for_the_operator_of_the_user(graph: Graph) -> None:
    assert "encode_for_write_jsonl" in next(o for o in graph.operators if o.name == "write_jsonl").parts
    before = report(0, w=worker(0, busy_us={"encode_for_write_jsonl": 0}, operators={}))
    busy_us = {"encode_for_write_jsonl": 400_000, "write_jsonl": 100_000}
    after = report(1, w=worker(1, busy_us=busy_us, operators={"encode_for_write_jsonl": {"rows_in": 70}}))
    drawn = picture(graph, before, after)["operators"]["write_jsonl"]
    assert (drawn["busy"], drawn["rows_in"]) == (pytest.approx(0.5), 70)


def test_another_life_of_the_run_is_not_compared_with_the_one_before(graph: Graph) -> None:
    before = report(100, w=worker(100, operators={"read_arrow": {"rows_in": 9_000}}))
    after = report(2, attempt=2, w=worker(2, operators={"read_arrow": {"rows_in": 50}}))
    assert picture(graph, before, after)["events_per_s"] == pytest.approx(25)


def test_hot_keys_of_several_senders_are_put_together(graph: Graph) -> None:
    after = report(
        1,
        w0=worker(1, hot_keys={"agg": [100, [["a", 60]]]}),
        w1=worker(1, hot_keys={"agg": [100, [["b", 30], ["a", 20]]]}),
    )
    keys = picture(graph, None, after)["operators"]["agg"]["hot_keys"]
    assert keys == [{"key": "a", "share": 0.4}, {"key": "b", "share": 0.15}]


def test_latency_is_that_of_rows_written_since_then(graph: Graph) -> None:
    before = report(1, w=worker(1, latency={"write_jsonl": {80: 1_000}}))
    after = report(2, w=worker(2, latency={"write_jsonl": {80: 1_000, "160": 10}}))  # JSON makes texts of numbers
    drawn = picture(graph, before, after)
    assert drawn["latency_p50_us"] == pytest.approx(2**20, rel=0.05)


def test_the_lag_of_a_replay_is_measured_from_the_newest_event(graph: Graph) -> None:
    partition = {
        "source": "read_arrow",
        "name": "t",
        "largest_us": 50,
        "watermark_us": 20,
        "ended": False,
        "idle": False,
    }
    after = {**report(1, watermark_us=20, w=worker(1)), "partitions": [partition]}
    assert picture(graph, None, after)["lag_us"] == 30


@pytest.mark.parametrize(("told", "shown"), [(MIN_US, None), (MAX_US, "end"), (5, 5)])
def test_a_watermark_is_unknown_at_first_and_at_the_end_behind_all(graph: Graph, told: int, shown: object) -> None:
    drawn = picture(graph, None, report(1, watermark_us=told, w=worker(1)))
    assert drawn["watermark_us"] == shown


def test_the_partition_with_the_lowest_watermark_holds_it_back(graph: Graph) -> None:
    def partition(name: str, watermark_us: int, **more: bool) -> dict[str, Any]:
        return {
            "source": "s",
            "name": name,
            "largest_us": 0,
            "watermark_us": watermark_us,
            "ended": False,
            "idle": False,
            "since_us": 7,
            **more,
        }

    after = {
        **report(1, w=worker(1)),
        "partitions": [partition("a", 50), partition("b", 20), partition("c", 1, idle=True)],
    }
    assert picture(graph, None, after)["holder"] == {"source": "s", "name": "b", "behind_us": 30, "since_us": 7}


def test_a_graph_survives_json(graph: Graph) -> None:
    assert Graph.from_json(json.loads(json.dumps(graph.as_json()))) == graph
    assert {(e.source, e.target, e.exchange) for e in graph.edges} == {
        ("read_arrow", "event_time", None), ("event_time", "agg", "key"), ("agg", "write_jsonl", "gather"),
    }  # fmt: skip
