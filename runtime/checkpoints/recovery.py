"""Going on from a checkpoint: who gets which part of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from millstream.checkpoints.folding import folded
from millstream.checkpoints.manifest import Manifest, PartitionState
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import StateTable
from millstream.errors import CheckpointError
from millstream.plan import PhysicalPlan
from millstream.specs.ends import SinkSpec

_FOLDERS: Final = re.compile(r"[^'\"]*/(?=[^'\"/]+/?['\"])")
"""The folders of a path in quotes: they may be written another way, or have moved."""


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
        return folded(self._store.load_owned(files, worker, workers))

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


def check_fits(plan: PhysicalPlan, manifest: Manifest) -> None:
    """See that everything in a checkpoint has its place in the flow as it is now.

    What has no state may have changed, and new operators begin without any.

    Raises:
        CheckpointError: an operator with state, a sink or a source partition is not there any more, or does
            something else.
    """
    now = {node.name: node.spec.describe() for node in plan.nodes.values()}
    before = manifest.operators
    with_state = dict.fromkeys([*(t.operator for t in manifest.tables), *manifest.sinks])
    for name in with_state:
        found, made = now.get(name), before.get(name, "")
        if found is None or _FOLDERS.sub("", found) != _FOLDERS.sub("", made):
            is_now = "is not in the flow any more" if found is None else f"is now {found}"
            raise _unfit(manifest, f"{name}, which was {made}, {is_now}")
    there = {(plan.nodes[node].name, name) for node, name in plan.partitions}
    for partition in manifest.partitions:
        if not partition.ended and (partition.source, partition.partition) not in there:
            what = (
                f"{partition.source} has no partition {partition.partition!r} any more, and it was not read to its end"
            )
            raise _unfit(manifest, what)


def _unfit(manifest: Manifest, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {manifest.epoch} does not fit the flow: {what}. Change that back, give operators the names that "
        "they had (name=), or start anew with --fresh"
    )


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
