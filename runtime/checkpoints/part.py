"""One process's part in a checkpoint: it is ready when every stage that runs there has met the barrier, or has ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import PurePosixPath
from typing import NamedTuple

from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import Part, Pause, PendingTable, Saved, StateTable, no_pause
from millstream.meters import add_counts
from millstream.operators.sinks import WriteSink
from millstream.plan import PhysicalPlan
from millstream.runner import Runner
from millstream.stage import StageSnapshot
from millstream.wire import Acknowledged


class Snapshot(NamedTuple):
    """Everything that a process held at the barrier of an epoch.

    Attributes:
        last: the run has ended; nothing follows.
    """

    epoch: int
    last: bool
    stages: list[StageSnapshot]

    def tables(self) -> Iterator[tuple[int, int, int, Part]]:
        """Every table, or the file that has it, with its stage, its node and its number among the tables of that."""
        for stage in self.stages:
            for node, tables in stage.tables.items():
                for number, table in enumerate(tables):
                    yield stage.stage, node, number, table


def write_snapshot(
    snapshot: Snapshot,
    runner: Runner,
    store: CheckpointStore,
    process: str,
    attempt: int,
    pause: Pause = no_pause,
) -> list[TableFile]:
    """Write those tables of a snapshot, durably, that no earlier checkpoint has written.

    Returns:
        Where each of `Snapshot.tables` is.
    Raises:
        StateError: a state cannot be kept.
        OSError: they could not be written.
    """
    plan, worker = runner.plan, runner.index
    files: list[TableFile] = []
    written = False
    for stage, node, number, table in snapshot.tables():
        if isinstance(table, PendingTable):
            table = table.made(pause)
        file = table if isinstance(table, TableFile) else table.on_disk
        if file is None:
            assert isinstance(table, StateTable)
            name = f"{_prefix(snapshot.epoch)}{attempt}-{process}-{stage}-{node}-{number}"
            operator = plan.nodes[node].name
            file = store.write_table(operator, table, worker=worker, workers=plan.workers, name=name)
            written = True
        files.append(file)
    if written:
        store.sync_tables()
    return files


def is_written_for(path: str, epoch: int) -> bool:
    """Whether the file of a table was written for this checkpoint, and not for an earlier one."""
    return PurePosixPath(path).name.startswith(_prefix(epoch))


def _prefix(epoch: int) -> str:
    return f"{epoch:08d}-"


def acknowledgement(
    runner: Runner, process: str, snapshot: Snapshot, tables: list[TableFile], failure: str = ""
) -> Acknowledged:
    """The message that a process's part of a checkpoint is on disk; or why it is not."""
    sinks = {
        runner.plan.nodes[node].name: [prepared.state, prepared.commits]
        for stage in snapshot.stages
        for node, prepared in stage.sinks.items()
    }
    counters = counted(runner.plan, (stage.counters for stage in snapshot.stages))
    return Acknowledged(process, snapshot.epoch, [list(astuple(t)) for t in tables], sinks, failure, counters)


def counted(plan: PhysicalPlan, stages: Iterable[Mapping[int, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """By operator, what several stages have counted."""
    totals: dict[str, dict[str, int]] = {}
    for counters in stages:
        for node, figures in counters.items():
            add_counts(totals.setdefault(plan.nodes[node].name, {}), figures)
    return totals


class CheckpointPart:
    """A pure state machine beside a `Runner`: it takes the runner's snapshots, and says when they are all there."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._begun: dict[int, bool] = {}
        self._met: dict[int, dict[int, StageSnapshot]] = {}
        self._last_of: dict[int, bool] = {}
        self._written: dict[int, list[tuple[Saved, TableFile, int]]] = {}

    def begin(self, epoch: int, *, last: bool, closing: bool) -> None:
        self._begun[epoch] = last
        self._runner.announce(epoch, closing=closing)

    def ready(self) -> Snapshot | None:
        """The process's part of the oldest checkpoint under way, once it is complete."""
        while self._runner.snapshots:
            snapshot = self._runner.snapshots.popleft()
            self._met.setdefault(snapshot.epoch, {})[snapshot.stage] = snapshot
        if not self._begun:
            return None
        epoch = min(self._begun)
        met = self._met.setdefault(epoch, {})
        for number, stage in self._runner.stages.items():
            if number not in met:
                if not stage.ended:
                    return None
                met[number] = stage.snapshot(epoch, last=self._begun[epoch])
        self._last_of[epoch] = self._begun.pop(epoch)
        return Snapshot(epoch, self._last_of[epoch], list(self._met.pop(epoch).values()))

    def written(self, snapshot: Snapshot, files: Sequence[TableFile]) -> None:
        """The tables of a snapshot are on disk; whether they will be kept is not known before the checkpoint is complete."""
        tables = (table for *_, table in snapshot.tables())
        self._written[snapshot.epoch] = [
            (table.saved, file, table.first)
            for table, file in zip(tables, files, strict=True)
            if not isinstance(table, TableFile)
        ]

    def completed(self, epoch: int) -> None:
        """The checkpoint exists: every sink here shows what it counts, and what is in it is not written again.

        Raises:
            SinkError: one cannot.
        """
        for saved, file, first in self._written.pop(epoch, ()):
            saved.written(file, first)
        self._written = {e: kept for e, kept in self._written.items() if e > epoch}
        last = self._last_of.get(epoch, False)
        self._last_of = {e: kept for e, kept in self._last_of.items() if e > epoch}  # earlier ones were given up
        for stage in self._runner.stages.values():
            for operator in stage.operators.values():
                if isinstance(operator, WriteSink):
                    operator.commit(epoch, last=last)
