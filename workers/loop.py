"""One worker process: moves frames between its sockets and its `Worker`, and does the work in slices."""

from __future__ import annotations

import os
import queue
import time
import traceback

from millstream.bootstrap import Bootstrap, next_plan
from millstream.checkpoints.recovery import Recovery
from millstream.deadletters import DeadLetterFile
from millstream.errors import described
from millstream.marking import mark_output
from millstream.plan import PhysicalPlan
from millstream.process import ProcessMeter, monotonic_us, now_us, spare_the_collector
from millstream.runner import Runner
from millstream.topology import COORDINATOR, worker_index, worker_name
from millstream.transport import LAST_WORDS_MS, Link
from millstream.wire import Completed, Failed, Hello, Message, Stop, Switch
from millstream.workers.snapshots import SnapshotWriter
from millstream.workers.task import Worker

_SLICE_STEPS = 16
_BEAT_S = 0.25
_SLICE_S = 0.010


class _Shell:
    """Args:
    frames: what the supervisor sends by the pipe while the process lives.
    """

    def __init__(self, bootstrap: Bootstrap, frames: queue.SimpleQueue[bytes]) -> None:
        self.bootstrap, self.frames = bootstrap, frames
        self.name, self.index = bootstrap.name, worker_index(bootstrap.name)
        self.letters = DeadLetterFile(bootstrap.dead_letter_path(self.name), bootstrap.attempt)
        self.link = Link(bootstrap.directory, self.name, bootstrap.attempt)
        self.writer: SnapshotWriter | None = None
        self.runner: Runner | None = None
        self.restoring_us = self.restoring_cpu_us = 0

    def run(self) -> int:
        """Work until the coordinator says stop. Returns the exit status."""
        try:
            worker = self._joined() if self.bootstrap.joins else self._first(self.bootstrap.load_plan())
        except Exception as error:
            self.link.send(COORDINATOR, Failed(self.name, described(error, traceback.format_exc())))
            self.link.close(linger_ms=LAST_WORDS_MS)
            return 1
        try:
            return 0 if worker is None else self._serve(worker)
        finally:
            if self.writer is not None:
                self.writer.close()
            self.letters.close()
            self.link.close(linger_ms=2_000)

    # --- lives ---

    def _first(self, plan: PhysicalPlan, recovery: Recovery | None = None) -> Worker:
        staged = self.bootstrap.checkpoint_us is not None
        worker = Worker(plan, self.index, now_us=now_us, dead_letter=self.letters, checkpoints=staged)
        recovery = recovery or self.bootstrap.recovery()
        if recovery is not None:
            since_us, cpu_s = monotonic_us(), time.process_time()
            worker.runner.restore(recovery)
            self.restoring_us = monotonic_us() - since_us
            self.restoring_cpu_us = int((time.process_time() - cpu_s) * 1e6)
        if staged:
            store = self.bootstrap.checkpoint_store()
            self.writer = SnapshotWriter(worker.runner, store, self.name, self.link.attempt, self.link.poller)
        self.runner = worker.runner
        mark_output(lambda: "" if self.runner is None else self.runner.at_work)
        self.link.send(COORDINATOR, Hello(self.name, os.getpid()))
        spare_the_collector()
        return worker

    def _joined(self) -> Worker | None:
        """Wait until the run is rescaled; None: that does not come about."""
        self.link.send(COORDINATOR, Hello(self.name, os.getpid()))
        while True:
            self.link.wait(1_000)
            for message in self.link.received():
                if isinstance(message, Stop):
                    return None
                if isinstance(message, Switch):
                    self.link.begin(message.next_attempt)
                    return self._first(self.bootstrap.load_plan(), self.bootstrap.recovery_at(message.epoch))

    def _switched(self, worker: Worker, switch: Switch) -> Worker | None:
        """This worker in the next life of the run; None: it is not in it."""
        worker.switch = None
        if self.index >= switch.workers:
            worker.runner.abort()
            return None
        gone = [worker_name(i) for i in range(switch.workers, worker.runner.plan.workers)]
        self.link.begin(switch.next_attempt, gone)
        plan = next_plan(self.frames, switch.next_attempt)
        after = worker.successor(plan, self.bootstrap.recovery_at(switch.epoch))
        self.runner = after.runner
        if self.writer is not None:
            self.writer.follow(after.runner, switch.next_attempt)
        self.link.send(COORDINATOR, Hello(self.name, os.getpid()))
        return after

    # --- the loop ---

    def _serve(self, worker: Worker) -> int:
        link = self.link
        meter = ProcessMeter()
        next_beat_s = 0.0
        while not worker.stopped:
            try:
                for message in link.received():
                    self._receive(worker, message)
                    if worker.switch is not None:
                        after = self._switched(worker, worker.switch)
                        if after is None:
                            return 0
                        worker = after
                more = _slice(worker)
                if self.writer is not None:
                    _hand_over(worker, self.writer)
            except (Exception, SystemExit) as error:  # a user's function may call sys.exit()
                link.send(COORDINATOR, worker.failed(error, traceback.format_exc()))
                return _wait_for_stop(worker, link)
            now_s = time.monotonic()
            if now_s >= next_beat_s:
                beat = worker.beat()
                beat.figures.update(meter.read(), idle_us=link.idle_us)
                beat.figures.update(restoring_us=self.restoring_us, restoring_cpu_us=self.restoring_cpu_us)
                worker.outbox.append((COORDINATOR, beat))
                next_beat_s = now_s + _BEAT_S
            while worker.outbox:
                link.send(*worker.outbox.popleft())
            if not more:
                link.wait(_timeout_ms(worker, next_beat_s - now_s))
        worker.runner.abort()
        return 0

    def _receive(self, worker: Worker, message: Message) -> None:
        if not isinstance(message, Completed):
            worker.receive(message)
            return
        # What sinks do now is theirs, and may take longer than a process may be silent: a database is waited for.
        with self.link.repeating(COORDINATOR, worker.beat(), _BEAT_S):
            worker.receive(message)


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


def main(bootstrap: Bootstrap, frames: queue.SimpleQueue[bytes]) -> int:
    """Be the worker that was told. Returns the exit status."""
    return _Shell(bootstrap, frames).run()
