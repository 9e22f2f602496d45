"""A whole run in one process: the same coordinator, workers and caller, with lists for sockets.

Messages are handed over as objects; nothing waits. When nobody has anything to do, processing time
jumps to the next moment at which something will happen, so windows of processing time close at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from millstream.channel import Budget
from millstream.checkpoints.part import write_snapshot
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.caller import Caller
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.core import Coordinator, State
from millstream.coordinator.reading import Readers
from millstream.coordinator.replays import Replays
from millstream.errors import InternalError, restored
from millstream.operators.base import DeadLetter
from millstream.plan import PhysicalPlan
from millstream.topology import CALLER, COORDINATOR
from millstream.wire import Hello, Message
from millstream.workers.task import Worker

_STEPS = 64
_IDLE_S = 0.001
_BUDGET = Budget(drain_us=None)


class VirtualClock:
    """Processing time that starts with the wall clock and may jump ahead of it."""

    def __init__(self) -> None:
        self._ahead_us = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000 + self._ahead_us

    def jump_to(self, moment_us: int) -> None:
        self._ahead_us += max(0, moment_us - self())


@dataclass(frozen=True)
class LocalCheckpoints:
    """Attributes:
    attempt: which life of the run this is.
    recovery: the checkpoint that it goes on from; None: it starts anew.
    """

    store: CheckpointStore
    policy: CheckpointPolicy
    attempt: int = 1
    recovery: Recovery | None = None


class LocalRun:
    """One run of a plan in this process.

    Args:
        dead_letter: takes the records that cannot be processed.
        checkpoints: where checkpoints go, and which of them to go on from; None: there are none.
        clock: processing time; None: that of the wall, which jumps ahead where there is nothing to wait for.
        replays: dead letters that are to be replayed.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        dead_letter: Callable[[DeadLetter], None],
        checkpoints: LocalCheckpoints | None = None,
        clock: VirtualClock | None = None,
        replays: Replays | None = None,
    ) -> None:
        self.plan = plan
        self.clock = VirtualClock() if clock is None else clock
        self._checkpoints = checkpoints
        policy, attempt, recovery = None, 1, None
        if checkpoints is not None:
            policy, attempt, recovery = checkpoints.policy, checkpoints.attempt, checkpoints.recovery
        self.readers = Readers(plan, (), None, recovery, replays=replays)
        self.coordinator = Coordinator(
            plan, now_us=self.clock, dead_letter=dead_letter, budget=_BUDGET, policy=policy, attempt=attempt,
            recovery=recovery, offset_of=self.readers.offset, replayed=self.readers.replayed,
        )  # fmt: skip
        staged = policy is not None
        self.workers = {
            name: Worker(plan, index, now_us=self.clock, dead_letter=dead_letter, budget=_BUDGET, checkpoints=staged)
            for index, name in enumerate(self.coordinator.members)
        }
        self.caller = Caller(plan, now_us=self.clock, dead_letter=dead_letter, budget=_BUDGET, checkpoints=staged)
        if recovery is not None:
            for runner in (*(w.runner for w in self.workers.values()), self.caller.runner):
                runner.restore(recovery)
        self.started_s = time.monotonic()

    def run(self) -> None:
        """Run to the end of the input.

        Raises:
            MillstreamError: what made the run fail.
        """
        try:
            self.start()
            while not self.done:
                self.step()
        except BaseException:
            for worker in self.workers.values():
                worker.runner.abort()
            self.caller.abort()
            raise
        finally:
            self.readers.close()

    def start(self) -> None:
        for name in self.workers:
            self.coordinator.receive(Hello(name, 0), self.clock())

    def step(self) -> None:
        """Do what there is to do; where that is nothing, let time pass."""
        if not self._round() and not self.done:
            self._pass_time()

    @property
    def done(self) -> bool:
        return self.coordinator.state is State.DONE and self.caller.finished

    def _round(self) -> bool:
        """Everyone works for a while, then all messages are delivered. Returns whether anything happened."""
        busy = self._read()
        for work in (self.coordinator.work, *(w.work for w in self.workers.values()), self.caller.work):
            busy |= work(_STEPS)
        for outbox in (self.coordinator.outbox, *(w.outbox for w in self.workers.values()), self.caller.outbox):
            busy |= bool(outbox)
            while outbox:
                self._deliver(*outbox.popleft())
        if self._checkpoints is not None:
            busy |= self._checkpoint(self._checkpoints)
        if self.coordinator.state is State.FAILED and self.coordinator.failure is not None:
            raise restored(self.coordinator.failure.error)
        return busy

    def _checkpoint(self, checkpoints: LocalCheckpoints) -> bool:
        """Write what is to be written; whether there was anything."""
        wrote = False
        for worker in self.workers.values():
            while worker.snapshots:
                snapshot = worker.snapshots.popleft()
                files = write_snapshot(snapshot, worker.runner, checkpoints.store, worker.name, checkpoints.attempt)
                worker.written(snapshot, files)
                wrote = True
        manifest = self.coordinator.manifest_due()
        if manifest is not None:
            checkpoints.store.complete(manifest)
            self.coordinator.checkpoint_written()
            checkpoints.store.clean()
            wrote = True
        self.coordinator.checkpoint_if_due(self.clock())
        return wrote

    def _read(self) -> bool:
        for partition in self.readers.awake():
            self.coordinator.wake(partition)
        index = self.coordinator.next_partition()
        if index is None:
            return False
        block, ended = self.readers.read(index, self.plan.batch_rows, self.coordinator.partitions.read_bytes(index))
        self.coordinator.on_block(index, block, ended, self.clock())
        return block is not None or ended

    def _deliver(self, receiver: str, message: Message) -> None:
        if receiver == COORDINATOR:
            self.coordinator.receive(message, self.clock())
        elif receiver == CALLER:
            self.caller.receive(message)
        else:
            self.workers[receiver].receive(message)

    def _pass_time(self) -> None:
        dues = [d for w in self.workers.values() if (d := w.runner.due_us()) is not None]
        if (due_us := self.caller.due_us()) is not None:
            dues.append(due_us)
        if self.readers.wait_s() is not None:
            # A source waits for the outside world: real time has to pass.
            time.sleep(_IDLE_S)
        elif dues:
            self.clock.jump_to(min(dues))
        else:
            raise InternalError("the run stands still: nobody has anything to do, and it has not ended")
