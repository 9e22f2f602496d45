"""Running a flow in two lives: it is killed half-way with checkpoints behind it, and goes on with more workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.recovery import Recovery, repeat_commits
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.errors import CheckpointError
from millstream.flow import Flow
from millstream.operators.base import DeadLetter
from millstream.planner import Ingest, make_plan


def run_resumed(
    make_flow: Callable[[], Flow],
    state: Path,
    dead_letter: Callable[[DeadLetter], None],
    *,
    blocks: int,
    batch_rows: int = 65_536,
    ingests: tuple[Ingest, Ingest] = ("coordinator", "workers"),
) -> None:
    """Run with two workers until so many blocks were read and there is a checkpoint; then with three, to the end."""
    store = CheckpointStore(DirectoryDisk(state))
    policy = CheckpointPolicy(interval_us=0)
    first = LocalRun(
        make_plan(make_flow(), workers=2, batch_rows=batch_rows, ingest=ingests[0]), dead_letter,
        LocalCheckpoints(store, policy),
    )  # fmt: skip
    first.start()
    while sum(p.blocks for p in first.coordinator.partitions) < blocks or not store.epochs():
        assert not first.done, "the run has come to its end before it was stopped"
        first.step()
    plan = make_plan(make_flow(), workers=3, batch_rows=batch_rows, ingest=ingests[1])
    manifest = store.newest(plan.name, _unsound)
    assert manifest is not None
    repeat_commits(plan, manifest)
    LocalRun(plan, dead_letter, LocalCheckpoints(store, policy, 2, Recovery(manifest, store))).run()


def _unsound(error: CheckpointError) -> None:
    raise error
