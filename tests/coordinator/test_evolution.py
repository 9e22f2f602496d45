"""``millstream checkpoints diff``: what becomes of the state, without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator import flowfile
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.cli import main
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.planner import make_plan

FLOW = """
import millstream as ms
flow = ms.Flow("sums")
rows = flow.generate({"n": ms.connectors.Counter(), "k": list("ab")}, count=100)
rows.key_by("k").agg(AGGREGATES, name="agg").write_jsonl("out/")
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of a flow that was killed half-way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.py").write_text(FLOW.replace("AGGREGATES", 'n=ms.sum("n")'))
    flow, _ = flowfile.load("flow.py", ())
    store = CheckpointStore(DirectoryDisk(tmp_path / "sums" / "checkpoints"))
    run = LocalRun(
        make_plan(flow, workers=1, batch_rows=5), lambda letter: None, LocalCheckpoints(store, CheckpointPolicy(0))
    )
    run.start()
    while len(store.epochs()) < 2:
        run.step()
    return tmp_path / "sums"


def diff(state: Path, aggregates: str) -> Result:
    Path("flow.py").write_text(FLOW.replace("AGGREGATES", aggregates))
    return CliRunner().invoke(main, ["checkpoints", "diff", str(state), "flow.py"])


def test_a_flow_that_is_as_it_was_keeps_everything(state: Path) -> None:
    result = diff(state, 'n=ms.sum("n")')
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert [line[0] for line in lines] == ["operator", "generate", "agg", "write_jsonl"]
    assert all("kept" in line for line in lines[1:])


def test_what_would_be_lost_is_shown_with_the_reason_and_the_way_out(state: Path) -> None:
    result = diff(state, 'n=ms.max("n"), rows=ms.count()')
    assert result.exit_code == 1
    assert 'aggregate n: sum("n") then, max("n") now; aggregate rows: none then, count() now' in result.output
    assert "state would be lost" in result.output and "--drop-state agg" in result.output
