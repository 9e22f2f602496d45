"""The stages of one process: which of them works next, what may be sent, and which credit returns.

A pure state machine: messages go in by `receive`, work is done in slices by `work`, messages to other
processes come out of `outbox`. It owns no socket, thread or clock. The coordinator, every worker and the
calling process each run one, with the stages that the plan puts there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from millstream.binding import FirstRows
from millstream.block_stage import BlockStage
from millstream.breaker import Breaker
from millstream.channel import RECEIVER_BUDGET, Budget, Inbox, OnwardShare, SendCredit, StageInputs
from millstream.checkpoints.recovery import Held, Recovery, check_fits
from millstream.checkpoints.tables import StateTable
from millstream.errors import FlowError, WireError
from millstream.keyed_stage import KeyedStage
from millstream.meters import KeySketch, add_counts, last_rows
from millstream.operators.base import Context, DeadLetter, Operator, Passed, Wait
from millstream.operators.build import make_operator
from millstream.operators.decode import Decode
from millstream.operators.grouped import GroupRows
from millstream.operators.sinks import WriteSink
from millstream.partition import KeyPartitioner
from millstream.plan import Exchange, ExchangeKind, PhysicalPlan, Port, Stage, StageKind
from millstream.queries import Question, answer_of
from millstream.sending import ExchangeOutput, Outgoing, Splitter, splitter
from millstream.specs.base import DEAD_LETTERS
from millstream.stage import Emission, StageRun, StageSnapshot, Wiring
from millstream.topology import COORDINATOR, SOURCE_STAGE, Topology
from millstream.wire import BARRIER_MARK, NO_MORE_BLOCKS, ClockReading, Credit, Data, Message, Query, TimeReport

LOOK_US: Final = 5_000_000
"""For how long the rows of an operator are told when somebody has looked at them."""


@dataclass(slots=True)
class _Lane:
    """One line of work on a stage: at most one generator under way, at most one message blocked.

    A `BlockStage` has two (its halves), a `KeyedStage` one.

    Attributes:
        messages: what a `KeyedStage` is working on; their credit returns when it is done.
        blocked_us: since when a message has waited for credit.
        wait_us: until when an operator waits before it tries something again; 0: none does.
    """

    stage: StageRun
    second: bool
    work: Iterator[Emission] | None = None
    messages: Sequence[Data] = ()
    blocked: Outgoing | None = None
    blocked_us: int = 0
    wait_us: int = 0


class Runner:
    """The stages of process ``me``.

    Args:
        now_us: the processing-time clock.
        dead_letter: takes records that cannot be processed.
        budget: what a receiver takes in flight for each exchange.
        checkpoints: whether the run makes checkpoints.

    Attributes:
        outbox: messages to other processes, with their names.
        snapshots: what stages held when a barrier passed them.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        me: str,
        *,
        now_us: Callable[[], int],
        dead_letter: Callable[[DeadLetter], None],
        budget: Budget = RECEIVER_BUDGET,
        checkpoints: bool = False,
    ) -> None:
        self.plan = plan
        self.me = me
        self._checkpoints = checkpoints
        self.topology = Topology(plan)
        self.outbox: deque[tuple[str, Message]] = deque()
        self.snapshots: deque[StageSnapshot] = deque()
        self._now_us = now_us
        self._dead_letter = dead_letter
        self._budget = replace(budget, operators=len(plan.nodes))
        self._credits: dict[tuple[int, int, str], SendCredit] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._targets: dict[int, tuple[tuple[int, int], ...]] = {}
        self._senders: dict[int, int] = {}
        """By exchange that ends here, how many share what its inbox has room for."""
        self._dealt_on: list[tuple[int, int]] = []
        self._onward = OnwardShare()
        self._block_stages: dict[int, BlockStage] = {}
        self.stages: dict[int, StageRun] = {}
        self._partitioners: dict[int, KeyPartitioner] = {}
        self._waited_us: dict[str, int] = {}
        self._look_until_us = 0
        self._first_rows = None if plan.undeclared is None else FirstRows(plan.undeclared)
        self._lanes: list[_Lane] = []
        self._passed: dict[int, int] = {}
        self._announced = 0
        self.closing_epoch: int | None = None
        """Of the checkpoint behind whose barrier nothing is done; None: there is none."""
        self.index = self.topology.index_of(me)
        for stage in plan.stages:
            if me in self.topology.processes_of(stage):
                self._add_stage(stage)
        # Later stages first: what is nearest to a sink frees the most.
        self._lanes.reverse()

    # --- setting up ---

    def _add_stage(self, stage: Stage) -> None:
        wanted = self.topology.wanted_ports(stage)
        passed = Passed()
        operators = {n: self._operator(n, wanted.get(n, frozenset()), passed) for n in stage.nodes}
        outputs: dict[Port, list[ExchangeOutput]] = {}
        for exchange in self.plan.exchanges:
            ports = [port for upstream, port in exchange.outputs if upstream == stage.id]
            if ports:
                output = self._output(exchange, stage, operators[ports[0].node].context)
                for port in ports:
                    outputs.setdefault(port, []).append(output)
        wiring = Wiring(stage, operators, self.topology.edges_within(stage), outputs, self._first_rows)
        # Blocks are worked on in the order they were dealt, whatever their source. Where they were taken by
        # exchange, each worker could fill up with blocks that wait for one at the end of another's queue.
        dealt = Inbox(in_order=False, budget=self._budget)
        dealing = [e for e in self.plan.exchanges_into(stage.id) if e.kind is ExchangeKind.DEAL]
        for exchange in self.plan.exchanges_into(stage.id):
            ordered = Inbox(in_order=True, budget=self._budget)
            self._inboxes[exchange.id] = dealt if exchange.kind is ExchangeKind.DEAL else ordered
            self._targets[exchange.id] = exchange.targets
            sharing = len(dealing) if exchange.kind is ExchangeKind.DEAL else 1
            self._senders[exchange.id] = self.topology.sender_count(exchange) * sharing
        run: StageRun
        if stage.kind is StageKind.BLOCKS:
            run = self._block_stages[stage.id] = BlockStage(
                wiring,
                worker=self.me,
                partitions_of=self.topology.partitions_of_outputs(stage),
                clocks_of=self.topology.clocks_of(stage),
                timed_exchanges=self.topology.timed_exchanges(stage),
                deals=len(self.plan.exchanges_into(stage.id)),
                takers={
                    self.plan.nodes[node].name: output
                    for output in {id(o): o for group in outputs.values() for o in group}.values()
                    if (node := self.topology.taker_of(output.exchange)) is not None
                },
            )
            # Times first: until the coordinator knows those of a block, no other worker goes on behind it.
            self._lanes += [_Lane(run, second=True), _Lane(run, second=False)]
        else:
            inputs = StageInputs()
            for exchange in self.plan.exchanges_into(stage.id):
                for origin in self.topology.origins_of(exchange):
                    inputs.add(exchange.id, origin)
            run = KeyedStage(wiring, inputs=inputs, worker_index=self.index)
            self._lanes.append(_Lane(run, second=False))
        self.stages[stage.id] = run

    def _operator(self, node: int, wanted: frozenset[str], passed: Passed) -> Operator:
        """
        Raises:
            FlowError: it has state that checkpoints would lose.
        """
        described = self.plan.nodes[node]
        context = Context(
            described.title, self.index, self.plan.workers, self._now_us, self._dead_letter, wanted, self._checkpoints,
            passed=passed,
            breaker=None if self.plan.most_errors is None else Breaker(described.title, self.plan.most_errors),
            letters=[] if DEAD_LETTERS in wanted else None,
        )  # fmt: skip
        operator = make_operator(self.plan, node, context)
        has_state = described.spec.keyed or described.spec.holds_rows
        if self._checkpoints and has_state and type(operator).snapshot is Operator.snapshot:
            raise FlowError(
                f"{described.title}: its state cannot be put into checkpoints yet, so a recovery would lose it; "
                "run the flow with --checkpoint-interval off"
            )
        return operator

    def _output(self, exchange: Exchange, stage: Stage, before: Context) -> ExchangeOutput:
        """
        Args:
            before: of the operator whose rows leave: those that have no key count as its dead letters.
        """
        receivers = self.topology.receivers_of(exchange)
        for receiver in receivers:
            self._credit(exchange.id, stage.id, receiver)
        if exchange.kind is ExchangeKind.DEAL:
            self._dealt_on.append((exchange.id, stage.id))
        partitioner = None
        if exchange.kind is ExchangeKind.KEY:
            context = replace(before, name=exchange.keys_where)
            partitioner = KeyPartitioner(exchange.keys, exchange.fields, len(receivers), context, exchange.keyed)
            self._partitioners[exchange.id] = partitioner
        split = splitter(exchange, receivers, partitioner, lambda: self.roomiest(exchange.id, stage.id))
        choose = (lambda: self.roomiest(exchange.id, stage.id)) if exchange.kind is ExchangeKind.DEAL else None
        again = None if partitioner is None else _again(receivers, partitioner)
        return ExchangeOutput(exchange, stage.id, self.me, receivers, split, choose, again)

    def _credit(self, exchange: int, stage: int, receiver: str) -> SendCredit:
        key = (exchange, stage, receiver)
        if key not in self._credits:
            senders = self.topology.sender_count(self.plan.exchange(exchange))
            self._credits[key] = SendCredit.first(self._budget, senders)
        return self._credits[key]

    def restore(self, recovery: Recovery) -> None:
        """Go on from a checkpoint; called before anything else.

        Raises:
            CheckpointError: a part of it is damaged, or does not fit the flow.
        """
        check_fits(self.plan, recovery.manifest)
        self._announced = recovery.manifest.epoch
        sequences: dict[int, int] = {}
        for number, (node, name) in enumerate(self.plan.partitions):
            partition = recovery.partition(self.plan.nodes[node].name, name)
            sequences[number] = 0 if partition is None else partition.sequence
        for stage in self.stages.values():
            first = self.me == self.topology.processes_of(stage.stage)[0]
            for node, operator in stage.operators.items():
                name = self.plan.nodes[node].name
                operator.context.passed.epoch = recovery.manifest.epoch
                if first:
                    operator.context.counters.add(recovery.manifest.counters.get(name, {}))
                    operator.context.begin_counting()
                if isinstance(operator, Decode):
                    operator.first_sequences = sequences
                elif isinstance(operator, WriteSink):
                    states = recovery.sink_states(name)
                    if states is not None:
                        operator.resume(states)
                else:
                    tables = recovery.tables(
                        name, self.index, self.plan.workers,
                        in_groups=operator.keeps_to_groups, as_written=operator.restored_as_written,
                    )  # fmt: skip
                    operator.restore(tables)

    def hand_over(self) -> Held:
        """What operators hold at a closing checkpoint, for this worker beside others; called last of all."""
        tables: dict[str, Sequence[StateTable]] = {}
        for stage in self.stages.values():
            for node, operator in stage.operators.items():
                held = operator.hand_over()
                if held is not None:
                    tables[self._name(node)] = held
        return Held(self.index, self.plan.workers, tables)

    # --- messages ---

    def receive(self, message: Data | Credit | ClockReading) -> None:
        if isinstance(message, Data):
            inbox = self._inboxes.get(message.exchange)
            if inbox is None:
                raise WireError(f"{self.me}: a message for exchange {message.exchange}, which does not end here")
            inbox.put(message, self._now_us())
        elif isinstance(message, Credit):
            self._credit(message.exchange, message.stage, message.receiver).returned(
                message.grant_bytes, message.window_bytes
            )
        else:
            stage = self.plan.stage_of_clock(message.node)
            report = self._block_stages[stage].on_reading(message)
            if report is not None:
                self._report(report)

    def announce(self, epoch: int, *, closing: bool) -> None:
        """A checkpoint is under way; where it is closing, no stage does anything behind its barrier."""
        self._announced = epoch
        self.closing_epoch = epoch if closing else None

    def go_on(self) -> None:
        """The closing checkpoint was given up: stages that stopped behind its barrier go on."""
        self.closing_epoch = None

    def send(self, outgoing: Outgoing) -> None:
        """Send a message for which there is credit."""
        data = outgoing.data
        if data.size_bytes:
            self._credit(data.exchange, data.origin[0], outgoing.receiver).sent(data.size_bytes)
            if (data.exchange, data.origin[0]) in self._dealt_on:
                self._onward.sent(data.size_bytes)
        if outgoing.receiver == self.me:
            self.receive(data)
        else:
            self.outbox.append((outgoing.receiver, data))

    def allows(self, outgoing: Outgoing) -> bool:
        data = outgoing.data
        return self._credit(data.exchange, data.origin[0], outgoing.receiver).allows(data.size_bytes)

    def roomiest(self, exchange: int, stage: int = SOURCE_STAGE) -> str:
        """The receiver of a deal exchange with the least in flight: the one whose earlier blocks move on."""
        receivers = self.topology.receivers_of(self.plan.exchange(exchange))
        return min(receivers, key=lambda r: self._credit(exchange, stage, r).in_flight_bytes)

    def read_bytes(self, exchange: int, most_bytes: int) -> int:
        """How much of a source may be read now; 0: nobody has room.

        To itself a process gives a block at a time, and none that is too large for those to whom it is dealt on.
        """
        receiver = self.roomiest(exchange)
        credit = self._credit(exchange, SOURCE_STAGE, receiver)
        size_bytes = credit.message_bytes(most_bytes)
        if receiver != self.me:
            return size_bytes if credit.allows(size_bytes) else 0
        if credit.in_flight_bytes:
            return 0
        for onward, stage in self._dealt_on:
            onward_bytes = self._credit(onward, stage, self.roomiest(onward, stage)).message_bytes(most_bytes)
            size_bytes = min(size_bytes, self._onward.block_bytes(onward_bytes))
        return size_bytes

    # --- work ---

    def work(self, steps: int) -> bool:
        """Take up to so many steps. Returns whether there may be more to do without any new message."""
        return all(self._step() for _ in range(steps))

    def _step(self) -> bool:
        # With nothing else to do, what waited for more to work on together does not wait any longer.
        return any(self._advance(lane, idle=False) for lane in self._lanes) or any(
            self._advance(lane, idle=True) for lane in self._lanes
        )

    def _advance(self, lane: _Lane, *, idle: bool) -> bool:
        if lane.blocked is not None:
            if not self.allows(lane.blocked):
                return False
            outgoing, lane.blocked = lane.blocked, None
            add_counts(self._waited_us, self._waiting(lane.stage.stage, outgoing, self._now_us() - lane.blocked_us))
            self.send(outgoing)
            return True
        if lane.wait_us:
            if lane.wait_us > self._now_us():
                return False
            lane.wait_us = 0
        if lane.work is None:
            self._start(lane, idle)
            if lane.work is None:
                return False
        try:
            emission = next(lane.work)
        except StopIteration:
            self._done(lane)
            return True
        if isinstance(emission, Outgoing):
            if self.allows(emission):
                self.send(emission)
            else:
                lane.blocked, lane.blocked_us = emission, self._now_us()
        elif isinstance(emission, Wait):
            lane.wait_us = emission.until_us
        elif isinstance(emission, TimeReport):
            self._report(emission)
        elif isinstance(emission, StageSnapshot):
            self.snapshots.append(emission)
            self._passed[emission.stage] = emission.epoch
        return True

    def _start(self, lane: _Lane, idle: bool) -> None:
        stage = lane.stage
        if isinstance(stage, BlockStage):
            self._start_block(lane, stage)
        elif isinstance(stage, KeyedStage):
            self._start_keyed(lane, stage, idle)

    def _start_block(self, lane: _Lane, stage: BlockStage) -> None:
        if lane.second:
            lane.work = stage.next_ready()
            return
        if len(stage.waiting) >= BlockStage.WAITING_LIMIT:
            return
        for exchange in self.plan.exchanges_into(stage.stage.id):
            inbox = self._inboxes[exchange.id]
            if self._must_wait(inbox, stage):
                continue
            message = inbox.take()
            if message is not None:
                lane.work = stage.on_data(message, self._targets[message.exchange])
                return

    def _start_keyed(self, lane: _Lane, stage: KeyedStage, idle: bool) -> None:
        if self._stands_still(stage):
            return
        due_us = stage.due_us()
        if due_us is not None and due_us <= (now_us := self._now_us()):
            lane.work = stage.on_clock(now_us)
            return
        most_bytes = max(1, self._budget.size_bytes // 4)  # senders go on with the rest
        for exchange in self.plan.exchanges_into(stage.stage.id):
            inbox = self._inboxes[exchange.id]
            if not idle and not stage.inputs.epoch and inbox.has_few(most_bytes):
                continue
            lane.messages = inbox.take_together(most_bytes)
            if lane.messages:
                lane.work = stage.on_data(lane.messages, self._targets[lane.messages[0].exchange])
                return

    def _stands_still(self, stage: KeyedStage) -> bool:
        """Whether the stage has passed a closing barrier, or one of which it is not yet known whether it is."""
        passed = self._passed.get(stage.stage.id, 0)
        return passed > self._announced or passed == self.closing_epoch

    def _must_wait(self, inbox: Inbox, stage: BlockStage) -> bool:
        """A message that is about all blocks before it waits until they are through."""
        if stage.between_blocks or not inbox.ready:
            return False
        return inbox.ready[0].origin[1] in (NO_MORE_BLOCKS, BARRIER_MARK)

    def _done(self, lane: _Lane) -> None:
        lane.work = None
        if isinstance(lane.stage, BlockStage):
            finished, lane.stage.finished = lane.stage.finished, []
            for message in finished:
                self._return_credit(message)
        elif lane.messages:
            assert isinstance(lane.stage, KeyedStage)
            for message in lane.messages:
                self._return_credit(message)
            self._align(lane.stage, lane.messages[-1])
        lane.messages = ()

    def _align(self, stage: KeyedStage, message: Data) -> None:
        """Between the first barrier of an epoch and the last, inputs on which it has come wait."""
        if stage.inputs.epoch and message.barrier:
            self._inboxes[message.exchange].hold(message.origin)
        elif not stage.inputs.epoch:
            for exchange in self.plan.exchanges_into(stage.stage.id):
                self._inboxes[exchange.id].release()

    def _return_credit(self, message: Data) -> None:
        if message.size_bytes == 0:
            return
        drain = self._inboxes[message.exchange].drain
        drain.finished(message.size_bytes, self._now_us())
        window_bytes = drain.window_bytes // self._senders[message.exchange]
        credit = Credit(message.exchange, message.origin[0], self.me, message.size_bytes, window_bytes)
        if message.sender == self.me:
            if message.origin[0] == SOURCE_STAGE:
                self._onward.finished(message.size_bytes)
            self.receive(credit)
        else:
            self.outbox.append((message.sender, credit))

    def _report(self, report: TimeReport) -> None:
        self.outbox.append((COORDINATOR, report))

    # --- what there is to know ---

    @property
    def at_work(self) -> str:
        """The operator that works at this moment; "": none does."""
        return next((self._name(s.at_work) for s in self.stages.values() if s.at_work is not None), "")

    def look(self, operator: str) -> None:
        """Tell the last rows of an operator with the figures, for a while."""
        self._look_until_us = self._now_us() + LOOK_US
        for stage in self.stages.values():
            node = next((n for n in stage.operators if self._name(n) == operator), None)
            if stage.looked_at != node:
                stage.looked_at, stage.seen = node, None

    def lookup(self, query: Query) -> tuple[pa.RecordBatch | None, bool]:
        """What an operator holds in this process, and whether there is more than was asked for.

        Raises:
            QueryError: a key does not fit, or the operator keeps nothing that can be asked for.
        """
        keys = None if query.keys is None else tuple(query.keys)
        question = Question(query.operator, keys, query.at_us, query.most)
        operators = [o for s in self.stages.values() for n, o in s.operators.items() if self._name(n) == query.operator]
        return answer_of((batch for o in operators for batch in o.lookup(question)), query.most)

    def _late_events(self) -> dict[str, list[dict[str, Any]]]:
        """By operator, the last events that came too late for it."""
        told: dict[str, list[dict[str, Any]]] = {}
        for stage in self.stages.values():
            for node, operator in stage.operators.items():
                if operator.context.counters.late:
                    told.setdefault(self._name(node), []).extend(operator.context.late_events.told())
        return {name: events for name, events in told.items() if events}

    def _rows_seen(self) -> dict[str, Any]:
        """By operator, its last rows as they are shown; empty where nobody looks."""
        if not self._look_until_us:
            return {}
        if self._now_us() > self._look_until_us:
            self._look_until_us = 0
            for stage in self.stages.values():
                stage.looked_at = stage.seen = None
        seen = ((s.looked_at, s.seen) for s in self.stages.values())
        return {self._name(n): last_rows(b) for n, b in seen if n is not None and b is not None and b.num_rows}

    def due_us(self) -> int | None:
        """When processing time will make something happen here."""
        return min((due_us for lane in self._lanes if (due_us := self._due_us_of(lane)) is not None), default=None)

    def _due_us_of(self, lane: _Lane) -> int | None:
        if lane.wait_us:
            return lane.wait_us
        stage = lane.stage
        return stage.due_us() if isinstance(stage, KeyedStage) and not self._stands_still(stage) else None

    @property
    def finished(self) -> bool:
        """Whether every stage here has ended and all it sent has left."""
        return all(s.ended for s in self.stages.values()) and not any(x.work or x.blocked for x in self._lanes)

    def abort(self) -> None:
        for stage in self.stages.values():
            stage.on_abort()

    def figures(self) -> dict[str, Any]:
        """What there is to show of this process; of times and counts, all since it started."""
        operators: dict[str, dict[str, Any]] = {}
        busy_us: dict[str, int] = {}
        latency: dict[str, dict[int, int]] = {}
        for stage in self.stages.values():
            for node, operator in stage.operators.items():
                name = self._name(node)
                add_counts(operators.setdefault(name, {}), operator.figures())  # it may be in several stages
                add_counts(busy_us, {name: stage.busy_us[node]})
            for node, histogram in stage.latencies.items():
                add_counts(latency.setdefault(self._name(node), {}), histogram.buckets)
        watermarks = {str(i): s.watermark_us for i, s in self.stages.items() if isinstance(s, KeyedStage)}
        return {
            "operators": operators,
            "busy_us": busy_us,
            "waited_us": self._waits(),
            "latency": {name: buckets for name, buckets in latency.items() if buckets},
            "hot_keys": self._hot_keys(),
            "rows_seen": self._rows_seen(),
            "late_events": self._late_events(),
            "watermarks": watermarks,
            "queued_bytes": sum(i.held_bytes for i in {id(i): i for i in self._inboxes.values()}.values()),
            "in_flight_bytes": sum(c.in_flight_bytes for c in self._credits.values()),
            "window_bytes": sum(c.window_bytes for c in self._credits.values()),
            "blocked": any(lane.blocked is not None for lane in self._lanes),
        }

    def _name(self, node: int) -> str:
        return self.plan.nodes[node].name

    def _waits(self) -> dict[str, int]:
        """By operator, for how long what it put out has waited for credit, up to now."""
        waited_us = dict(self._waited_us)
        for lane in self._lanes:
            if lane.blocked is not None:
                add_counts(waited_us, self._waiting(lane.stage.stage, lane.blocked, self._now_us() - lane.blocked_us))
        return waited_us

    def _waiting(self, stage: Stage, outgoing: Outgoing, elapsed_us: int) -> dict[str, int]:
        outputs = self.plan.exchange(outgoing.data.exchange).outputs
        return {self._name(port.node): elapsed_us for upstream, port in outputs if upstream == stage.id}

    def _hot_keys(self) -> dict[str, list[Any]]:
        """By the operator whose events they are, which keys have the most, as far as this process sends them on."""
        sketches: dict[int, KeySketch] = {n: p.sketch for n, p in self._partitioners.items()}
        for stage in self.stages.values():
            for node, operator in stage.operators.items():
                if isinstance(operator, GroupRows):
                    behind = (e.id for e in self.plan.exchanges if any(p.node == node for _, p in e.outputs))
                    sketches.update(dict.fromkeys(behind, operator.sketch))
        return {
            self._name(target): sketch.figures()
            for exchange, sketch in sketches.items()
            if sketch.rows
            for target, _ in self.plan.exchange(exchange).targets
        }


def _again(receivers: Sequence[str], partitioner: KeyPartitioner) -> Splitter:
    return lambda batch: [(receivers[i], part) for i, part in partitioner.split_again(batch)]
