"""The log of a run: every line says what it is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from millstream.coordinator.cli import main
from millstream.coordinator.log import RunLog
from millstream.errors import FlowError

FLOW = """
import millstream as ms
from millstream.connectors.generate import Counter

flow = ms.Flow("talk")


def shout(row):
    print("row", row.x)
    return {"x": 1 // (3 - row.x)}


flow.generate({"x": Counter()}, count=9).map(shout, schema={"x": int}).write_jsonl("out")
"""


@pytest.mark.slow
def test_what_a_function_prints_and_its_failure_have_run_attempt_process_and_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.py").write_text(FLOW)
    result = CliRunner().invoke(
        main, ["run", "talk.py", "--workers", "1", "--plain", "--ui", "off", "--log", "run.log"]
    )
    assert result.exit_code == 1
    lines = [json.loads(line) for line in (tmp_path / "run.log").read_text().splitlines()]
    assert len({line["run"] for line in lines}) == 1
    about = [(x["kind"], x["process"], x["operator"], x["attempt"], x["text"]) for x in lines]
    assert about[0] == ("attempt", "supervisor", None, 1, "attempt 1 begins anew")
    assert ("output", "worker-0", "map", 1, "row 2") in about
    assert about[-1][:3] == ("failed", "supervisor", "map")
    assert "ZeroDivisionError" in lines[-1]["detail"]


def test_a_log_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="cannot be written: .*; choose another file"):
        RunLog(tmp_path / "no" / "run.log", "f", print)


def test_a_full_disk_is_told_once_and_the_run_goes_on() -> None:
    said: list[str] = []
    log = RunLog(Path("/dev/full"), "f", said.append)
    log.write("notice", "one")
    log.write("notice", "two")
    assert len(said) == 1 and "cannot be written any more" in said[0]
