"""A run of which a seed decides everything: who works when, which message arrives next, what is quiet.

Coordinator, workers and caller live in this process. Every message is encoded and decoded as on a socket
and waits in the queue of its (sender, receiver) pair: order is kept within a pair, as ZeroMQ keeps it,
and between pairs anything goes. Nothing here reads a clock, so a seed replays exactly.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from millstream import wire
from millstream.connectors.base import Reader
from millstream.coordinator.core import BLOCK_BYTES, Coordinator, State
from millstream.errors import restored
from millstream.operators.base import DeadLetter
from millstream.plan import PhysicalPlan
from millstream.runner import Runner
from millstream.topology import CALLER, COORDINATOR
from millstream.wire import ClockReading, Credit, Data, Hello, Message
from millstream.workers.task import Worker

from .running import Rows, collected, late_count

ATTEMPT = 1
_START_US = 1_700_000_000_000_000


class Stuck(AssertionError):
    """Nobody can do anything, or too many steps were taken, and the run has not ended."""


@dataclass(frozen=True)
class Conditions:
    """What a seed chooses from.

    Attributes:
        budget_bytes: of every receiver, for each exchange.
        steps_at_once: how many steps a process may take when it is its turn.
        quiet: how often a partition that is asked has nothing.
        step_limit: how many turns are too many.
    """

    budget_bytes: int = 1
    steps_at_once: int = 3
    quiet: float = 0.2
    step_limit: int = 300_000


class Simulation:
    def __init__(self, plan: PhysicalPlan, seed: int, conditions: Conditions) -> None:
        self.plan = plan
        self.conditions = conditions
        self.letters: list[DeadLetter] = []
        self.turns = 0
        self.trace: deque[str] = deque(maxlen=40)
        self._dice = random.Random(seed)
        self._now_us = _START_US
        budget = conditions.budget_bytes
        self.coordinator = Coordinator(plan, now_us=self._now, dead_letter=self.letters.append, budget_bytes=budget)
        self.workers = {
            name: Worker(plan, i, now_us=self._now, dead_letter=self.letters.append, budget_bytes=budget)
            for i, name in enumerate(self.coordinator.members)
        }
        self.caller = Runner(plan, CALLER, now_us=self._now, dead_letter=self.letters.append, budget_bytes=budget)
        self._readers: list[Reader] = [plan.source_of(i).open(name) for i, (_, name) in enumerate(plan.partitions)]
        self._links: dict[tuple[str, str], deque[list[wire.Frame]]] = {}
        self._may_work = {COORDINATOR, CALLER, *self.workers}

    # --- the run ---

    def run(self) -> dict[str, Rows]:
        """Run to the end; returns the rows of every ``collect``.

        Raises:
            Stuck: it does not come to an end, with the state of every process.
            MillstreamError: the run failed.
        """
        for name in self.workers:
            self._send(name, COORDINATOR, Hello(name, 1))
        while self.coordinator.state is not State.DONE or not self.caller.finished:
            self._turn()
        while any(self._links.values()) or self._may_work:
            self._turn()
        self._check_nothing_is_left()
        return collected(self.plan, self.caller)

    @property
    def late(self) -> int:
        return late_count(list(self.runners.values()))

    @property
    def runners(self) -> dict[str, Runner]:
        return {
            COORDINATOR: self.coordinator.runner,
            CALLER: self.caller,
            **{n: w.runner for n, w in self.workers.items()},
        }

    def _turn(self) -> None:
        self.turns += 1
        self._now_us += self._dice.randrange(200)
        pairs = [pair for pair, queue in self._links.items() if queue]
        partition = self.coordinator.next_partition()
        asleep = [i for i, p in enumerate(self.coordinator.partitions) if p.waiting and not p.ended]
        choices = (
            ["deliver"] * bool(pairs)
            + ["work"] * bool(self._may_work)
            + ["read"] * (partition is not None)
            + ["wake"] * bool(asleep)
        )
        if not choices or self.turns > self.conditions.step_limit:
            raise Stuck(
                f"after {self.turns} turns: {'nobody has anything to do' if not choices else 'no end in sight'}\n{self}"
            )
        choice = self._dice.choice(choices)
        match choice:
            case "deliver":
                self._deliver(*self._dice.choice(pairs))
            case "work":
                self._work(self._dice.choice(sorted(self._may_work)))
            case "read":
                assert partition is not None
                self._read(partition)
            case "wake":
                self.coordinator.wake(self._dice.choice(asleep))
        self._collect_outboxes()

    def _read(self, partition: int) -> None:
        self._may_work.add(COORDINATOR)
        if self._dice.random() < self.conditions.quiet:
            self._note(f"partition {partition} has nothing")
            self.coordinator.on_block(partition, None, False, self._now_us)
            return
        reader = self._readers[partition]
        block = reader.read(self.plan.batch_rows, BLOCK_BYTES)
        self._note(
            f"partition {partition} gives {'nothing' if block is None else f'a block at {block.offset}'}, ended={reader.ended}"
        )
        self.coordinator.on_block(partition, block, reader.ended, self._now_us)

    def _work(self, name: str) -> None:
        steps = self._dice.randint(1, self.conditions.steps_at_once)
        process: Coordinator | Worker | Runner
        process = self.coordinator if name == COORDINATOR else self.caller if name == CALLER else self.workers[name]
        if not process.work(steps):
            self._may_work.discard(name)

    def _collect_outboxes(self) -> None:
        for name, runner in self.runners.items():
            while runner.outbox:
                receiver, message = runner.outbox.popleft()
                self._send(name, receiver, message)
        if self.coordinator.failure is not None:
            raise restored(self.coordinator.failure.error)

    # --- messages ---

    def _send(self, sender: str, receiver: str, message: Message) -> None:
        frames = [f if isinstance(f, bytes) else bytes(f) for f in message.encode(ATTEMPT)]
        self._links.setdefault((sender, receiver), deque()).append(frames)

    def _deliver(self, sender: str, receiver: str) -> None:
        message = wire.decode(self._links[sender, receiver].popleft(), ATTEMPT)
        assert message is not None
        self._note(f"{sender} -> {receiver}: {_brief(message)}")
        self._may_work.add(receiver)
        if receiver == COORDINATOR:
            self.coordinator.receive(message, self._now_us)
        elif receiver == CALLER:
            assert isinstance(message, Data | Credit | ClockReading)
            self.caller.receive(message)
        else:
            self.workers[receiver].receive(message)

    # --- what is left ---

    def _check_nothing_is_left(self) -> None:
        left = [line for name, runner in self.runners.items() for line in _left_in(name, runner)]
        assert not left, "something is left at the end:\n" + "\n".join(left)

    def _note(self, line: str) -> None:
        self.trace.append(line)

    def _now(self) -> int:
        return self._now_us

    def __str__(self) -> str:
        queued = [f"{a} -> {b}: {len(queue)} messages" for (a, b), queue in self._links.items() if queue]
        partitions = [f"partition {i}: {p}" for i, p in enumerate(self.coordinator.partitions)]
        left = [line for name, runner in self.runners.items() for line in _left_in(name, runner)]
        unfinished = [f"{n} has not finished" for n, m in self.coordinator.members.items() if not m.finished]
        return "\n".join(
            [f"coordinator: {self.coordinator.state}", *unfinished, *partitions, *queued, *left, "last:", *self.trace]
        )


def _left_in(name: str, runner: Runner) -> Iterator[str]:
    """Everything that a process still holds."""
    for (exchange, _, receiver), credit in runner._credits.items():
        if credit.in_flight_bytes:
            yield f"{name}: {credit.in_flight_bytes} bytes in flight to {receiver} by exchange {exchange}"
    for exchange, inbox in runner._inboxes.items():
        early = {origin: sorted(turn.early) for origin, turn in inbox.inputs.items() if turn.early}
        if inbox.ready or early or inbox.held_bytes:
            waits = {origin: turn.next for origin, turn in inbox.inputs.items() if turn.early}
            yield f"{name}: exchange {exchange} holds {len(inbox.ready)} ready, early {early} (waiting for {waits}), {inbox.held_bytes} bytes"
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
        return f"exchange {message.exchange} {message.origin} #{message.sequence}{'+' if message.more else ''} {rows}, {message.watermark_us}, {message.status.name}"
    return str(message)
