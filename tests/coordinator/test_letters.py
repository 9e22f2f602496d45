"""``millstream dead-letters``: how many there are, why, and the records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import millstream as ms
from millstream.coordinator.cli import main
from millstream.coordinator.local import LocalRun
from millstream.deadletters import DeadLetterFile
from millstream.planner import make_plan


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory of a flow some of whose records were refused."""
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(20)) + '{"n": "many"}\n{"n"')
    flow = ms.Flow("divided")
    rows = flow.read_jsonl(str(tmp_path / "in.jsonl"), schema={"n": int})
    rows.map(lambda e: {"q": 12 // (e.n % 5)}, on_error="dead_letter").write_jsonl(f"{tmp_path}/out/")
    state = tmp_path / "divided"
    state.mkdir()
    (state / "attempt").write_text("1")
    letters = DeadLetterFile(state / "dead-letters" / "worker-0.jsonl")
    LocalRun(make_plan(flow, workers=1), letters).run()
    letters.close()
    return state


def told(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["dead-letters", *map(str, arguments)])


def test_letters_are_counted_by_operator_and_reason(state: Path) -> None:
    result = told("list", state)
    assert result.exit_code == 0, result.output
    assert "6 in all" in result.output
    assert any("map" in line and " 4 " in line and "ZeroDivisionError" in line for line in result.output.splitlines())


def test_the_last_are_shown_with_where_they_came_from_and_whole(state: Path) -> None:
    shown = told("show", state, "--operator", "read_jsonl")
    assert shown.exit_code == 0, shown.output
    assert "line 21" in shown.output and '{"n": "many"}' in shown.output
    assert len(told("show", state, "--operator", "map", "--most", "3").output.splitlines()) == 6
    records = [json.loads(line) for line in told("show", state, "--format", "json").output.splitlines()]
    assert len(records) == 6 and all({"operator", "reason", "record"} <= set(r) for r in records)
    assert told("show", state, "--operator", "nobody").output == ""


def test_a_line_that_was_cut_short_is_passed_over(state: Path) -> None:
    with (state / "dead-letters" / "worker-0.jsonl").open("a") as file:
        file.write('{"operator": "ma')
    assert "6 in all" in told("list", state).output
