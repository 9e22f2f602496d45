"""The coordinator's decisions: what a message changes, when a checkpoint begins, when the run is over.

A pure state machine around the `Runner` of the coordinator's own stages. The shell (loop.py) reads
blocks when it is told to and gives them in, moves messages, and tells the time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Final

from millstream.channel import RECEIVER_BUDGET, Budget
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.part import counted
from millstream.checkpoints.recovery import Recovery
from millstream.connectors.base import Block, Offset
from millstream.coordinator.asked_checkpoints import AskedCheckpoints
from millstream.coordinator.checkpointing import Checkpointing, CheckpointPolicy
from millstream.coordinator.clocks import EventClocks, Mark
from millstream.coordinator.members import HANG_TIMEOUT_S, Members
from millstream.coordinator.rescaling import Rescaling
from millstream.coordinator.source_partitions import SourcePartitions
from millstream.errors import CheckpointError, WireError, described
from millstream.operators.base import DeadLetter
from millstream.plan import PhysicalPlan, Place
from millstream.runner import Runner
from millstream.topology import CALLER, COORDINATOR, Topology, worker_name
from millstream.wire import (
    Acknowledged,
    Answered,
    Ask,
    Beat,
    Checkpoint,
    ClockReading,
    Committed,
    Completed,
    Credit,
    Data,
    Failed,
    Finished,
    Found,
    Hello,
    Look,
    Message,
    Query,
    Rescale,
    Start,
    Stop,
    Switch,
    TimeReport,
)

CHECKPOINTS_SHOWN: Final = 20


class State(Enum):
    STARTING = "starting"  # not everyone has said hello
    RUNNING = "running"
    ENDING = "ending"  # all sources have ended; the workers finish
    DONE = "done"
    SWITCHED = "rescaling"  # at a checkpoint, from which its successor leads on with another number of workers
    STOPPED = "stopped"  # at a checkpoint, before the input had ended: it can go on from there
    FAILED = "failed"


class Coordinator:
    """Args:
    now_us: the clock, for liveness and for the quiet of sources.
    budget: what a receiver takes in flight for each exchange; the same in every process.
    hang_timeout_s: how long a worker may give no sign of life.
    policy: when checkpoints are made; None: never.
    attempt: which life of the run this is.
    recovery: the checkpoint from which the run goes on.
    offset_of: where the reader of a source partition is; None: what it has read cannot be read again.
    replayed: by source, how much of the dead letters that are to go through it again was read.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        *,
        now_us: Callable[[], int],
        dead_letter: Callable[[DeadLetter], None],
        budget: Budget = RECEIVER_BUDGET,
        hang_timeout_s: float = HANG_TIMEOUT_S,
        policy: CheckpointPolicy | None = None,
        attempt: int = 1,
        recovery: Recovery | None = None,
        offset_of: Callable[[int], Offset | None] = lambda partition: None,
        replayed: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.plan = plan
        self._offset_of, self._replayed = offset_of, replayed
        self._dead_letter, self._budget, self._hang_timeout_s = dead_letter, budget, hang_timeout_s
        self._policy, self.attempt = policy, attempt
        self.topology = Topology(plan)
        self.state = State.STARTING
        self.failure: Failed | None = None
        self.clocks = EventClocks(plan, self.topology)
        self.runner = Runner(
            plan, COORDINATOR, now_us=now_us, dead_letter=dead_letter, budget=budget,
            checkpoints=policy is not None,
        )  # fmt: skip
        self.outbox = self.runner.outbox
        restored_bytes = 0 if recovery is None else recovery.manifest.size_bytes
        self.members = Members([worker_name(i) for i in range(plan.workers)], hang_timeout_s, restored_bytes)
        self.rescaling = Rescaling(self.members, self.outbox, hang_timeout_s)
        self._drain_later = False
        self._rescaled: tuple[Rescale, int] | None = None
        """What the life before this one was asked, and since when nothing has been read."""
        self.partitions = SourcePartitions(plan, self.topology, self.clocks, self.runner, now_us)
        self._announced_end = False
        self._now_us = now_us
        self.checkpointing: Checkpointing | None = None
        if policy is not None:
            caller = [CALLER] if any(s.place is Place.CALLER for s in plan.stages) else []
            first = 1 if recovery is None else recovery.manifest.epoch + 1
            self.checkpointing = Checkpointing(plan, policy, attempt, first, [*self.members, *caller])
        self._checkpoint_begun_us = 0
        self._checkpoints_made: deque[dict[str, Any]] = deque(maxlen=CHECKPOINTS_SHOWN)
        self._stopping = False
        self._paused = False
        self.asked_checkpoints = AskedCheckpoints(self.outbox)
        self._worked_off = False
        self._recovered = recovery is not None
        self._started_us: int | None = None
        self.seconds_before = 0.0 if recovery is None else recovery.manifest.seconds
        """For how long earlier lives of the run went on, up to the checkpoint from which it goes on."""
        self._counted: dict[int, tuple[int, dict[int, dict[str, int]]]] = {}
        """By stage in this process, the epoch of the last barrier that passed it, and what it had counted by then."""
        if recovery is not None:
            self.runner.restore(recovery)
            self.partitions.restore(recovery)

    # --- messages ---

    def receive(self, message: Message, now_us: int) -> None:
        self.members.watch(now_us)
        match message:
            case Data() | Credit():
                self.runner.receive(message)
            case TimeReport():
                self._report(message)
            case Hello():
                self._greeted(message.process, now_us)
            case Beat():
                self.members.told(message.process, message.figures, now_us)
            case Finished():
                self.members.told(message.process, message.figures, now_us, finished=True)
            case Acknowledged():
                self._acknowledged(message)
            case Committed():
                if self.checkpointing is not None:
                    self.checkpointing.committed(message.process, message.epoch)
            case Failed():
                self.fail(message)
            case Stop():
                if message.drain and self.rescaling.is_closing:
                    self._drain_later = True  # nothing may follow the barrier
                elif message.drain:
                    self.end_sources()
                elif self.checkpointing is not None:
                    self._stopping = True  # where the input has ended already, the run comes to its own end
                else:
                    self.state = State.FAILED
            case Look():
                self.runner.look(message.operator)
            case Ask():
                self._asked(message)
            case Rescale():
                self._asked_to_rescale(message, now_us)
            case ClockReading() | Start() | Checkpoint() | Completed() | Answered() | Switch() | Query() | Found():
                pass  # never sent to the coordinator

    def _greeted(self, name: str, now_us: int) -> None:
        if name in self.members:
            self.members.seen(name, now_us)
        elif name != CALLER:
            self.rescaling.on_hello(name)
        self.members.awaited.discard(name)
        if self.state is not State.STARTING or self.members.awaited:
            return
        self.state = State.ENDING if self._announced_end else State.RUNNING
        self._started_us = now_us - int(self.seconds_before * 1e6)
        for member in self.members:
            self.outbox.append((member, Start(len(self.partitions))))
        self._tell_recovered()
        if self._rescaled is not None:
            asked, since_us = self._rescaled
            self.outbox.append((CALLER, Answered(asked.number, took_us=now_us - since_us)))

    def _asked(self, ask: Ask) -> None:
        match ask.what:
            case Ask.REPLAY if self._announced_end or self._stopping:
                failure = "the input has ended, or the run is being stopped"
                self.outbox.append((CALLER, Answered(ask.number, failure=failure)))
                return
            case Ask.REPLAY if self.checkpointing is None:
                pass  # nothing is ever taken back: all letters count
            case Ask.CHECKPOINT | Ask.SAVEPOINT if self.checkpointing is None:
                failure = "the run makes no checkpoints; run the flow with --checkpoint-interval 10s"
                self.outbox.append((CALLER, Answered(ask.number, failure=failure)))
                return
            case Ask.CHECKPOINT | Ask.SAVEPOINT | Ask.REPLAY:
                self.asked_checkpoints.ask(ask)
                return
            case Ask.RELEASE:
                self.asked_checkpoints.release(ask.epoch)
            case Ask.PAUSE:
                self._paused = True
            case Ask.RESUME:
                self._paused = False
                self.partitions.forget_asking()
            case _:
                raise WireError(f"ask: {ask.what!r} is nothing that can be asked")
        self.outbox.append((CALLER, Answered(ask.number)))

    def fail(self, failure: Failed) -> None:
        """Something cannot go on: the run ends, and the first failure is the reason."""
        if self.state not in (State.DONE, State.STOPPED, State.FAILED):
            self.failure = failure
            self.state = State.FAILED

    def _report(self, report: TimeReport) -> None:
        for worker, reading in self.clocks.report(report):
            if worker == COORDINATOR:
                self.runner.receive(reading)
            else:
                self.outbox.append((worker, reading))

    # --- sources ---

    def next_partition(self) -> int | None:
        """The partition to read now, if any."""
        stands_still = self._stopping or self._paused or self.rescaling.is_closing
        if self.state is not State.RUNNING or stands_still:
            return None
        return self.partitions.next()

    def waiting_for_credit(self) -> set[int]:
        """The sources that may have something which nobody has room for."""
        if self.state is not State.RUNNING or self._stopping:
            return set()
        return self.partitions.waiting_for_credit()

    def on_block(self, index: int, block: Block | None, ended: bool, now_us: int) -> None:
        """Take what reading a partition gave: a block, or nothing for now; and whether that was all."""
        self.partitions.on_block(index, block, ended, now_us)
        if ended:
            self._announce_end()

    def wake(self, index: int) -> None:
        """A partition that had nothing may have something."""
        self.partitions.wake(index)

    def _tell_recovered(self) -> None:
        """After a recovery everyone learns at once how far each partition was, and not with its next block."""
        if not self._recovered:
            return
        for index, partition in enumerate(self.partitions):
            if partition.had_ended and not partition.ended:
                self.on_block(index, None, True, self._now_us())
            elif not partition.ended:
                self.partitions.deal(index, None, Mark())

    def end_sources(self) -> None:
        """Read no more: every partition ends where it is."""
        self.partitions.end()
        self._announce_end()

    def _announce_end(self) -> None:
        if self._announced_end or not self.partitions.ended:
            return
        self._announced_end = True
        self.partitions.announce_end()
        if self.state is State.RUNNING:
            self.state = State.ENDING
        self._do_not_rescale("the input has ended")

    # --- work and time ---

    def work(self, steps: int) -> bool:
        more = self.runner.work(steps)
        while self.runner.snapshots:  # its stages have no state: where readers and clocks are is in the manifest
            snapshot = self.runner.snapshots.popleft()
            self._counted[snapshot.stage] = (snapshot.epoch, snapshot.counters)
        # The coordinator's own stages report to the clocks in the same process; what they read there may
        # be answered by a further report, and is work in any case.
        while self._route_own_reports():
            more = True
        if self.state is State.ENDING and not self._worked_off and self.runner.finished:
            self._worked_off = not self.members.unfinished
            if self._worked_off and self.checkpointing is None:
                self.state = State.DONE
            more |= self._worked_off  # with checkpoints, a last one makes the output whole
        return more

    # --- checkpoints ---

    def checkpoint_if_due(self, now_us: int) -> None:
        """Begin a checkpoint where it is time for one; end the run when the final one exists and was shown.

        Args:
            now_us: the clock that `receive` is told, too.
        """
        if self.checkpointing is None:
            return
        if self.state is State.ENDING and self._worked_off:
            self._end_with_checkpoint(self.checkpointing, now_us, State.DONE)
        elif self.state is State.RUNNING and self._stopping:
            self._end_with_checkpoint(self.checkpointing, now_us, State.STOPPED)
        elif self.state is State.RUNNING and self.rescaling.ready is not None:
            self._rescale_with_checkpoint(self.rescaling.ready, self.checkpointing, now_us)
        elif self.state is State.RUNNING and (
            self.checkpointing.due(now_us)
            or (self.asked_checkpoints.any_wanted and self.checkpointing.under_way is None)
        ):
            self._begin_checkpoint(now_us, last=False)

    def _end_with_checkpoint(self, checkpointing: Checkpointing, now_us: int, state: State) -> None:
        if checkpointing.all_committed:
            self.state = state
        elif checkpointing.hopeless:
            error = CheckpointError(
                f"the checkpoint that ends the run cannot be written: {checkpointing.failure}; what came after "
                f"checkpoint {checkpointing.last_epoch} does not count yet: mend that, and run again to go on from there"
            )
            self.fail(Failed(COORDINATOR, described(error, "")))
        elif checkpointing.final_due(now_us):
            self._begin_checkpoint(now_us, last=state is State.DONE, final=True)

    def _begin_checkpoint(self, now_us: int, *, last: bool, final: bool = False) -> None:
        """Note where every reader is, and send the barrier after the blocks that were read."""
        assert self.checkpointing is not None
        places = {i: (self._offset_of(i), p.before + p.sequence, p.ended) for i, p in enumerate(self.partitions)}
        epoch = self.checkpointing.begin(places, now_us, last=last, final=final, replayed=dict(self._replayed()))
        self.asked_checkpoints.begun(epoch)
        self._checkpoint_begun_us = self._now_us()
        self.clocks.forget_barriers(epoch - 1)
        for name in self.checkpointing.everyone:
            self.outbox.append((name, Checkpoint(epoch, last, final)))
        if not last:
            self.partitions.send_barrier(epoch)

    def manifest_due(self) -> Manifest | None:
        """The manifest that is to be written now: everyone has answered. Then `checkpoint_written` is called."""
        under_way = None if self.checkpointing is None else self.checkpointing.under_way
        if under_way is None or under_way.waiting:
            return None
        assert self.checkpointing is not None
        open_ = [p for p, (_, _, ended) in under_way.partitions.items() if not ended]
        if not all(self.clocks.passed_barrier(under_way.epoch, p) for p in open_):
            return None
        clocks = {p: self.clocks.take_barrier(under_way.epoch, p) for p in open_}
        counters = counted(self.plan, self._counters_at(under_way.epoch))
        return self.checkpointing.manifest(clocks, self._now_us(), counters, self._started_us or 0)

    def _counters_at(self, epoch: int) -> Iterator[dict[int, dict[str, int]]]:
        """What the stages in this process had counted at a barrier; those that had ended before never met it."""
        for number, stage in self.runner.stages.items():
            met, counters = self._counted.get(number, (0, {}))
            yield counters if met == epoch else stage.counters()

    def checkpoint_written(self, failure: str = "") -> None:
        """The manifest is on disk, and everyone may show what it counts; or, with a failure, it is not."""
        assert self.checkpointing is not None
        if failure:
            self._give_up(failure)
            return
        made = self.checkpointing.sizes()
        epoch = self.checkpointing.complete()
        self.asked_checkpoints.completed(epoch)
        begun_us = self._checkpoint_begun_us
        self._checkpoints_made.append(
            {"epoch": epoch, "begun_us": begun_us, "duration_us": self._now_us() - begun_us, "operators": made}
        )
        for name in self.checkpointing.everyone:
            self.outbox.append((name, Completed(epoch)))

    def _acknowledged(self, message: Acknowledged) -> None:
        under_way = None if self.checkpointing is None else self.checkpointing.under_way
        if self.checkpointing is None or under_way is None or message.epoch != under_way.epoch:
            return  # the answer to one that was given up
        if message.failure:
            self._give_up(message.failure)
        else:
            self.checkpointing.acknowledged(message)

    def take_given_up(self) -> int | None:
        """The checkpoint that was given up since this was asked last: nobody needs what was written for it."""
        if self.checkpointing is None:
            return None
        epoch, self.checkpointing.given_up = self.checkpointing.given_up, None
        return epoch

    def _give_up(self, reason: str) -> None:
        assert self.checkpointing is not None and self.checkpointing.under_way is not None
        epoch = self.checkpointing.under_way.epoch
        self.checkpointing.give_up(reason)
        self.asked_checkpoints.given_up(epoch, reason)
        if self.rescaling.is_closing:
            self._do_not_rescale(f"the checkpoint for it could not be written: {reason}")

    # --- another number of workers ---

    def _asked_to_rescale(self, rescale: Rescale, now_us: int) -> None:
        reason = ""
        if self.checkpointing is None:
            reason = "the run makes no checkpoints; run the flow with --checkpoint-interval 10s"
        elif self._stopping or self.state not in (State.STARTING, State.RUNNING):
            reason = "the input has ended, or the run is being stopped"
        self.rescaling.ask(rescale, reason, now_us)

    def _rescale_with_checkpoint(self, rescale: Rescale, checkpointing: Checkpointing, now_us: int) -> None:
        """Read nothing more, wait until all is quiet behind a barrier, and hand over to the next life."""
        if checkpointing.all_committed:
            self.state = State.SWITCHED
            self.rescaling.switch(rescale, checkpointing.last_epoch)
        elif checkpointing.final_due(now_us):
            self.rescaling.close(now_us)
            self._begin_checkpoint(now_us, last=False, final=True)

    def _do_not_rescale(self, reason: str) -> None:
        """Go on as before."""
        if not self.rescaling.give_up(reason):
            return
        assert self.checkpointing is not None
        for name in self.checkpointing.everyone:
            self.outbox.append((name, Start(len(self.partitions))))
        if self._drain_later:
            self.end_sources()

    @property
    def next_attempt(self) -> int:
        """Of the life that `successor` leads."""
        assert self.rescaling.asked is not None
        return self.rescaling.asked.next_attempt

    def successor(self, plan: PhysicalPlan, recovery: Recovery) -> Coordinator:
        """The coordinator of the next life, which goes on from the checkpoint at which this one has stopped.

        Args:
            plan: for the other number of workers.
        """
        rescale, since_us = self.rescaling.asked, self.rescaling.closing_since_us
        assert self.state is State.SWITCHED and rescale is not None and since_us is not None
        after = Coordinator(
            plan, now_us=self._now_us, dead_letter=self._dead_letter, budget=self._budget,
            hang_timeout_s=self._hang_timeout_s, policy=self._policy, attempt=rescale.next_attempt, recovery=recovery,
            offset_of=self._offset_of, replayed=self._replayed,
        )  # fmt: skip
        after._rescaled = (rescale, since_us)
        after.members.awaited.add(CALLER)
        assert after.checkpointing is not None and self.checkpointing is not None
        after.checkpointing.completed = self.checkpointing.completed
        after._paused, after.asked_checkpoints.pinned = self._paused, self.asked_checkpoints.pinned
        after.partitions.follow(self.partitions)
        return after

    def _route_own_reports(self) -> bool:
        routed = False
        for _ in range(len(self.outbox)):
            receiver, message = self.outbox.popleft()
            if receiver == COORDINATOR and isinstance(message, TimeReport):
                self._report(message)
                routed = True
            else:
                self.outbox.append((receiver, message))
        return routed

    def check_members(self, now_us: int) -> None:
        """Find out who hangs."""
        for failure in self.members.lost(now_us):
            self.fail(failure)
        overdue = self.rescaling.overdue(now_us)
        if overdue:
            self._do_not_rescale(overdue)

    def figures(self) -> dict[str, Any]:
        """What the run has done so far, of all processes."""
        return {
            "state": "paused" if self._paused and self.state is State.RUNNING else self.state.value,
            "watermark_us": self.clocks.watermark_us(),
            "blocks": sum(p.blocks for p in self.partitions),
            "bytes_in": sum(p.bytes for p in self.partitions),
            "checkpoint": 0 if self.checkpointing is None else self.checkpointing.last_epoch,
            "checkpoint_failure": "" if self.checkpointing is None else self.checkpointing.failure,
            "checkpoints": list(self._checkpoints_made),
            "partitions": self.partitions.figures(),
            "processes": {COORDINATOR: self.runner.figures(), **self.members.figures()},
        }
