"""What `explain` says of plans: stages, how operators run, exchanges, fields, and why ingest goes where it goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import millstream as ms
from millstream import col
from millstream.coordinator.explain import explain
from millstream.planner import Ingest, make_plan

ROWS = "at,user,amount,note\n2026-01-01T00:00:00Z,ada,1,x\n"


@pytest.fixture
def payments(tmp_path: Path) -> Path:
    path = tmp_path / "payments.csv"
    path.write_text(ROWS)
    return path


def shown(flow: ms.Flow, *, workers: int = 4, ingest: Ingest = "auto", late: Path | None = None) -> str:
    plan = make_plan(flow, workers=workers, ingest=ingest, late_directory=late)
    console = Console(width=240, no_color=True)
    with console.capture() as capture:
        console.print(explain(plan, asked=ingest), highlight=False)
    return capture.get()


def line_with(text: str, part: str) -> str:
    return next(line for line in text.splitlines() if part in line)


def windowed(path: Path) -> tuple[ms.Flow, ms.WindowResult]:
    flow = ms.Flow("payments")
    stream = flow.read_csv(path).event_time("at", out_of_orderness="5s", idle="1m").key_by("user")
    return flow, stream.window(ms.tumbling("1m"), allowed_lateness="10s").agg(total=ms.sum("amount"))


def test_only_fields_that_are_read_are_named(payments: Path) -> None:
    flow, totals = windowed(payments)
    totals.collect()
    assert "reads 3 of 4 fields: at, user, amount" in shown(flow)


def test_stages_say_where_they_run_and_what_goes_between(payments: Path) -> None:
    flow, totals = windowed(payments)
    totals.write_jsonl(payments.parent / "out.jsonl")
    text = shown(flow)
    assert "stage 0 in each of 4 workers" in text
    assert "-> by key user to stage 1, with amount" in text
    assert "stage 1 in each of 4 workers, each for its share of the keys" in text
    assert "-> gathered to stage 2" in text
    assert "stage 2 in worker 0" in text


def test_rows_for_the_caller_run_in_the_calling_process(payments: Path) -> None:
    flow = ms.Flow("f")
    flow.read_csv(payments).print()
    assert "in the calling process" in shown(flow)


def test_event_time_and_windows_are_explained(payments: Path) -> None:
    flow, totals = windowed(payments)
    totals.collect()
    text = shown(flow)
    assert "tumbling(1m), allowed_lateness=10s" in text
    assert "by event time; a window fires at its end, and again for late changes" in text
    assert "silent for 1m no longer holds the others back" in text


def test_a_window_without_event_time_is_said_to_depend_on_arrival(payments: Path) -> None:
    flow = ms.Flow("f")
    flow.read_csv(payments).key_by("user").window(ms.tumbling("1m")).agg(n=ms.count()).collect()
    assert "by processing time" in shown(flow)


def test_the_place_of_late_events_is_named(payments: Path) -> None:
    flow, totals = windowed(payments)
    totals.collect()
    assert "late events: only counted" in shown(flow)
    assert f"late events: write_jsonl('{payments.parent}/late/agg/')" in shown(flow, late=payments.parent / "late")
    totals.late.write_csv(payments.parent / "late.csv")
    assert f"late events: write_csv('{payments.parent}/late.csv')" in shown(flow)


def test_user_functions_are_marked_and_named(payments: Path) -> None:
    def enrich(event: ms.Row) -> ms.Row:
        return event

    def step(state: int, event: ms.Row) -> tuple[int, ms.Row]:
        return state, event

    flow = ms.Flow("f")
    stream = flow.read_csv(payments).filter(col("amount") > 0).map(enrich).on("x", enrich, field="note")
    stream.key_by("user").scan(0, step).for_each(print)
    text = shown(flow)
    assert "columns" in line_with(text, "filter(")
    assert "Python" in line_with(text, "map(") and "enrich" in line_with(text, "map(")
    assert "Python" in line_with(text, "on('x'")
    assert "Python" in line_with(text, "scan(") and "step" in line_with(text, "scan(")
    assert "Python" in line_with(text, "for_each(")


def test_built_in_aggregates_and_sinks_run_on_columns(payments: Path) -> None:
    flow, totals = windowed(payments)
    totals.write_csv(payments.parent / "out.csv")
    text = shown(flow)
    assert "columns  test_explain.py" in line_with(text, ".agg(total=")
    assert "Python" not in text


@pytest.mark.parametrize(
    ("workers", "ingest", "why"),
    [
        (4, "auto", "in the workers: decoding costs more"),
        (1, "auto", "in the coordinator: one worker would decode no faster"),
        (4, "coordinator", "in the coordinator, as asked"),
        (1, "workers", "in the workers, as asked"),
    ],
)
def test_the_way_of_ingest_comes_with_its_reason(payments: Path, workers: int, ingest: Ingest, why: str) -> None:
    flow, totals = windowed(payments)
    totals.collect()
    assert f"ingest {why}" in shown(flow, workers=workers, ingest=ingest)


def test_functions_in_patterns_and_windows_are_shown_as_python(payments: Path) -> None:
    flow = ms.Flow("f")
    keyed = flow.read_csv(payments).event_time("at").key_by("user")
    keyed.match(ms.pattern("a", lambda event, matched: event.amount > 1)).collect("matches")
    keyed.match(ms.pattern("b", col("amount") > 1)).collect("columns")
    keyed.window(ms.custom_windows(lambda event: [(event.at, event.at)])).agg(n=ms.count()).collect("windows")
    text = shown(flow)
    assert "columns and Python" in line_with(text, "match(a: ")
    assert "Python" not in line_with(text, "match(b: ")
    assert "columns and Python" in line_with(text, "custom_windows(")


def test_a_pattern_is_shown_with_its_limits_in_time(payments: Path) -> None:
    flow = ms.Flow("f")
    steps = ms.pattern("a", col("amount") < 1).then("b", col("amount") > 5, within="3s")
    pattern = steps.without("c", col("amount") == 0, within="1m")
    flow.read_csv(payments).event_time("at").key_by("user").match(pattern).collect()
    assert 'then b: col("amount") > 5 within 3s, without c: col("amount") == 0 within 1m' in shown(flow)


def test_several_source_partitions_are_counted(payments: Path) -> None:
    (payments.parent / "payments2.csv").write_text(ROWS)
    flow = ms.Flow("f")
    flow.read_csv(str(payments.parent / "payments*.csv"), partitions="files").collect()
    assert "2 source partitions" in shown(flow)
