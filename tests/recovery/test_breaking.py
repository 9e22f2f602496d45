"""A run that the circuit breaker has ended goes on after the fix, from its checkpoint, as if nothing had been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.recovery import Recovery, repeat_commits
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.deadletters import DeadLetterFile, cut_back
from millstream.errors import CheckpointError
from millstream.planner import make_plan

EVENTS, RENAMED_FROM = 20_000, 12_000


def parsing(folder: Path, *, fixed: bool) -> ms.Flow:
    """One event of a hundred is bad; from some event on all are, until the function is mended."""

    def parsed(event: Any) -> dict[str, int]:
        if event.n % 100 == 7 or (event.n >= RENAMED_FROM and not fixed):
            raise ValueError(f"event {event.n}")
        return {"n": event.n}

    flow = ms.Flow("parsing", on_error="dead_letter", most_errors=0.2)
    flow.read_jsonl(folder / "in.jsonl").map(parsed, schema={"n": int}).write_jsonl(f"{folder}/out/")
    flow.dead_letters.select("record").write_jsonl(f"{folder}/letters/")
    return flow


def numbers(folder: Path, field: str) -> list[Any]:
    lines = (line for part in folder.glob("*.jsonl") for line in part.read_text().splitlines())
    return sorted(json.loads(line)[field] for line in lines)


def unsound(error: CheckpointError) -> None:
    raise error


def test_it_goes_on_after_the_fix_and_what_failed_since_the_checkpoint_comes_again(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(EVENTS)))
    store, policy = CheckpointStore(DirectoryDisk(tmp_path / "state")), CheckpointPolicy(interval_us=0)
    files = tmp_path / "dead"

    letters = DeadLetterFile(files / "a.jsonl")
    plan = make_plan(parsing(tmp_path, fixed=False), workers=2, batch_rows=500)
    with pytest.raises(ms.TooManyErrors, match=r"^map \(test_breaking.py:\d+\): .* such as: .* ValueError: event "):
        LocalRun(plan, letters, LocalCheckpoints(store, policy)).run()
    letters.close()
    assert any(int(record.split("=")[1].strip("()")) >= RENAMED_FROM for record in numbers(files, "record"))

    plan = make_plan(parsing(tmp_path, fixed=True), workers=2, batch_rows=500)
    manifest = store.newest(plan.name, unsound)
    assert manifest is not None
    cut_back(files, manifest.epoch)
    repeat_commits(plan, manifest)
    letters = DeadLetterFile(files / "b.jsonl")
    LocalRun(plan, letters, LocalCheckpoints(store, policy, 2, Recovery(manifest, store))).run()
    letters.close()

    out = numbers(tmp_path / "out", "n")
    refused = numbers(tmp_path / "letters", "record")
    assert refused == numbers(files, "record"), "the stream and the files have the same"
    assert len(set(refused)) == len(refused) and len(out) + len(refused) == EVENTS
    # What had failed before the checkpoint stays a dead letter; all that came later was processed.
    assert set(out) | {int(record.split("=")[1].strip("()")) for record in refused} == set(range(EVENTS))
    assert len(refused) < EVENTS // 100 + 2_000
