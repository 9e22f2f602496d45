"""One life of a run, of which a seed decides everything: who works when, which message arrives next, who dies.

Coordinator, workers and caller live in this process. Every message is encoded and decoded as on a socket
and waits in the queue of its (sender, receiver) pair: order is kept within a pair, as ZeroMQ keeps it,
and between pairs anything goes. Nothing here reads a clock, so a seed replays exactly. What one life leaves
to the next, and what must come out in the end, is `harness.history`'s affair.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream import wire
from millstream.channel import Budget
from millstream.checkpoints.part import write_snapshot
from millstream.checkpoints.recovery import Recovery
from millstream.coordinator.caller import Caller
from millstream.coordinator.core import Coordinator, State
from millstream.coordinator.hosted_blocks import HostedBlocks
from millstream.coordinator.hosting import open_hosted
from millstream.coordinator.local import LocalCheckpoints
from millstream.coordinator.reading import HOSTED, Readers
from millstream.coordinator.replays import Replays
from millstream.errors import restored
from millstream.operators.base import DeadLetter
from millstream.plan import PhysicalPlan
from millstream.runner import Runner
from millstream.topology import CALLER, COORDINATOR, SOURCE_HOST, worker_name
from millstream.wire import Answered, Credit, Data, Hello, Message, Rescale, Stop, Switch
from millstream.workers.task import Worker

from .faults import Injected, Killed
from .running import Rows, collected, late_count

_START_US = 1_700_000_000_000_000

Queued = dict[tuple[str, str], deque[list[wire.Frame]]]


class Stuck(AssertionError):
    """Nobody can do anything, or too many steps were taken, and the run has not ended."""


@dataclass(frozen=True)
class Conditions:
    """What a seed chooses from.

    Attributes:
        budget_bytes: of every receiver, for each exchange.
        steps_at_once: how many steps a process may take when it is its turn.
        quiet: how often a partition that is asked has nothing.
        hangs: how often, turn by turn, a process stops for a while.
        jumps: how often, turn by turn, the wall clock is set to another time.
        step_limit: how many turns are too many.
    """

    budget_bytes: int = 1
    steps_at_once: int = 3
    quiet: float = 0.2
    hangs: float = 0.0
    jumps: float = 0.0
    step_limit: int = 300_000


class Simulation:
    """Args:
    seed: a number; or the dice to go on with.
    checkpoints: where checkpoints go, and which of them to go on from; None: there are none.
    replays: dead letters that are to be replayed.
    journals: where the journals are of sources that give everything once; None: none are kept.

    Attributes:
        queued: messages on their way. Those of another attempt may be put in: nobody must mind them.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        seed: int | random.Random,
        conditions: Conditions,
        checkpoints: LocalCheckpoints | None = None,
        replays: Replays | None = None,
        journals: Path | None = None,
    ) -> None:
        self.plan = plan
        self.conditions = conditions
        self.letters: list[DeadLetter] = []
        self.turns = 0
        self.rescaled = 0
        self.rescaling = False
        self.trace: deque[str] = deque(maxlen=40)
        self.queued: Queued = {}
        self.dead: set[str] = set()
        self._dice = seed if isinstance(seed, random.Random) else random.Random(seed)
        self._elapsed_us = 0
        self._wall_us = _START_US
        self._checkpoints = checkpoints
        self.attempt, recovery, policy = 1, None, None
        if checkpoints is not None:
            self.attempt, recovery, policy = checkpoints.attempt, checkpoints.recovery, checkpoints.policy
        self._first_attempt = self.attempt
        self._attempts: dict[str, int] = {}
        budget = Budget(conditions.budget_bytes)
        hosted = [p for p in range(len(plan.partitions)) if plan.source_of(p).hosted]
        self.host = HostedBlocks(SOURCE_HOST, hosted) if hosted else None
        self._hosted_readers = {p: open_hosted(plan, p, recovery) for p in hosted}
        self.readers = Readers(plan, hosted, None, recovery, journals, replays)
        self.coordinator = Coordinator(
            plan, now_us=self._now, dead_letter=self.letters.append, budget=budget, policy=policy,
            attempt=self.attempt, recovery=recovery, offset_of=self.readers.offset, replayed=self.readers.replayed,
        )  # fmt: skip
        staged = checkpoints is not None
        self.workers = {
            name: Worker(plan, i, now_us=self._now, dead_letter=self.letters.append, budget=budget, checkpoints=staged)
            for i, name in enumerate(self.coordinator.members)
        }
        self.caller = Caller(plan, now_us=self._now, dead_letter=self.letters.append, checkpoints=staged)
        self.processes: dict[str, Coordinator | Worker | Caller] = {
            COORDINATOR: self.coordinator, CALLER: self.caller, **self.workers,
        }  # fmt: skip
        if recovery is not None:
            for runner in (*(w.runner for w in self.workers.values()), self.caller.runner):
                runner.restore(recovery)
        self._next_plan: PhysicalPlan | None = None
        self._joining: set[str] = set()
        self._stop_asked = False
        self._may_work = set(self.processes)
        self._hangs_until: dict[str, int] = {}

    # --- the run ---

    def run(self) -> dict[str, Rows]:
        """Run to the end; returns the rows of every ``collect``.

        Raises:
            Stuck: it does not come to an end, with the state of every process.
            MillstreamError: the run failed.
        """
        self.start()
        self.go_on()
        return collected(self.plan, self.caller.runner)

    def start(self) -> None:
        for name in self.workers:
            self._send(name, COORDINATOR, Hello(name, 1))

    def go_on(self) -> None:
        """Run from where it is to the end.

        Raises:
            Stuck, MillstreamError: as `run` does.
        """
        while not self.done:
            self.turn()
        self.settle()

    @property
    def done(self) -> bool:
        """Whether the run has come to its end, or was stopped."""
        state = self.coordinator.state
        return state in (State.STOPPED, State.FAILED) or (state is State.DONE and self.caller.finished)

    def settle(self) -> None:
        """Let everything that is still on its way arrive.

        Raises:
            AssertionError: something is left that nobody waits for.
        """
        while any(self.queued.values()) or self._may_work:
            self.turn()
        left = [line for name, runner in self.runners.items() for line in _left_in(name, runner)]
        assert not left, "something is left at the end:\n" + "\n".join(left)

    def stop(self) -> None:
        """Ask the run to end at a checkpoint, before its input has ended."""
        self._stop_asked = True
        self._send(CALLER, COORDINATOR, Stop(False))

    def rescale(self, plan: PhysicalPlan, next_attempt: int) -> None:
        """Ask the run to go on with the workers of another plan; those that are new are started."""
        self._note(f"from {self.plan.workers} workers to {plan.workers}")
        self._next_plan = plan
        self.rescaling = True
        self._joining = {worker_name(i) for i in range(self.plan.workers, plan.workers)}
        for name in sorted(self._joining):
            self._reap(name)
            self._attempts[name] = self.attempt
            self._send(name, COORDINATOR, Hello(name, 1))
        self._send(CALLER, COORDINATOR, Rescale(1, plan.workers, next_attempt))

    def hang(self, name: str, turns: int) -> None:
        """A process does nothing for so many turns, unless nobody else can do anything."""
        self._note(f"{name} hangs")
        self._hangs_until[name] = self.turns + turns

    def kill(self, name: str) -> None:
        """A process is gone. Some of what it had sent may still arrive; nothing that was sent to it does."""
        self._note(f"{name} is killed")
        self.dead.add(name)
        self._may_work.discard(name)
        for (sender, receiver), queue in self.queued.items():
            if receiver == name:
                queue.clear()
            elif sender == name:
                for _ in range(self._dice.randint(0, len(queue))):
                    queue.pop()

    @property
    def late(self) -> int:
        return late_count(list(self.runners.values()))

    @property
    def figures(self) -> dict[str, Mapping[str, Any]]:
        """What each process has counted, as the supervisor has been told: at the end that is the result of the run."""
        return {**self.coordinator.figures()["processes"], CALLER: self.caller.figures()}

    @property
    def runners(self) -> dict[str, Runner]:
        return {name: process.runner for name, process in self.processes.items()}

    def turn(self) -> None:
        """One process does one thing.

        Raises:
            Stuck: nobody can do anything.
        """
        self.turns += 1
        self._pass_time()
        choices = self._choices()
        if not choices and self._hangs_until:
            self._hangs_until.clear()
            choices = self._choices()
        if not choices and (dues_us := self._dues_us()):
            self._wall_us = max(self._wall_us, min(dues_us.values()))
            choices = self._choices()
        if not choices or self.turns > self.conditions.step_limit:
            raise Stuck(
                f"after {self.turns} turns: {'nobody has anything to do' if not choices else 'no end in sight'}\n{self}"
            )
        self._act(self._dice.choice(choices))

    def _act(self, what: tuple[str, list[str]]) -> None:
        kind, names = what
        name = self._dice.choice(names)
        try:
            match kind:
                case "deliver":
                    sender, _, receiver = name.partition(" -> ")
                    name = receiver
                    self._deliver(sender, receiver)
                case "work":
                    self._work(name)
                case "read":
                    self._read()
                case "host":
                    self._host(int(name))
                    name = SOURCE_HOST
                case "wake":
                    self.coordinator.wake(int(name))
                    name = COORDINATOR
                case "wait":
                    self._elapsed_us += 200_000
                case "write":
                    self._write(self.workers[name])
            if name == COORDINATOR:
                self._lead_checkpoints()
        except Killed:
            self.kill(name)
        else:
            self._collect_outbox(name)
            if self.coordinator.state is State.SWITCHED and COORDINATOR not in self.dead:
                self._lead_on()
        if self.coordinator.failure is not None:
            raise restored(self.coordinator.failure.error)

    def _choices(self) -> list[tuple[str, list[str]]]:
        """What may happen now, and to whom."""
        asleep = self._hangs_until
        choices = [("deliver", [f"{a} -> {b}" for (a, b), q in self.queued.items() if q and b not in asleep])]
        due = {name for name, due_us in self._dues_us().items() if due_us <= self._wall_us}
        if self._may_work or due:
            choices.append(("work", sorted(n for n in self._may_work | due if n not in asleep)))
        if self._checkpoints is not None:
            writing = [n for n, w in self.workers.items() if w.snapshots and n not in self.dead and n not in asleep]
            choices.append(("write", writing))
        if self.host is not None and SOURCE_HOST not in self.dead:
            choices.append(("host", [str(p) for p in self.host.wanted if not self._hosted_readers[p].ended]))
        if COORDINATOR not in self.dead and COORDINATOR not in asleep:
            if self.coordinator.next_partition() is not None:
                choices.append(("read", [COORDINATOR]))
            checkpointing = self.coordinator.checkpointing
            if checkpointing is not None and checkpointing.try_again_us is not None:
                choices.append(("wait", [COORDINATOR]))
            partitions = enumerate(self.coordinator.partitions)
            choices.append(("wake", [str(i) for i, p in partitions if p.waiting and not p.ended]))
        return [choice for choice in choices if choice[1]]

    def _dues_us(self) -> dict[str, int]:
        """When those have something to do that wait for a moment of processing time."""
        dues_us = {name: runner.due_us() for name, runner in self.runners.items() if name not in self.dead}
        return {name: due_us for name, due_us in dues_us.items() if due_us is not None}

    def _pass_time(self) -> None:
        step_us = self._dice.randrange(200)
        self._elapsed_us += step_us
        self._wall_us += step_us
        conditions = self.conditions
        if conditions.jumps and self._dice.random() < conditions.jumps:
            self._wall_us += self._dice.choice([-3_600, -1, 1, 86_400]) * 1_000_000
            self._note(f"the clock says {self._wall_us}")
        for name in [n for n, until in self._hangs_until.items() if until <= self.turns]:
            del self._hangs_until[name]
        if conditions.hangs and self._dice.random() < conditions.hangs:
            name = self._dice.choice(list(self.processes))
            self.hang(name, self._dice.choice([3, 30, 300]))

    # --- what processes do ---

    def _read(self) -> None:
        partition = self.coordinator.next_partition()
        assert partition is not None
        self._may_work.add(COORDINATOR)
        if self._dice.random() < self.conditions.quiet:
            self._note(f"partition {partition} has nothing")
            self.coordinator.on_block(partition, None, False, self._elapsed_us)
            return
        max_bytes = self.coordinator.partitions.read_bytes(partition)
        block, ended = self.readers.read(partition, self.plan.batch_rows, max_bytes)
        self._note(
            f"partition {partition} gives {'nothing' if block is None else f'a block at {block.offset}'}, ended={ended}"
        )
        self.coordinator.on_block(partition, block, ended, self._elapsed_us)
        for receiver, credit in self.readers.credits():
            self._send(COORDINATOR, receiver, credit)

    def _host(self, partition: int) -> None:
        """What a thread of the source host does, and its loop with what came of that."""
        assert self.host is not None
        reader = self._hosted_readers[partition]
        block = None if self._dice.random() < self.conditions.quiet else reader.read(self.plan.batch_rows, 1 << 20)
        if block is not None or reader.ended:
            self.host.put(partition, block, reader.ended)
            self._host_sends()

    def _host_sends(self) -> None:
        assert self.host is not None
        for data in self.host.take():
            self._send(SOURCE_HOST, COORDINATOR, data)

    def _work(self, name: str) -> None:
        if not self.processes[name].work(self._dice.randint(1, self.conditions.steps_at_once)):
            self._may_work.discard(name)

    def _write(self, worker: Worker) -> None:
        """What the thread does that writes a worker's snapshots."""
        assert self._checkpoints is not None
        snapshot = worker.snapshots.popleft()
        try:
            attempt = self._attempts.get(worker.name, self._first_attempt)
            files = write_snapshot(snapshot, worker.runner, self._checkpoints.store, worker.name, attempt)
        except Injected as error:
            self._note(f"{worker.name} cannot write its part of {snapshot.epoch}")
            worker.written(snapshot, [], f"{worker.name}: {error}")
        else:
            self._note(f"{worker.name} has written its part of {snapshot.epoch}")
            worker.written(snapshot, files)

    def _lead_checkpoints(self) -> None:
        """What the coordinator's loop does when it has done everything else."""
        if self._checkpoints is None:
            return
        store = self._checkpoints.store
        given_up = self.coordinator.take_given_up()
        if given_up is not None:
            store.clean(keep_data_of=lambda name: int(name[:8]) > given_up)
        self.coordinator.checkpoint_if_due(self._elapsed_us)
        if self.coordinator.outbox:
            self._may_work.add(COORDINATOR)  # a barrier for its own stages, too
        manifest = self.coordinator.manifest_due()
        if manifest is None:
            return
        try:
            store.complete(manifest)
        except Injected as error:
            self._note(f"manifest {manifest.epoch} cannot be written")
            self.coordinator.checkpoint_written(f"{COORDINATOR}: {error}")
        else:
            self._note(f"manifest {manifest.epoch} is written")
            self.coordinator.checkpoint_written()
            self.readers.counted(manifest)
            store.clean(keep_data_of=lambda name: int(name[:8]) > manifest.epoch)
        self._may_work.add(COORDINATOR)

    # --- messages ---

    def _collect_outbox(self, name: str) -> None:
        if name not in self.processes:
            return  # it has left, or has not come yet
        outbox = self.processes[name].outbox
        while outbox:
            receiver, message = outbox.popleft()
            self._send(name, receiver, message)

    def _send(self, sender: str, receiver: str, message: Message) -> None:
        if receiver in self.dead:
            return
        frames = [
            f if isinstance(f, bytes) else bytes(f)
            for f in message.encode(self._attempt_between(sender, receiver, sender))
        ]
        self.queued.setdefault((sender, receiver), deque()).append(frames)

    def _attempt_between(self, sender: str, receiver: str, whose: str) -> int:
        """The attempt that counts for one of the two; the source host goes on through every rescale as it is."""
        with_host = SOURCE_HOST in (sender, receiver)
        return self._first_attempt if with_host else self._attempts.get(whose, self._first_attempt)

    def _deliver(self, sender: str, receiver: str) -> None:
        frames = self.queued[sender, receiver].popleft()
        message = wire.decode(frames, self._attempt_between(sender, receiver, receiver))
        if message is None:
            self._note(f"{sender} -> {receiver}: something of another attempt")
            return
        self._note(f"{sender} -> {receiver}: {_brief(message)}")
        if isinstance(message, Switch):
            self._switch(receiver, message)
            return
        if isinstance(message, Answered):
            self.rescaling = False
        if receiver == SOURCE_HOST:
            assert self.host is not None and isinstance(message, Credit)
            self.host.on_credit(message)
            self._host_sends()
            return
        if isinstance(message, Data) and message.exchange <= HOSTED:
            self.readers.put(message)
            return
        if receiver not in self.processes:
            self._joining.discard(receiver)  # it is not needed, or has left
            return
        self._may_work.add(receiver)
        if receiver == COORDINATOR:
            self.coordinator.receive(message, self._elapsed_us)
        elif receiver == CALLER:
            self.caller.receive(message)
        else:
            self.workers[receiver].receive(message)

    # --- another number of workers ---

    def _lead_on(self) -> None:
        """What the coordinator's loop does when everyone has been told to switch."""
        assert self._checkpoints is not None and self._next_plan is not None
        assert self.coordinator.checkpointing is not None
        epoch = self.coordinator.checkpointing.last_epoch
        recovery = Recovery(self._checkpoints.store.manifest(epoch), self._checkpoints.store)
        self.coordinator = self.coordinator.successor(self._next_plan, recovery)
        self.processes[COORDINATOR] = self.coordinator
        self.plan = self._next_plan
        self._attempts[COORDINATOR] = self.attempt = self.coordinator.attempt
        self._may_work.add(COORDINATOR)
        self.rescaled += 1

    def _switch(self, name: str, switch: Switch) -> None:
        """A process goes on from the checkpoint in the next life, comes to it, or leaves."""
        assert self._checkpoints is not None
        plan = self.plan
        self._attempts[name] = switch.next_attempt
        if name != CALLER and name not in self._joining and name not in self.coordinator.members:
            self._leave(name)  # nobody has waited for it: that checkpoint may not be kept any more
            return
        recovery = Recovery(self._checkpoints.store.manifest(switch.epoch), self._checkpoints.store)
        self._may_work.add(name)
        if name == CALLER:
            self.caller = self.processes[CALLER] = self.caller.successor(plan, recovery)
        elif name in self._joining:
            self._joining.discard(name)
            worker = Worker(
                plan, int(name.rsplit("-", 1)[1]), now_us=self._now, dead_letter=self.letters.append,
                budget=Budget(self.conditions.budget_bytes), checkpoints=True,
            )  # fmt: skip
            worker.runner.restore(recovery)
            self.workers[name] = self.processes[name] = worker
        else:
            self.workers[name] = self.processes[name] = self.workers[name].successor(plan, recovery)
        self._send(name, COORDINATOR, Hello(name, 1))
        if name == CALLER and self._stop_asked:
            self._send(CALLER, COORDINATOR, Stop(False))

    def _leave(self, name: str) -> None:
        self.workers.pop(name).runner.abort()
        del self.processes[name]
        self._may_work.discard(name)
        self._hangs_until.pop(name, None)

    def _reap(self, name: str) -> None:
        """See that a worker which was to leave is gone, as the supervisor does before another takes its name.

        It may not have heard of it yet. What was sent to it is not for the other.
        """
        for (_, receiver), queue in self.queued.items():
            if receiver == name:
                queue.clear()
        if name in self.processes:
            self._note(f"{name} has not left by itself")
            self._leave(name)

    # --- what there is to see ---

    def _note(self, line: str) -> None:
        self.trace.append(line)

    def _now(self) -> int:
        return self._wall_us

    def __str__(self) -> str:
        queued = [f"{a} -> {b}: {len(queue)} messages" for (a, b), queue in self.queued.items() if queue]
        partitions = [f"partition {i}: {p}" for i, p in enumerate(self.coordinator.partitions)]
        left = [line for name, runner in self.runners.items() for line in _left_in(name, runner)]
        unfinished = [f"{n} has not finished" for n in self.coordinator.members.unfinished]
        checkpointing = self.coordinator.checkpointing
        under_way = [] if checkpointing is None else [f"under way: {checkpointing.under_way}"]
        return "\n".join([
            f"coordinator: {self.coordinator.state}", *unfinished, *under_way, *partitions, *queued, *left, "last:",
            *self.trace,
        ])  # fmt: skip


