"""Going on from a checkpoint: who gets which part of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millstream.checkpoints.manifest import Manifest, PartitionState
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import StateTable
from millstream.plan import PhysicalPlan
from millstream.specs.ends import SinkSpec


class Recovery:
    """A checkpoint as the processes of a run take it up. Reads tables from disk when they are asked for."""

    def __init__(self, manifest: Manifest, store: CheckpointStore) -> None:
        self.manifest = manifest
        self._store = store
        self._partitions = {(p.source, p.partition): p for p in manifest.partitions}

    def tables(self, operator: str, worker: int, workers: int) -> list[StateTable]:
        """The state of an operator that belongs to one worker of so many.

        Raises:
            CheckpointError: it is damaged.
        """
        files = [t for t in self.manifest.tables if t.operator == operator]
        return self._store.load_owned(files, worker, workers)

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
