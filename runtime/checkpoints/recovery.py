"""Going on from a checkpoint: who gets which part of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from millstream.checkpoints.evolution import Fate, check_losses, fates
from millstream.checkpoints.folding import folded
from millstream.checkpoints.manifest import Manifest, PartitionState
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import Saved, StateTable, owned
from millstream.plan import PhysicalPlan
from millstream.specs.ends import SinkSpec


@dataclass(frozen=True)
class Held:
    """What a worker has in memory of the checkpoint at which it goes on with others beside it than before.

    Attributes:
        worker, workers: which it was, of how many.
        tables: by operator, all that this worker's held.
    """

    worker: int
    workers: int
    tables: Mapping[str, Sequence[StateTable]]


class Recovery:
    """A checkpoint as the processes of a run take it up. Reads tables from disk when they are asked for.

    Args:
        held: what need not be read.
    """

    def __init__(self, manifest: Manifest, store: CheckpointStore, held: Held | None = None) -> None:
        self.manifest = manifest
        self._store = store
        self._held = held
        self._partitions = {(p.source, p.partition): p for p in manifest.partitions}

    def tables(
        self, operator: str, worker: int, workers: int, *, in_groups: bool = False, as_written: Collection[str] = ()
    ) -> list[StateTable]:
        """The state of an operator that belongs to one worker of so many.

        Args:
            in_groups: each worker has held rows of its own key groups alone: of others only those are read whose groups it gets.
            as_written: names of tables of which later ones may replace or remove rows of earlier ones; all others only add.
        Raises:
            CheckpointError: it is damaged.
        """
        files = [t for t in self.manifest.tables if t.operator == operator]
        held, kept = self._held, list[StateTable]()
        if held is not None and operator in held.tables:
            files = [f for f in files if (f.worker, f.workers) != (held.worker, held.workers)]
            # Where they lie on disk does not count any more: the files say that another number of workers wrote them.
            kept = [replace(owned(t, worker, workers), saved=Saved(), first=0) for t in held.tables[operator]]
        tables = [*kept, *self._store.load_owned(files, worker, workers, in_groups=in_groups)]
        return [
            *(table for table in tables if table.name in as_written),
            *folded([table for table in tables if table.name not in as_written]),
        ]

    def beside(self, held: Held) -> Recovery:
        """The same for a worker that holds some of it."""
        return Recovery(self.manifest, self._store, held)

    def sink_states(self, operator: str) -> list[dict[str, Any]] | None:
        """What all writers of a sink said; None: it was not there then."""
        said = self.manifest.sinks.get(operator)
        return None if said is None else [s.state for s in said]

    def partition(self, source: str, name: str) -> PartitionState | None:
        """Where a source partition was; None: it was not there then."""
        return self._partitions.get((source, name))

    @property
    def partitions(self) -> Mapping[tuple[str, str], PartitionState]:
        return self._partitions


def fates_in(plan: PhysicalPlan, manifest: Manifest) -> list[Fate]:
    """What becomes of everything in a checkpoint when a flow goes on from it."""
    return fates(manifest, plan.shapes, {(plan.nodes[node].name, name) for node, name in plan.partitions})


def check_fits(plan: PhysicalPlan, manifest: Manifest) -> None:
    """See that everything in a checkpoint has its place in the flow as it is now.

    What has no state may have changed, and new operators begin without any.

    Raises:
        CheckpointError: something would be lost: an operator with state, a sink or a source partition is not there any
            more, or is another one.
    """
    check_losses(manifest, fates_in(plan, manifest))


def repeat_commits(plan: PhysicalPlan, manifest: Manifest) -> None:
    """Do again what the sinks of a complete checkpoint asked for: whoever was to do it may have died before.

    Raises:
        SinkError: it cannot be done.
    """
    sinks = {node.name: node.spec.sink for node in plan.nodes.values() if isinstance(node.spec, SinkSpec)}
    for name, states in manifest.sinks.items():
        for action in (action for state in states for action in state.commits):
            if name in sinks:
                sinks[name].commit(action)
