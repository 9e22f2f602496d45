"""``millstream checkpoints``: what there is, what is in it, and whether it is sound."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

import millstream as ms
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.cli import main
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.planner import make_plan


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state directory of a flow that has run to its end, with a checkpoint at every step."""
    flow = ms.Flow("sums")
    table = pa.table({"k": ["a", "b"] * 50, "v": range(100)})
    flow.read_arrow(table).key_by("k").scan(0, lambda s, e: (s + e.v, {"k": e.k, "sum": s + e.v})).write_jsonl(
        f"{tmp_path}/out/"
    )
    store = CheckpointStore(DirectoryDisk(tmp_path / "sums" / "checkpoints"))
    plan = make_plan(flow, workers=2, batch_rows=10)
    LocalRun(plan, lambda letter: None, LocalCheckpoints(store, CheckpointPolicy(0))).run()
    return tmp_path / "sums"


def told(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["checkpoints", *arguments])


def test_the_list_says_when_each_was_made_and_how_large_it_is(state: Path) -> None:
    lines = told("list", str(state)).output.splitlines()
    assert lines[0].split() == ["epoch", "made", "attempt", "workers", "tables", "bytes"]
    assert len(lines) == 4
    assert lines[-1].endswith("the input had ended")


def test_savepoints_are_in_the_list_too(state: Path) -> None:
    store = CheckpointStore(DirectoryDisk(state / "checkpoints"))
    epoch = store.epochs()[1]
    store.copy_to(CheckpointStore(DirectoryDisk(state / "savepoints" / "before")), store.manifest(epoch))
    lines = told("list", str(state)).output.splitlines()
    assert len(lines) == 5
    assert lines[-1].split()[0] == str(epoch) and lines[-1].endswith(f"savepoint {state / 'savepoints' / 'before'}")


def test_one_checkpoint_shows_where_sources_were_and_what_operators_held(state: Path) -> None:
    store = CheckpointStore(DirectoryDisk(state / "checkpoints"))
    epoch = store.epochs()[0]
    output = told("show", str(state), str(epoch)).output
    assert f"checkpoint {epoch} of sums" in output
    assert "read_arrow 'table': {'file': 'table', 'row': " in output
    # Each of the three checkpoints up to this one wrote the states of both keys, which had changed.
    assert {file.rows for file in store.manifest(epoch).tables} == {2}
    assert "scan: states 6 rows by 3 checkpoints" in output


def test_a_damaged_table_is_named_and_the_exit_status_says_so(state: Path) -> None:
    assert told("verify", str(state)).exit_code == 0
    # Checkpoints refer to what earlier ones wrote; what the last one wrote is its own.
    table = max((state / "checkpoints" / "data").iterdir())
    table.write_bytes(table.read_bytes()[:-9])
    result = told("verify", str(state))
    assert result.exit_code == 1
    assert f"data/{table.name}: damaged" in result.output
    assert "sound" in result.output


def test_a_directory_without_checkpoints_is_a_sentence_with_a_hint(state: Path) -> None:
    result = told("list", str(state.parent))
    assert result.exit_code == 1
    assert f"there are checkpoints of sums below it: name one, {state}" in result.output.replace("\n", "")
    assert "no checkpoints" in told("show", str(state.parent / "nowhere")).output
