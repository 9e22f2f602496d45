"""A mistake in a flow or around it is said in a sentence, before any process starts where that is possible."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import millstream as ms
from millstream import col

TABLE = pa.table({"carrier": ["UA", "AA"], "delay": [3, 4]})


def flow_with(table: pa.Table = TABLE) -> tuple[ms.Flow, ms.Stream]:
    flow = ms.Flow("mistakes")
    return flow, flow.read_arrow(table)


def refuse(flow: ms.Flow, error: type[ms.MillstreamError], *texts: str) -> None:
    """Neither way of running starts anything: both say the same."""
    for run in (flow.run_here, lambda: flow.run(workers=1)):
        with pytest.raises(error) as caught:
            run()
        for text in texts:
            assert text in str(caught.value)


def test_an_unknown_field_is_named_with_the_nearest_and_the_line() -> None:
    flow, rows = flow_with()
    rows.filter(col("dely") > 3).collect()
    refuse(flow, ms.SchemaError, "filter (test_mistakes.py:", "'dely'", "did you mean 'delay'")


def test_an_unknown_key_field_is_named() -> None:
    flow, rows = flow_with()
    rows.key_by("carier").agg(n=ms.count()).collect()
    refuse(flow, ms.SchemaError, "key_by", "'carrier'")


def test_a_comparison_of_different_types_says_which() -> None:
    flow, rows = flow_with()
    rows.filter(col("carrier") > 3).collect()
    refuse(flow, ms.SchemaError, "filter", "string")


def test_a_sum_of_text_is_refused() -> None:
    flow, rows = flow_with()
    rows.key_by("carrier").agg(total=ms.sum("carrier")).collect()
    refuse(flow, ms.SchemaError, "sum", "string")


def test_a_number_as_time_needs_its_unit() -> None:
    flow, rows = flow_with()
    rows.event_time("delay").collect()
    refuse(flow, ms.SchemaError, "event_time", "unit=")


def test_a_missing_file_is_named() -> None:
    flow = ms.Flow("mistakes")
    flow.read_csv("no/such/flights.csv").collect()
    refuse(flow, ms.SourceError, "no/such/flights.csv")


def test_a_glob_that_matches_nothing_is_named(tmp_path: Path) -> None:
    flow = ms.Flow("mistakes")
    flow.read_jsonl(tmp_path / "*.jsonl").collect()
    refuse(flow, ms.SourceError, "*.jsonl")


def test_a_directory_in_which_nothing_may_be_written_is_named() -> None:
    flow, rows = flow_with()
    rows.write_jsonl("/proc/self/nothing/here/out.jsonl")
    refuse(flow, ms.SinkError, "/proc/self/nothing")


def test_a_flow_without_a_sink_says_what_to_do() -> None:
    flow, _ = flow_with()
    refuse(flow, ms.FlowError, "no sink")


def test_event_time_behind_a_window_is_refused() -> None:
    flow, rows = flow_with()
    rows.key_by("carrier").window(ms.tumbling("1s")).agg(n=ms.count()).event_time("window_start").collect()
    refuse(flow, ms.FlowError, "event time cannot be assigned behind")


def test_state_behind_results_that_are_revised_is_refused() -> None:
    flow, rows = flow_with()
    panes = rows.key_by("carrier").window(ms.tumbling("1s"), allowed_lateness="1s").agg(n=ms.count())
    panes.key_by("n").agg(m=ms.collect("carrier")).collect()
    refuse(flow, ms.FlowError, "emit='final'")


def test_a_disk_that_is_full_ends_the_run_and_names_the_file(tmp_path: Path) -> None:
    full = tmp_path / "full.jsonl"
    full.symlink_to("/dev/full")
    flow, rows = flow_with(pa.table({"n": list(range(200_000))}))
    rows.write_jsonl(full)
    with pytest.raises(ms.SinkError, match="full.jsonl") as caught:
        flow.run_here()
    assert "space" in str(caught.value).lower()


def test_an_address_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flow = ms.Flow("mistakes")
        flow.read_zeromq(f"tcp://127.0.0.1:{port}", schema=pa.schema([("n", pa.int64())])).collect()
        with pytest.raises(ms.SourceError, match=str(port)):
            flow.run(workers=1)


@pytest.mark.parametrize("workers", [0, -1, 257])
def test_a_number_of_workers_that_is_not_possible_is_refused(workers: int) -> None:
    flow, rows = flow_with()
    rows.collect()
    with pytest.raises(ms.FlowError, match="1 to 256"):
        flow.run(workers=workers)


def test_a_function_that_cannot_be_sent_to_workers_says_why() -> None:
    flow, rows = flow_with()
    with socket.socket() as held:
        rows.map(lambda row: held.send(b"x")).collect()
        with pytest.raises(ms.FlowError, match="cannot be sent to the workers"):
            flow.run(workers=1)


@pytest.mark.parametrize(
    "write",
    [
        lambda rows, place: rows.write_jsonl(place / "out.jsonl"),
        lambda rows, place: rows.write_csv(f"{place}/here/../out.jsonl"),
        lambda rows, place: rows.write_sqlite(place / "out.db", "delays"),
    ],
)
def test_two_sinks_that_would_undo_each_other_are_refused(
    write: Callable[[ms.Stream, Path], None], tmp_path: Path
) -> None:
    flow, rows = flow_with()
    (tmp_path / "here").mkdir()
    rows.write_jsonl(tmp_path / "out.jsonl")
    rows.write_sqlite(tmp_path / "out.db", "Delays")
    write(rows.filter(col("delay") > 3), tmp_path)
    refuse(flow, ms.FlowError, "(test_mistakes.py:", "writes there, too", "union()")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_sink_that_would_write_over_the_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"v": 1}\n')
    flow = ms.Flow("mistakes")
    flow.read_jsonl(tmp_path / "*.jsonl").filter(col("v") > 1).write_jsonl(tmp_path / "events.jsonl")
    refuse(flow, ms.FlowError, "write_jsonl (test_mistakes.py:", "what read_jsonl (test_mistakes.py:", "reads")
    assert (tmp_path / "events.jsonl").read_text() == '{"v": 1}\n'


def test_two_sinks_may_write_into_tables_of_one_database_and_to_one_device(tmp_path: Path) -> None:
    flow, rows = flow_with()
    for table in ("early", "late"):
        rows.write_sqlite(tmp_path / "out.db", table)
        rows.write_jsonl("/dev/null")
    assert flow.run_here().rows_out == 8
