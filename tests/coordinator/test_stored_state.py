"""``millstream state``: what operators held at a checkpoint, without the flow."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
    """The state directory of a flow with a checkpoint at every step, all of them kept."""
    flow = ms.Flow("sums")
    table = pa.table({"k": ["a", "b", "a", "c"] * 25, "odd": [0, 1] * 50, "v": range(100)})
    rows = flow.read_arrow(table)
    rows.key_by("k").scan(0, lambda s, e: (s + e.v, {"k": e.k})).write_jsonl(f"{tmp_path}/scan/")
    rows.key_by("k", "odd").agg(n=ms.count(), total=ms.sum("v")).write_jsonl(f"{tmp_path}/agg/")
    store = CheckpointStore(DirectoryDisk(tmp_path / "sums" / "checkpoints"), kept=1_000)
    plan = make_plan(flow, workers=2, batch_rows=10)
    LocalRun(plan, lambda letter: None, LocalCheckpoints(store, CheckpointPolicy(0))).run()
    return tmp_path / "sums"


def epochs(state: Path) -> list[int]:
    return CheckpointStore(DirectoryDisk(state / "checkpoints")).epochs()


def told(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["state", *map(str, arguments)])


def test_operators_are_listed_with_keys_rows_and_bytes(state: Path) -> None:
    result = told("list", f"{state}@{epochs(state)[-2]}")
    assert result.exit_code == 0, result.output
    heads, *lines = result.output.splitlines()
    assert heads.split() == ["operator", "part", "keys", "rows", "on", "disk"]
    assert {line.split()[0]: line.split()[1:4] for line in lines} == {
        "scan": ["states", "3", "3"], "agg": ["standing", "3", "3"],
    }  # fmt: skip


def test_a_key_is_shown_and_one_that_is_not_there_is_said(state: Path) -> None:
    last = f"{state}@{epochs(state)[-2]}"
    shown = told("show", last, "scan", "--key", "c")
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[-1].split()[0] == "c"
    assert told("show", last, "agg", "--key", "a,0").output.startswith("standing, 1 rows:")
    nothing = told("show", last, "scan", "--key", "nobody")
    assert nothing.exit_code == 1 and "'scan' held nothing of that" in nothing.output
    wrong = told("show", last, "scam")
    assert wrong.exit_code == 1 and "holds nothing of an operator 'scam'; there are" in wrong.output
    assert "no checkpoint 9999; there are" in told("list", f"{state}@9999").output


def test_an_operator_is_exported_to_parquet(state: Path, tmp_path: Path) -> None:
    result = told("export", f"{state}@{epochs(state)[-2]}", "scan", "--to", tmp_path / "exported")
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "exported" / "scan.states.parquet").to_pylist()
    counted = {row["k"]: int(row["state"]) for row in rows}
    keys = ["a", "b", "a", "c"] * 25
    sums = [{k: sum(v for v in range(rows) if keys[v] == k) for k in "abc"} for rows in range(10, 101, 10)]
    assert counted in sums, "of all batches up to one of them, and of no other"


def test_two_checkpoints_are_compared_key_by_key(state: Path) -> None:
    numbers = epochs(state)
    same = told("diff", f"{state}@{numbers[-2]}", f"{state}@{numbers[-2]}")
    assert same.exit_code == 0, same.output
    assert [line.split()[2:] for line in same.output.splitlines()[1:]] == [["0", "0", "0", "3"]] * 2
    grown = told("diff", f"{state}@{numbers[0]}", f"{state}@{numbers[-2]}")
    assert "+ scan states: " in grown.output or "~ scan states: " in grown.output
    counts = told("diff", f"{state}@{numbers[0]}", f"{state}@{numbers[-2]}", "--most", "0").output.splitlines()
    assert counts == grown.output.splitlines()[: len(counts)] and len(counts) < len(grown.output.splitlines())
