"""Where a life of a run begins: anew, at the newest checkpoint that can be used, or at a savepoint.

Nothing that an earlier run could go on from is removed unless its user says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.evolution import check_losses, reduced, with_sinks_found
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import fates_in
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.evolution import as_text
from millstream.coordinator.inspection import made_at
from millstream.coordinator.state_directory import StateDirectory
from millstream.coordinator.view import View
from millstream.errors import CheckpointError
from millstream.plan import PhysicalPlan
from millstream.times import SECOND_US

DEFAULT_INTERVAL_US: Final = 10 * SECOND_US

Interval = int | Literal["auto"] | None
"""From one checkpoint to the next, in microseconds; "auto": the default, where it keeps the input; None: there are none."""


def interval_us(plan: PhysicalPlan, wanted: Interval) -> int | None:
    """How often a flow makes checkpoints; without being asked to, where another run can go on with its input.

    Standard input may be another one then, or the same from its beginning: its user has to say.
    """
    if wanted != "auto":
        return wanted
    sources = (plan.source_of(partition) for partition in range(len(plan.partitions)))
    return DEFAULT_INTERVAL_US if all(s.replayable or s.taken_once for s in sources) else None


def begin(
    plan: PhysicalPlan,
    directory: StateDirectory,
    view: View,
    *,
    checkpoints: bool,
    fresh: bool,
    savepoint: Path | None = None,
    drop_state: Sequence[str] = (),
) -> Manifest | None:
    """The checkpoint from which a run that was just started goes on; None: it starts anew, and all is cleared for it.

    Args:
        checkpoints: whether the run makes checkpoints itself.
        fresh: start anew, whatever there is.
        savepoint: go on from this one.
        drop_state: operators whose state may be lost, where it has no place in the flow any more.
    Raises:
        CheckpointError: an earlier run did not come to its end, and this one cannot go on with it.
        ProcessError: what earlier runs left cannot be cleared.
    """
    if savepoint is not None:
        return _from_savepoint(
            plan, directory, view, savepoint, checkpoints=checkpoints, fresh=fresh, drop_state=drop_state
        )
    if fresh or not directory.unfinished:
        keeps = directory.unworked and not fresh
        if keeps:
            view.line(
                "an earlier run was lost before its first checkpoint: what it had read is worked on now (--fresh drops it)"
            )
        directory.start_anew(keep_journals=keeps)
        return None
    manifest = newest(plan, directory, view)
    assert manifest is not None
    if not checkpoints:
        raise CheckpointError(
            f"an earlier run has not come to its end, and can go on from checkpoint {manifest.epoch} in "
            f"{directory.path}; this one makes no checkpoints and would begin anew: run it with --checkpoint-interval "
            "10s to go on, or with --fresh to give up what there is"
        )
    _tell_changes(plan, manifest, view)
    manifest = taken_up(plan, directory, manifest, drop_state)
    view.line(f"going on from checkpoint {manifest.epoch}, made {made_at(manifest)} (--fresh starts anew)")
    return manifest


def _from_savepoint(
    plan: PhysicalPlan,
    directory: StateDirectory,
    view: View,
    path: Path,
    *,
    checkpoints: bool,
    fresh: bool,
    drop_state: Sequence[str],
) -> Manifest:
    """Make a savepoint the first checkpoint of the run.

    Raises:
        CheckpointError: it cannot be used, or an earlier run would be given up that can go on.
    """
    if not checkpoints:
        raise CheckpointError(f"{path}: to go on from a savepoint, run with --checkpoint-interval 10s")
    store = CheckpointStore(DirectoryDisk(path))
    epochs = store.epochs()
    if len(epochs) != 1:
        what = "no savepoint" if not epochs else f"{len(epochs)} checkpoints and no savepoint"
        raise CheckpointError(f"{path}: {what} is there; name the directory that `millstream savepoint` made")
    manifest = store.manifest(epochs[0])
    if manifest.flow != plan.name:
        raise CheckpointError(f"{path}: a savepoint of the flow {manifest.flow!r}, not of {plan.name!r}")
    _tell_changes(plan, manifest, view)
    manifest = replace(_fitted(plan, manifest, drop_state), replayed={})  # of dead letters that are not here
    store.verify(manifest)
    if directory.unfinished and not fresh:
        raise CheckpointError(
            f"an earlier run in {directory.path} has not come to its end; leave out --from to go on with that, or add "
            "--fresh to give it up"
        )
    directory.start_anew()
    try:
        store.copy_to(directory.checkpoints, manifest)
    except OSError as error:
        raise CheckpointError(f"{path}: could not be copied to {directory.path}: {error}") from error
    view.line(f"going on from the savepoint {path}, made {made_at(manifest)}")
    return manifest


def _tell_changes(plan: PhysicalPlan, manifest: Manifest, view: View) -> None:
    """Say what becomes of the state, where the flow has changed since the checkpoint."""
    news = [fate for fate in fates_in(plan, with_sinks_found(manifest, plan.shapes)) if fate.is_news]
    if news:
        view.line(f"the flow has changed since checkpoint {manifest.epoch}:\n{as_text(news)}")


def taken_up(plan: PhysicalPlan, directory: StateDirectory, manifest: Manifest, drop_state: Sequence[str]) -> Manifest:
    """The checkpoint as the flow goes on from it: where state may be dropped, it takes the place of the one with that.

    Raises:
        CheckpointError: something would be lost that may not be; or the checkpoint cannot be written.
    """
    fitted = _fitted(plan, manifest, drop_state)
    if fitted != manifest:
        try:
            directory.checkpoints.complete(fitted)
        except OSError as error:
            raise CheckpointError(f"{directory.path}: state cannot be dropped from its checkpoint: {error}") from error
    return fitted


def _fitted(plan: PhysicalPlan, manifest: Manifest, drop_state: Sequence[str]) -> Manifest:
    manifest = with_sinks_found(manifest, plan.shapes)
    found = fates_in(plan, manifest)
    check_losses(manifest, found, drop_state)
    return reduced(manifest, found)


def newest(plan: PhysicalPlan, directory: StateDirectory, view: View) -> Manifest | None:
    """The newest checkpoint that can be used; None: there is none yet. Newer ones are set aside, and it is said why.

    Raises:
        CheckpointError: there are checkpoints, and none can be used.
    """
    reasons: list[CheckpointError] = []
    manifest = directory.checkpoints.newest(plan.name, reasons.append)
    if manifest is None and reasons:
        raise CheckpointError(
            f"no checkpoint in {directory.path} can be used: {'; '.join(map(str, reasons))}. Mend that, or start anew "
            "with --fresh, which gives them up"
        )
    for reason in reasons:
        view.line(f"a checkpoint is passed over: {reason}")
    if manifest is not None:
        directory.checkpoints.set_aside_after(manifest.epoch)
    return manifest
