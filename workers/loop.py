"""One worker process: moves frames between its sockets and its `Worker`, and does the work in slices."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
import traceback

from millstream.bootstrap import Bootstrap, read_bootstrap
from millstream.deadletters import DeadLetterFile
from millstream.errors import described
from millstream.marking import mark_output
from millstream.process import ProcessMeter, exit_with_parent, now_us, spare_the_collector
from millstream.topology import COORDINATOR
from millstream.transport import LAST_WORDS_MS, Link
from millstream.wire import Failed, Hello, Stop
from millstream.workers.snapshots import SnapshotWriter
from millstream.workers.task import Worker

_SLICE_STEPS = 16
_BEAT_S = 0.25
_SLICE_S = 0.010


def run(bootstrap: Bootstrap, index: int) -> int:
    """Work until the coordinator says stop. Returns the exit status."""
    plan = bootstrap.load_plan()
    letters = DeadLetterFile(bootstrap.dead_letter_path(f"worker-{index}"))
    link = Link(bootstrap.directory, f"worker-{index}", bootstrap.attempt)
    try:
        staged = bootstrap.checkpoint_us is not None
        worker = Worker(plan, index, now_us=now_us, dead_letter=letters, checkpoints=staged)
        recovery = bootstrap.recovery()
        if recovery is not None:
            worker.runner.restore(recovery)
    except Exception as error:
        link.send(COORDINATOR, Failed(f"worker-{index}", described(error, traceback.format_exc())))
        link.close(linger_ms=LAST_WORDS_MS)
        return 1
    mark_output(lambda: worker.runner.at_work)
    link.send(COORDINATOR, Hello(worker.name, os.getpid()))
    spare_the_collector()
    writer: SnapshotWriter | None = None
    if staged:
        store = bootstrap.checkpoint_store()
        writer = SnapshotWriter(worker.runner, store, worker.name, bootstrap.attempt, link.poller)
    try:
        return _serve(worker, link, writer)
    finally:
        if writer is not None:
            writer.close()
        letters.close()
        link.close(linger_ms=2_000)


def _serve(worker: Worker, link: Link, writer: SnapshotWriter | None) -> int:
    meter = ProcessMeter()
    next_beat_s = 0.0
    while not worker.stopped:
        try:
            for message in link.received():
                worker.receive(message)
            more = _slice(worker)
            if writer is not None:
                _hand_over(worker, writer)
        except (Exception, SystemExit) as error:  # a user's function may call sys.exit()
            link.send(COORDINATOR, worker.failed(error, traceback.format_exc()))
            return _wait_for_stop(worker, link)
        now_s = time.monotonic()
        if now_s >= next_beat_s:
            beat = worker.beat()
            beat.figures.update(meter.read(), idle_us=link.idle_us)
            worker.outbox.append((COORDINATOR, beat))
            next_beat_s = now_s + _BEAT_S
        while worker.outbox:
            link.send(*worker.outbox.popleft())
        if not more:
            link.wait(_timeout_ms(worker, next_beat_s - now_s))
    worker.runner.abort()
    return 0


def _hand_over(worker: Worker, writer: SnapshotWriter) -> None:
    """New snapshots go to the writer's thread, and what it has written is acknowledged."""
    while worker.snapshots:
        writer.submit(worker.snapshots.popleft())
    for written in writer.finished():
        worker.written(*written)


def _slice(worker: Worker) -> bool:
    """About 10 ms of work; what it sends waits in the outbox no longer than that."""
    end_s = time.monotonic() + _SLICE_S
    while worker.work(_SLICE_STEPS):
        if time.monotonic() >= end_s or len(worker.outbox) > 4:
            return True
    return False


def _timeout_ms(worker: Worker, beat_s: float) -> int:
    due_us = worker.runner.due_us()
    wait_s = beat_s if due_us is None else min(beat_s, (due_us - now_us()) / 1e6)
    return max(0, int(wait_s * 1_000) + 1)


def _wait_for_stop(worker: Worker, link: Link) -> int:
    # The failure must arrive before this process is seen to be gone.
    deadline_s = time.monotonic() + 10
    while not worker.stopped and time.monotonic() < deadline_s:
        link.wait(100)
        for message in link.received():
            if isinstance(message, Stop):
                worker.receive(message)
    return 1


def main(index: int, descriptor: int) -> int:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    bootstrap = read_bootstrap(descriptor)
    exit_with_parent(descriptor, bootstrap.state)
    for entry in reversed(bootstrap.import_paths):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    return run(bootstrap, index)
