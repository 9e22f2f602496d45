"""Running a flow: the supervisor.

The supervisor is the process that called `Flow.run` (or the command line). It leads the run through its lives
(attempt.py): when a process is lost and there are checkpoints, everyone returns to the newest one and goes on.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, Literal

from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import Recovery, repeat_commits
from millstream.coordinator.attempt import Attempt, Life, Scaling
from millstream.coordinator.beginning import Interval, begin, interval_us, newest, taken_up
from millstream.coordinator.collected import collected_tables, keeping_collected
from millstream.coordinator.control import Requests, served
from millstream.coordinator.local import LocalRun
from millstream.coordinator.replaying import Entries, take_up
from millstream.coordinator.restarts import Restarts
from millstream.coordinator.spares import Spares
from millstream.coordinator.standstill import Standstill
from millstream.coordinator.state_directory import COLLECTED, StateDirectory, locked
from millstream.coordinator.steering import Steering
from millstream.coordinator.ui.address import parse_address
from millstream.coordinator.ui.watching import Watch, watched
from millstream.coordinator.view import View, make_view
from millstream.deadletters import DeadLetterFile, as_json
from millstream.errors import FlowError, ProcessError, ProcessLost
from millstream.flow import Flow
from millstream.plan import PhysicalPlan
from millstream.planner import Ingest, make_plan
from millstream.result import RunResult, make_result
from millstream.topology import CALLER, COORDINATOR

_MAX_BATCH_ROWS: Final = 1_000_000


@dataclass(frozen=True)
class RunOptions:
    """How to run a flow; see `Flow.run` and ``millstream run --help``.

    Attributes:
        checkpoint_us: from one checkpoint to the next, in microseconds; "auto": ten seconds, where all input can be read
            again; None: there are none.
        fresh: start anew, also where an earlier run could be gone on with.
        savepoint: go on from this one.
        drop_state: operators whose state may be lost, where it has no place in the flow any more.
        restarts: how often within ten minutes a run goes on after it has lost a process.
        drain: when it is asked to stop, open windows fire and the output is finished, also where a checkpoint could be
            made from which it goes on.
        page: where the page of the run is served: "on", "off" or "HOST:PORT".
        log: the file that its log is added to, as JSON lines; None: none.
    """

    workers: int | Literal["auto"] = "auto"
    batch_size: int = 65_536
    ingest: Ingest = "auto"
    state: str | Path | None = None
    live_view: bool = False
    import_paths: tuple[str, ...] = ()
    hang_timeout_s: float = 60.0
    checkpoint_us: Interval = "auto"
    fresh: bool = False
    savepoint: str | Path | None = None
    drop_state: tuple[str, ...] = ()
    restarts: int = 5
    drain: bool = False
    page: str = "off"
    log: Path | None = None


def worker_count(wanted: int | Literal["auto"]) -> int:
    """How many workers: all cores but one, which the coordinator has, unless the user says.

    Raises:
        FlowError: less than one, or more than there are key groups.
    """
    if wanted == "auto":
        return max(1, len(os.sched_getaffinity(0)) - 1)
    if not 1 <= wanted <= 256:
        raise FlowError(f"workers={wanted}: a run has 1 to 256 workers")
    return wanted


def run(flow: Flow, options: RunOptions) -> RunResult:
    """Run a flow in processes, until its input ends or it is told to stop.

    Raises:
        MillstreamError: the flow or the run failed; nothing of it is left running.
    """
    _check_batch_size(options.batch_size)
    page = parse_address(options.page)
    state = Path(options.state or ".millstream") / flow.name
    workers = worker_count(options.workers)

    @cache
    def planned(workers: int) -> PhysicalPlan:
        plan = make_plan(
            flow, workers=workers, batch_rows=options.batch_size, ingest=options.ingest, late_directory=state / "late"
        )
        return keeping_collected(plan, state / COLLECTED)

    plan = planned(workers)
    with locked(state) as directory:
        view = make_view(plan, live=options.live_view)
        requests = Requests()
        steering = Steering(requests, directory.path, directory.checkpoints)
        scaling = Scaling(workers, planned, directory.next_attempt)
        try:
            watching = watched(plan, directory.path, page, options.log, requests, view, say_where=options.live_view)
            serving = served(directory.path, requests, view.line)
            with watching as (view, watch), serving, closing(steering), closing(Spares(view)) as spares:
                result = _lead(directory, options, view, steering, scaling, watch, spares)
                watch.ended(result)
                steering.end(result.stopped_at)
                return result
        finally:
            view.close()


def _lead(
    directory: StateDirectory,
    options: RunOptions,
    view: View,
    steering: Steering,
    scaling: Scaling,
    watch: Watch,
    spares: Spares,
) -> RunResult:
    """One life after the other, until one comes to the end or there have been too many."""
    plan = scaling.plan_for(scaling.workers)
    checkpoint_us = interval_us(plan, options.checkpoint_us)
    manifest = begin(
        plan, directory, view, checkpoints=checkpoint_us is not None, fresh=options.fresh,
        savepoint=None if options.savepoint is None else Path(options.savepoint), drop_state=options.drop_state,
    )  # fmt: skip
    restarts = Restarts(options.restarts)
    standstill: Standstill | None = None
    while True:
        recovery = None
        if manifest is not None:
            repeat_commits(plan, manifest)
            recovery = Recovery(manifest, directory.checkpoints)
        with steering.replaying.between_lives():
            directory.cut_back_letters(0 if manifest is None else manifest.epoch)
            if manifest is not None:
                _take_up_replays(directory, plan, manifest, view)
        life = Life(
            directory.next_attempt(), directory.path, recovery, checkpoint_us, options.hang_timeout_s,
            options.drain, options.import_paths, standstill,
        )  # fmt: skip
        watch.begin(life.attempt, None if manifest is None else manifest.epoch)
        attempt = Attempt(plan, life, view, steering, scaling, watch, spares)
        try:
            result = attempt.run()
        except ProcessLost as error:
            standstill = Standstill(attempt.failed_s)
            standstill.passed("the others end", time.monotonic())
            watch.lost(error)
            if checkpoint_us is None:
                raise ProcessLost(f"{error}; the run ends, and is run again from its start") from error
            pause_s = restarts.pause_s(time.monotonic())
            if pause_s is None:
                raise ProcessLost(
                    f"{error}; the run has gone on {options.restarts} times in ten minutes and ends here; "
                    "run it again to go on from its last checkpoint"
                ) from error
            manifest = newest(plan, directory, view)
            if manifest is not None:
                manifest = taken_up(
                    plan, directory, manifest, options.drop_state
                )  # it may be one from before the change
            standstill.passed("the checkpoint is looked through", time.monotonic())
            where = "from its start" if manifest is None else f"from checkpoint {manifest.epoch}"
            view.line(f"{error}; the run goes on {where} in {pause_s:.1f} s")
            plan = scaling.plan_for(scaling.workers)  # a rescale that it did not come to is made up for
            steering.scaled(f"{error}; the run goes on {where}, with {plan.workers} workers")
            time.sleep(max(0.0, attempt.failed_s + pause_s - time.monotonic()))
            standstill.passed("pause", time.monotonic())
        else:
            if checkpoint_us is not None and result.stopped_at is None:
                directory.note_end()
            return result


def _take_up_replays(directory: StateDirectory, plan: PhysicalPlan, manifest: Manifest, view: View) -> None:
    """
    Raises:
        ProcessError: what is to be replayed cannot be written.
    """
    try:
        for line in take_up(directory.path, Entries(plan), manifest):
            view.line(line)
    except OSError as error:
        raise ProcessError(
            f"the dead letters that are to be replayed, in {directory.path}, cannot be written: {error.strerror}; mend "
            "that, and run the flow again"
        ) from error


def run_here(flow: Flow, *, batch_size: int = 65_536, state: str | Path | None = None) -> RunResult:
    """Run a flow in this process: no sockets, no waiting, the same answers."""
    _check_batch_size(batch_size)
    directory = None if state is None else Path(state) / flow.name
    late = None if directory is None else directory / "late"
    plan = make_plan(flow, workers=1, batch_rows=batch_size, late_directory=late)
    letters = DeadLetterFile(None if directory is None else directory / "dead-letters" / "run.jsonl")
    local = LocalRun(plan, letters)
    try:
        local.run()
    finally:
        letters.close()
    processes = {
        COORDINATOR: local.coordinator.runner.figures(),
        CALLER: local.caller.figures(),
        **{n: w.figures() for n, w in local.workers.items()},
    }
    seconds = time.monotonic() - local.started_s
    result = make_result(
        plan,
        processes,
        seconds=seconds,
        tables=collected_tables(plan, local.caller),
        state=directory,
        interrupted=False,
    )
    return replace(result, letters=tuple(map(as_json, letters.kept)))


def _check_batch_size(rows: int) -> None:
    if not 1 <= rows <= _MAX_BATCH_ROWS:
        raise FlowError(f"batch_size={rows}: a batch has 1 to {_MAX_BATCH_ROWS:,} rows")
