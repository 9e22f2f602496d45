"""Bad records go to the dead letters with where and why, and the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms
from millstream import col

Run = Callable[[ms.Flow], ms.RunResult]


def both_ways(state: Path) -> list[Any]:
    return [
        pytest.param(lambda flow, s: flow.run_here(state=s), id="in one process"),
        pytest.param(
            lambda flow, s: flow.run(workers=2, ingest="workers", state=s),
            id="decoded by workers",
            marks=pytest.mark.slow,
        ),
    ]


@pytest.fixture(params=both_ways(Path()))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    way: Callable[[ms.Flow, Path], ms.RunResult] = request.param
    return lambda flow: way(flow, tmp_path / "state")


def dead_letters(result: ms.RunResult) -> list[dict[str, Any]]:
    if result.dead_letter_path is None:
        return []
    return [
        json.loads(line) for file in sorted(result.dead_letter_path.iterdir()) for line in file.read_text().splitlines()
    ]


def counted(flow: ms.Flow, events: ms.Stream) -> ms.Flow:
    events.key_by("k").window(ms.tumbling("10s")).agg(n=ms.count()).collect("panes")
    return flow


def read_jsonl(tmp_path: Path, *lines: str) -> tuple[ms.Flow, ms.Stream]:
    (tmp_path / "in.jsonl").write_text("".join(line + "\n" for line in lines))
    flow = ms.Flow("bad-input")
    return flow, flow.read_jsonl(
        tmp_path / "in.jsonl", schema=pa.schema([("k", pa.string()), ("t", pa.int64()), ("v", pa.float64())])
    )


GOOD = '{"k":"a","t":1000,"v":1.5}'
GOOD_LATER = '{"k":"a","t":2000,"v":2.5}'


def events_of(result: ms.RunResult) -> int:
    return sum(result.tables["panes"].column("n").to_pylist())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param('{"k":"a","t":', "JSON", id="cut off"),
        pytest.param("nonsense", "JSON", id="no JSON at all"),
        pytest.param('{"k":"a","t":1,"v":1}{"k":"a","t":2,"v":1}', "", id="two records on a line"),
        pytest.param('{"k":"a","t":"soon","v":1}', "t", id="wrong type in a field"),
        pytest.param('{"k":7,"t":1,"v":1}', "k", id="number for text"),
    ],
)
def test_a_line_that_does_not_fit_is_a_dead_letter_with_file_line_offset_and_reason(
    tmp_path: Path, run: Run, line: str, reason: str
) -> None:
    flow, rows = read_jsonl(tmp_path, GOOD, line, GOOD_LATER)
    result = run(counted(flow, rows.event_time("t", unit="ms", out_of_orderness="5s")))
    assert events_of(result) == 2
    (letter,) = dead_letters(result)
    assert letter["origin"] == str(tmp_path / "in.jsonl")
    assert letter["line"] == 2
    assert letter["offset"] == len(GOOD) + 1
    assert letter["record"] == line
    assert reason in letter["reason"]
    assert result.dead_letters == 1
    assert result.events_in == 3


def test_a_quoted_newline_in_csv_is_part_of_its_record(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in.csv").write_text('k,t,note\na,1000,"two\nlines"\na,2000,one\na,oops,three\n')
    flow = ms.Flow("bad-input")
    rows = flow.read_csv(
        tmp_path / "in.csv", schema=pa.schema([("k", pa.string()), ("t", pa.int64()), ("note", pa.string())])
    )
    rows.collect("rows")
    result = run(flow)
    assert result.tables["rows"].column("note").to_pylist() == ["two\nlines", "one"]
    (letter,) = dead_letters(result)
    assert letter["line"] == 5
    assert letter["offset"] == len('k,t,note\na,1000,"two\nlines"\na,2000,one\n')


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param('{"k":"a","v":1}', "the time is missing", id="missing time field"),
        pytest.param('{"k":"a","t":null,"v":1}', "the time is missing", id="null time"),
        pytest.param('{"k":"a","t":9000000000000000000,"v":1}', "out of range", id="time out of range"),
        pytest.param('{"k":"a","t":4070908800000,"v":1}', "max_ahead", id="a timestamp in 2099"),
    ],
)
def test_an_event_without_a_usable_time_is_a_dead_letter_and_moves_no_watermark(
    tmp_path: Path, run: Run, line: str, reason: str
) -> None:
    flow, rows = read_jsonl(tmp_path, GOOD, line, GOOD_LATER)
    result = run(counted(flow, rows.event_time("t", unit="ms")))
    assert events_of(result) == 2
    assert result.late == 0
    (letter,) = dead_letters(result)
    assert reason in letter["reason"]


def test_a_null_key_is_a_key_of_its_own(tmp_path: Path, run: Run) -> None:
    flow, rows = read_jsonl(tmp_path, GOOD, '{"k":null,"t":1000,"v":1}', '{"t":1500,"v":1}')
    result = run(counted(flow, rows.event_time("t", unit="ms", out_of_orderness="5s")))
    assert sorted(map(str, zip(*(result.tables["panes"].column(c).to_pylist() for c in ("k", "n")), strict=True))) == [
        "('a', 1)",
        "(None, 2)",
    ]


def test_an_empty_file_gives_an_empty_result(tmp_path: Path, run: Run) -> None:
    flow, rows = read_jsonl(tmp_path)
    result = run(counted(flow, rows.event_time("t", unit="ms")))
    assert result.events_in == 0
    assert result.tables["panes"].num_rows == 0


def test_a_field_that_changes_its_type_in_the_middle_of_a_file_is_a_dead_letter_from_there_on(
    tmp_path: Path, run: Run
) -> None:
    (tmp_path / "in.jsonl").write_text(
        "".join(f'{{"k":"a","t":{i}}}\n' for i in range(60_000)) + '{"k":"a","t":"later"}\n' * 3
    )
    flow = ms.Flow("bad-input")
    result = run(counted(flow, flow.read_jsonl(tmp_path / "in.jsonl").event_time("t", unit="ms")))
    assert events_of(result) == 60_000
    letters = dead_letters(result)
    assert [letter["line"] for letter in letters] == [60_001, 60_002, 60_003]
    assert all("'t'" in letter["reason"] or '"t"' in letter["reason"] for letter in letters)


def test_an_expression_that_fails_on_a_row_fails_on_that_row_alone(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in.jsonl").write_text('{"n":"1"}\n{"n":"x"}\n{"n":"3"}\n')
    flow = ms.Flow("bad-input")
    flow.read_jsonl(tmp_path / "in.jsonl").select(n=col("n").cast("int64")).collect("rows")
    result = run(flow)
    assert result.tables["rows"].column("n").to_pylist() == [1, 3]
    (letter,) = dead_letters(result)
    assert "x" in letter["record"]


def fails_on_three(row: Any) -> Any:
    if row.v == 3:
        raise ValueError("three is too many")
    return row


def test_a_function_that_raises_stops_the_run_with_operator_event_and_traceback(tmp_path: Path, run: Run) -> None:
    flow, rows = read_jsonl(tmp_path, *(f'{{"k":"a","t":{i},"v":{i}}}' for i in range(6)))
    rows.map(fails_on_three).collect("rows")
    with pytest.raises(ms.UserCodeError) as caught:
        run(flow)
    message = str(caught.value)
    assert "map (test_bad_input.py:" in message
    assert "v=3.0" in message
    assert "in fails_on_three" in message
    assert "ValueError: three is too many" in message
    assert "call_rows" not in message


def test_a_function_that_raises_may_send_the_event_to_the_dead_letters(tmp_path: Path, run: Run) -> None:
    flow, rows = read_jsonl(tmp_path, *(f'{{"k":"a","t":{i},"v":{i}}}' for i in range(6)))
    rows.map(fails_on_three, on_error="dead_letter").collect("rows")
    result = run(flow)
    assert sorted(result.tables["rows"].column("t").to_pylist()) == [0, 1, 2, 4, 5]
    (letter,) = dead_letters(result)
    assert "three is too many" in letter["reason"]


def test_late_events_that_nobody_asked_for_have_a_place_to_look(tmp_path: Path, run: Run) -> None:
    flow, rows = read_jsonl(tmp_path, '{"k":"a","t":50000,"v":1}', '{"k":"late one","t":1000,"v":2}')
    result = run(counted(flow, rows.event_time("t", unit="ms")))
    assert result.late == 1
    assert result.late_path is not None
    (row,) = [json.loads(line) for file in result.late_path.rglob("*.jsonl") for line in file.read_text().splitlines()]
    assert row["k"] == "late one"
    assert row["event_time"] == "1970-01-01T00:00:01Z"