def _left_in(name: str, runner: Runner) -> Iterator[str]:
    """Everything that a process still holds."""
    for (exchange, _, receiver), credit in runner._credits.items():
        if credit.in_flight_bytes:
            yield f"{name}: {credit.in_flight_bytes} bytes in flight to {receiver} by exchange {exchange}"
    for exchange, inbox in runner._inboxes.items():
        early = {origin: sorted(turn.early) for origin, turn in inbox.inputs.items() if turn.early}
        behind = {origin: len(waiting) for origin, waiting in inbox._behind.items()}
        if inbox.ready or early or behind or inbox.held_bytes:
            waits = {origin: turn.next for origin, turn in inbox.inputs.items() if turn.early}
            yield (
                f"{name}: exchange {exchange} holds {len(inbox.ready)} ready, early {early} (waiting for {waits}), "
                f"behind a barrier {behind}, {inbox.held_bytes} bytes"
            )
    for number, stage in runner._block_stages.items():
        for unit in stage.waiting:
            yield f"{name}: stage {number} waits with block {unit.sequence} of partition {unit.partition}, {len(unit.readings)}/{len(unit.timed)} readings"
    for lane in runner._lanes:
        if lane.blocked is not None:
            data = lane.blocked.data
            yield f"{name}: blocked with {data.sequence} of {data.origin} by exchange {data.exchange} to {lane.blocked.receiver}"
        elif lane.work is not None:
            yield f"{name}: stage {lane.stage.stage.id} is in the middle of something"


def _brief(message: Message) -> str:
    if isinstance(message, Data):
        rows = "nothing" if message.payload is None else f"{message.payload.nbytes} bytes"
        barrier = f", barrier {message.barrier}" if message.barrier else ""
        return f"exchange {message.exchange} {message.origin} #{message.sequence}{'+' if message.more else ''} {rows}, {message.watermark_us}, {message.status.name}{barrier}"
    return str(message)
