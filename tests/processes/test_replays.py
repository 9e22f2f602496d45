"""Dead letters replayed by the command line, in a run that goes on and is hurt, and in one that was stopped and mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run, Start
from .test_commands import millstream

pytestmark = pytest.mark.slow

FLOW = """
from pathlib import Path
import millstream as ms
from millstream.connectors import Counter

flow = ms.Flow("priced")


def price(row):
    if row.n % 50 == 7 and not Path("prices").exists():
        raise ValueError(f"no price for {row.n}")
    return {"n": row.n}


orders = flow.generate({"n": Counter()}, rate=2_000)
orders.map(price, schema={"n": int}, on_error="dead_letter").write_jsonl("out.jsonl")
"""


def written(folder: Path) -> list[int]:
    whole = (folder / "out.jsonl").read_text().rpartition("\n")[0]  # a run that goes on may be at its last line
    return sorted(json.loads(line)["n"] for line in whole.splitlines())


def letters_in(run: Run) -> int:
    folder = run.directory / ".millstream" / "priced" / "dead-letters"
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


def refusing(start: Start) -> Run:
    run = start(FLOW, "--workers", "2", "--checkpoint-interval", "1s")
    run.wait_for(lambda: letters_in(run) > 20, "dead letters")
    return run


@pytest.mark.parametrize("killed", ["worker-0", "coordinator"])
def test_letters_are_replayed_once_though_processes_are_killed(start: Start, tmp_path: Path, killed: str) -> None:
    run = refusing(start)
    (tmp_path / "prices").touch()
    status, told, errors = millstream(tmp_path, "dead-letters", "replay", "priced", "--operator", "map")
    assert status == 0 and "dead letters go again to the operators that had refused them" in told, errors
    lost = run.roles[killed]
    lost.kill()
    run.wait_for(lambda: (now := run.roles.get(killed)) is not None and now.pid != lost.pid, f"a new {killed}")
    status, told, errors = millstream(tmp_path, "dead-letters", "replay", "priced")
    assert "had been replayed before" in told + errors, "those of the time of the first request may be all"
    assert millstream(tmp_path, "stop", "priced")[0] == 0
    run.finish()
    numbers = written(tmp_path)
    assert numbers == list(range(len(numbers)))


def test_what_is_asked_of_a_stopped_flow_is_done_by_its_next_run(start: Start, tmp_path: Path) -> None:
    run = refusing(start)
    assert millstream(tmp_path, "stop", "priced")[0] == 0
    run.finish()
    refused = letters_in(run)
    status, told, _ = millstream(tmp_path, "dead-letters", "replay", "priced")
    assert status == 0 and told.startswith(
        f"the flow does not run; its next run is asked for this: {refused} dead letters"
    )
    (tmp_path / "prices").touch()
    again = start(FLOW, "--workers", "3", "--checkpoint-interval", "1s")
    again.wait_for(lambda: 7 in written(tmp_path), "what had been refused")
    assert millstream(tmp_path, "stop", "priced", "--drain")[0] == 0
    _, _, errors = again.finish()
    assert f"replay: {refused} dead letters go again" in errors
    numbers = written(tmp_path)
    assert numbers == list(range(len(numbers)))
    listed = millstream(tmp_path, "dead-letters", "list", "priced")[1]
    assert any(line.count(f" {refused} ") == 2 for line in listed.splitlines() if "no price" in line), listed
    status, _, errors = millstream(tmp_path, "dead-letters", "replay", "priced")
    assert status == 1 and "its next run begins anew, and reads all of its input again" in errors
