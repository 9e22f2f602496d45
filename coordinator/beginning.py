"""Where a life of a run begins: anew, or at the newest checkpoint that can be used.

Nothing that an earlier run could go on from is removed unless its user says so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal

from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import check_fits
from millstream.coordinator.state_directory import StateDirectory
from millstream.coordinator.view import View
from millstream.errors import CheckpointError
from millstream.plan import PhysicalPlan
from millstream.times import SECOND_US

DEFAULT_INTERVAL_US: Final = 10 * SECOND_US

Interval = int | Literal["auto"] | None
"""From one checkpoint to the next, in microseconds; "auto": the default, where it keeps the input; None: there are none."""


def interval_us(plan: PhysicalPlan, wanted: Interval) -> int | None:
    """How often a flow makes checkpoints; without being asked to, where all of its input can be read again."""
    if wanted != "auto":
        return wanted
    sources = (plan.source_of(partition) for partition in range(len(plan.partitions)))
    return DEFAULT_INTERVAL_US if all(source.replayable for source in sources) else None


def begin(
    plan: PhysicalPlan, directory: StateDirectory, view: View, *, checkpoints: bool, fresh: bool
) -> Manifest | None:
    """The checkpoint from which a run that was just started goes on; None: it starts anew, and all is cleared for it.

    Args:
        checkpoints: whether the run makes checkpoints itself.
        fresh: start anew, whatever there is.
    Raises:
        CheckpointError: an earlier run did not come to its end, and this one cannot go on with it.
        ProcessError: what earlier runs left cannot be cleared.
    """
    if fresh or not directory.unfinished:
        directory.start_anew()
        return None
    manifest = newest(plan, directory, view)
    assert manifest is not None
    if not checkpoints:
        raise CheckpointError(
            f"an earlier run has not come to its end, and can go on from checkpoint {manifest.epoch} in "
            f"{directory.path}; this one makes no checkpoints and would begin anew: run it with --checkpoint-interval "
            "10s to go on, or with --fresh to give up what there is"
        )
    check_fits(plan, manifest)
    made = datetime.fromtimestamp(manifest.created_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    view.line(f"going on from checkpoint {manifest.epoch}, made {made} (--fresh starts anew)")
    return manifest


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
