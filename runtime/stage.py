"""Running one stage: batches through its operators, and what leaves it through its exchanges.

A stage's work on one input message is a generator of emissions: messages to send, pauses, reports of
event times. Whoever drives it takes the next emission only when the one before has been sent, so
backpressure reaches into the middle of an operator's output without a queue.

There are two kinds. A `BlockStage` is stateless and tied to source partitions: everything that comes of
block n leaves under number n, so that receivers can restore the order of the source wherever the block
was worked on. A `KeyedStage` has state and a watermark, the minimum over its inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from millstream.batch import Batch
from millstream.channel import StageInputs
from millstream.checkpoints.tables import StateTable
from millstream.connectors.base import Block, Prepared
from millstream.errors import InternalError
from millstream.gathering import gathered
from millstream.operators.base import Operator
from millstream.operators.decode import Decode
from millstream.operators.event_time import EventTime
from millstream.operators.sinks import WriteSink
from millstream.partition import KeyPartitioner
from millstream.plan import Exchange, ExchangeKind, Port, Stage
from millstream.specs.base import MAIN
from millstream.times import MAX_US, MIN_US
from millstream.watermarks import InputStatus
from millstream.wire import BARRIER_MARK, NO_MORE_BLOCKS, ClockReading, Data, TimeReport


class Outgoing(NamedTuple):
    receiver: str
    data: Data


class StageSnapshot(NamedTuple):
    """What a stage held when the barrier of an epoch had passed everything before it.

    Attributes:
        tables: by node, the state of its operator; written while the stage goes on.
        sinks: by node, what its writer said.
    """

    stage: int
    epoch: int
    tables: dict[int, list[StateTable]]
    sinks: dict[int, Prepared]


Emission = Outgoing | TimeReport | StageSnapshot | None
"""What a stage's generator yields; None is a pause."""

Splitter = Callable[[Batch], list[tuple[str, Batch]]]


class ExchangeOutput:
    """The sending side of one exchange at one stage: numbers, and the last message of each number.

    A batch is held back until the next one or the end of its number, so that the end needs no message
    of its own.
    """

    def __init__(
        self,
        exchange: Exchange,
        stage: int,
        me: str,
        receivers: Sequence[str],
        split: Splitter,
        choose: Callable[[], str] | None,
    ) -> None:
        self.exchange = exchange
        self.stage = stage
        self.me = me
        self.receivers = receivers
        self._split = split
        self._choose = choose
        self._chosen: str | None = None
        self._held: dict[str, Batch] = {}

    def add(self, batch: Batch, partition: int, sequence: int) -> Iterator[Emission]:
        if self._choose is not None:
            self._chosen = self._chosen or self._choose()
            parts = [(self._chosen, part) for _, part in self._split(batch)]
        else:
            parts = self._split(batch)
        for receiver, part in parts:
            before = self._held.get(receiver)
            self._held[receiver] = part
            if before is not None:
                yield Outgoing(receiver, self._message(partition, sequence, True, MIN_US, InputStatus.ACTIVE, before))

    def finish(
        self, partition: int, sequence: int, watermark_us: int, status: InputStatus, barrier: int = 0
    ) -> Iterator[Emission]:
        """End a number: everyone gets it, with what was held back or empty; and the barrier of an epoch, if one is due."""
        receivers = self.receivers
        if self._choose is not None:
            receivers = (self._chosen or self._choose(),)
            self._chosen = None
        for receiver in receivers:
            held = self._held.pop(receiver, None)
            yield Outgoing(receiver, self._message(partition, sequence, False, watermark_us, status, held, barrier))

    def no_more_blocks(self) -> Iterator[Emission]:
        for receiver in self.receivers:
            yield Outgoing(receiver, self._message(NO_MORE_BLOCKS, 0, False, MAX_US, InputStatus.ENDED, None))

    def mark_barrier(self, epoch: int) -> Iterator[Emission]:
        for receiver in self.receivers:
            yield Outgoing(receiver, self._message(BARRIER_MARK, 0, False, MIN_US, InputStatus.ACTIVE, None, epoch))

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def _message(
        self, partition: int, sequence: int, more: bool, watermark_us: int, status: InputStatus, payload: Batch | None,
        barrier: int = 0,
    ) -> Data:  # fmt: skip
        origin = (self.stage, partition)
        return Data(self.exchange.id, self.me, origin, sequence, more, watermark_us, status, payload, barrier)


def splitter(
    exchange: Exchange,
    receivers: Sequence[str],
    partitioner: KeyPartitioner | None,
    choose: Callable[[], str],
) -> Splitter:
    if exchange.kind is ExchangeKind.KEY:
        assert partitioner is not None
        return lambda batch: [(receivers[i], part) for i, part in partitioner.split(batch)]
    fields = exchange.fields

    def whole(batch: Batch) -> list[tuple[str, Batch]]:
        if fields is not None:
            batch = batch.with_columns(batch.columns.select([f for f in batch.columns.schema.names if f in fields]))
        if batch.num_rows == 0:
            return []
        if exchange.kind is ExchangeKind.BROADCAST:
            return [(receiver, batch) for receiver in receivers]
        return [(choose() if exchange.kind is ExchangeKind.SPREAD else receivers[0], batch)]

    return whole


class StageRun(ABC):
    """One stage in one process.

    Args:
        operators: by node, in an order in which inputs come first.
        edges: for each port of a node, the nodes of this stage that read it, with their input number.
        outputs: for each port of a node, the exchanges that it feeds.
    """

    def __init__(
        self,
        stage: Stage,
        operators: Mapping[int, Operator],
        edges: Mapping[Port, Sequence[tuple[int, int]]],
        outputs: Mapping[Port, Sequence[ExchangeOutput]],
    ) -> None:
        self.stage = stage
        self.operators = operators
        self.edges = edges
        self.outputs = outputs
        self.ended = False
        seen = {id(o): o for group in outputs.values() for o in group}
        self.exchange_outputs = list(seen.values())

    @abstractmethod
    def _number(self, output: ExchangeOutput) -> tuple[int, int]:
        """The (partition, sequence) under which rows leave now."""

    def _push(self, node: int, port: int, batch: Batch) -> Iterator[Emission]:
        operator = self.operators[node]
        operator.context.counters.rows_in += batch.num_rows
        yield from self._pass_on(node, operator, operator.on_batch(batch, port))

    def _pass_on(
        self, node: int, operator: Operator, produced: Iterable[tuple[str, Batch] | None]
    ) -> Iterator[Emission]:
        for output in produced:
            if output is None:
                yield None
                continue
            name, batch = output
            operator.context.counters.rows_out += batch.num_rows if name == MAIN else 0
            yield from self._emit(Port(node, name), batch)

    def _emit(self, port: Port, batch: Batch) -> Iterator[Emission]:
        for node, number in self.edges.get(port, ()):
            yield from self._push(node, number, batch)
        for output in self.outputs.get(port, ()):
            yield from output.add(batch, *self._number(output))

    def snapshot(self, epoch: int, *, last: bool = False) -> StageSnapshot:
        """What the stage holds now, between two messages.

        Args:
            last: the run has ended; sinks say what makes their output whole.
        """
        return StageSnapshot(
            self.stage.id, epoch,
            {node: tables for node, operator in self.operators.items() if (tables := operator.snapshot())},
            {n: o.prepare(epoch, last=last) for n, o in self.operators.items() if isinstance(o, WriteSink)},
        )  # fmt: skip

    def on_abort(self) -> None:
        for operator in self.operators.values():
            operator.on_abort()


class _Timed(NamedTuple):
    """Rows with event times, and the largest of these, which is asked for several times."""

    batch: Batch
    largest_us: int

    @classmethod
    def of(cls, batch: Batch) -> _Timed:
        times_us = batch.time_us
        return cls(batch, MIN_US if times_us is None or not len(times_us) else int(times_us.max()))


@dataclass(slots=True)
class _Unit:
    """A block whose event times are known here, waiting for what the coordinator's clock says of it."""

    partition: int
    sequence: int
    timed: dict[int, list[_Timed]]
    readings: dict[int, ClockReading] = field(default_factory=dict)
    credit: list[Data] = field(default_factory=list)
    barrier: int = 0

    @property
    def ready(self) -> bool:
        return len(self.readings) == len(self.timed)


class BlockStage(StageRun):
    """Stateless operators on the blocks of source partitions.

    Where event time is assigned the work on a block is in two halves: up to ``event_time()``, whose
    largest time goes to the coordinator; and behind it, once the partition's clock before the block is
    known. The first half of the next block need not wait for the second half of this one.

    Args:
        worker: this process's name, to which clock readings come back.
        partitions_of: for each exchange, the source partitions whose numbers it carries.
        clocks_of: for each ``event_time()``, the source partitions whose events reach it.
        timed_exchanges: the exchanges behind an ``event_time()`` of this stage.
        deals: how many deal exchanges lead here; each says when no more blocks will come.
    """

    WAITING_LIMIT = 4

    def __init__(
        self,
        stage: Stage,
        operators: Mapping[int, Operator],
        edges: Mapping[Port, Sequence[tuple[int, int]]],
        outputs: Mapping[Port, Sequence[ExchangeOutput]],
        *,
        worker: str,
        partitions_of: Mapping[int, frozenset[int]],
        clocks_of: Mapping[int, frozenset[int]],
        timed_exchanges: frozenset[int],
        deals: int,
    ) -> None:
        super().__init__(stage, operators, edges, outputs)
        self.worker = worker
        self._partitions_of = partitions_of
        self._clocks_of = clocks_of
        self._timed_exchanges = timed_exchanges
        self._timed_nodes = _behind_event_time(operators, edges)
        self._deals_open = deals
        self._marked = 0
        self._units_open = 0
        self._timed: dict[int, list[_Timed]] = {}
        self._current = (0, 0)
        self._second = (0, 0)
        self._in_second_half = False
        self._credit: list[Data] = []
        self.waiting: list[_Unit] = []
        self.finished: list[Data] = []
        """Input messages that are done with: whoever drives the stage returns their credit."""

    # --- first half ---

    def on_data(self, data: Data, targets: Sequence[tuple[int, int]]) -> Iterator[Emission]:
        """Work on a block, or take note that no more will come."""
        partition = data.origin[1]
        if partition == NO_MORE_BLOCKS:
            self._deals_open -= 1
            if self._deals_open == 0:
                yield from self._end()
            return
        if partition == BARRIER_MARK:
            self._marked += 1
            if self._marked == self._deals_open:
                self._marked = 0
                yield from self._pass_barrier(data.barrier)
            return
        self._current = (partition, data.sequence)
        self._in_second_half = False
        payload = data.payload
        if payload is not None:
            for node, port in targets:
                # A block belongs to one source; a batch that was dealt on goes to whoever reads its port.
                if isinstance(payload, Block):
                    yield from self._decode(node, payload, partition, data.sequence)
                else:
                    yield from self._switched(self._push(node, port, payload), second=False)
        if data.more:
            # Its credit returns at once: the sender may need it for the rest of this very block.
            self.finished.append(data)
            return
        self._credit.append(data)
        credit, self._credit = self._credit, []
        yield from self._end_block(second=False)
        yield from self._finish(partition, data.sequence, data.watermark_us, data.status, data.barrier, timed=False)
        clocks = [n for n, reach in self._clocks_of.items() if partition in reach]
        if not clocks:
            self.finished += credit
            return
        timed, self._timed = {n: self._timed.get(n, []) for n in clocks}, {}
        self._units_open += 1
        self.waiting.append(_Unit(partition, data.sequence, timed, credit=credit, barrier=data.barrier))
        for node in clocks:
            yield TimeReport(node, self.worker, partition, data.sequence, _largest(timed[node]), False)

    def _decode(self, node: int, block: Block, partition: int, sequence: int) -> Iterator[Emission]:
        operator = self.operators[node]
        if not isinstance(operator, Decode):
            raise InternalError(f"stage {self.stage.id}: a block for {operator.context.name}, which does not decode")
        yield from self._switched(
            self._pass_on(node, operator, operator.on_block(block, partition, sequence)), second=False
        )

    def _push(self, node: int, port: int, batch: Batch) -> Iterator[Emission]:
        operator = self.operators[node]
        if not isinstance(operator, EventTime):
            yield from super()._push(node, port, batch)
            return
        operator.context.counters.rows_in += batch.num_rows
        for output in operator.on_batch(batch, port):
            if output is None:
                yield None
            elif output[1].num_rows:
                operator.context.counters.rows_out += output[1].num_rows
                self._timed.setdefault(node, []).append(_Timed.of(output[1]))

    # --- second half ---

    def on_reading(self, reading: ClockReading) -> TimeReport | None:
        """Take what the clock says of a block; returns a report where it asks for one without far-ahead rows."""
        block = (reading.partition, reading.sequence)
        unit = next((u for u in self.waiting if (u.partition, u.sequence) == block), None)
        if unit is None:
            raise InternalError(
                f"stage {self.stage.id}: a clock reading for block {reading.sequence} of partition "
                f"{reading.partition}, which is not here"
            )
        if not reading.resolve:
            unit.readings[reading.node] = reading
            return None
        operator = self._clock_operator(reading.node)
        kept: list[_Timed] = []
        largest_us = reading.before_us
        for timed in unit.timed[reading.node]:
            batch = operator.without_far_ahead(timed.batch, largest_us)
            kept.append(timed if batch is timed.batch else _Timed.of(batch))
            largest_us = max(largest_us, kept[-1].largest_us)
        unit.timed[reading.node] = kept
        return TimeReport(reading.node, self.worker, reading.partition, reading.sequence, _largest(kept), True)

    def next_ready(self) -> Iterator[Emission] | None:
        """The second half of the block that is next in line, if its readings are here."""
        if not self.waiting or not self.waiting[0].ready:
            return None
        return self._second_half(self.waiting.pop(0))

    def _second_half(self, unit: _Unit) -> Iterator[Emission]:
        self._second = (unit.partition, unit.sequence)
        for node, parts in unit.timed.items():
            reading = unit.readings[node]
            operator = self._clock_operator(node)
            largest_us = reading.before_us
            for batch, batch_us in parts:
                stamped = operator.with_watermarks(batch, largest_us, reading.floor_us)
                largest_us = max(largest_us, batch_us)
                yield from self._switched(self._emit(Port(node), stamped), second=True)
        yield from self._end_block(second=True)
        watermark_us = min(r.watermark_us for r in unit.readings.values())
        status = min(r.status for r in unit.readings.values())
        yield from self._finish(unit.partition, unit.sequence, watermark_us, status, unit.barrier, timed=True)
        self.finished += unit.credit
        self._units_open -= 1

    def _end_block(self, *, second: bool) -> Iterator[Emission]:
        for node, operator in self.operators.items():
            if (node in self._timed_nodes) == second:
                yield from self._switched(self._pass_on(node, operator, operator.on_block_end()), second=second)

    @property
    def between_blocks(self) -> bool:
        """Whether no block is half done."""
        return self._units_open == 0

    def _switched(self, work: Iterator[Emission], *, second: bool) -> Iterator[Emission]:
        """Both halves may be under way at once, each with its own number: set it before every step."""
        while True:
            self._in_second_half = second
            try:
                emission = next(work)
            except StopIteration:
                return
            yield emission

    def _number(self, output: ExchangeOutput) -> tuple[int, int]:
        return self._second if self._in_second_half else self._current

    def _finish(
        self, partition: int, sequence: int, watermark_us: int, status: InputStatus, barrier: int, *, timed: bool
    ) -> Iterator[Emission]:
        for output in self.exchange_outputs:
            number = output.exchange.id
            if (number in self._timed_exchanges) == timed and partition in self._partitions_of[number]:
                yield from output.finish(partition, sequence, watermark_us, status, barrier)

    def _pass_barrier(self, epoch: int) -> Iterator[Emission]:
        """All blocks of an epoch were worked on. The barrier itself travels with the numbers of each partition."""
        yield self.snapshot(epoch)
        for output in self.exchange_outputs:
            if output.exchange.kind is ExchangeKind.DEAL:
                yield from output.mark_barrier(epoch)

    def _end(self) -> Iterator[Emission]:
        for node, operator in self.operators.items():
            yield from self._pass_on(node, operator, operator.on_end())
        for output in self.exchange_outputs:
            if output.exchange.kind is ExchangeKind.DEAL:
                yield from output.no_more_blocks()
        self.ended = True

    def _clock_operator(self, node: int) -> EventTime:
        operator = self.operators[node]
        assert isinstance(operator, EventTime)
        return operator


class KeyedStage(StageRun):
    """Operators with state; also the stage of a gathered sink.

    Args:
        inputs: all of the stage's inputs, announced.
        worker_index: the partition under which this process's output goes on.
    """

    def __init__(
        self,
        stage: Stage,
        operators: Mapping[int, Operator],
        edges: Mapping[Port, Sequence[tuple[int, int]]],
        outputs: Mapping[Port, Sequence[ExchangeOutput]],
        *,
        inputs: StageInputs,
        worker_index: int,
    ) -> None:
        super().__init__(stage, operators, edges, outputs)
        self.inputs = inputs
        self.worker_index = worker_index
        self._sequence = 0
        self._told = (MIN_US, InputStatus.ACTIVE)

    @property
    def watermark_us(self) -> int:
        return self.inputs.watermarks.watermark_us

    def on_data(self, messages: Sequence[Data], targets: Sequence[tuple[int, int]]) -> Iterator[Emission]:
        """Take messages of one exchange together: all their rows, then how far they say that their inputs have come.

        For rows this is as if the watermarks between them had come later. At most the last message has a barrier.
        """
        for batch in gathered(m.payload for m in messages if isinstance(m.payload, Batch)):
            for node, port in targets:
                yield from self._push(node, port, batch)
        finished = [m for m in messages if not m.more]
        if not finished:
            return
        rose = [self.inputs.update(m) for m in finished]  # of every one of them
        if any(rose):
            if self.watermark_us == MAX_US:
                # First as far as any input had come: what happens on the way there, one timer setting another, say,
                # must not depend on how far this stage had come when the last input ended.
                highest_us = self.inputs.watermarks.highest_us
                yield from self._advance(highest_us)
                yield from self._tell(self._passed_on_us(highest_us), InputStatus.ACTIVE)
            yield from self._advance(self.watermark_us)
        yield from self._conclude()
        if self.inputs.aligned:
            yield from self._pass_barrier(self.inputs.pass_barrier())

    def on_clock(self, now_us: int) -> Iterator[Emission]:
        for node, operator in self.operators.items():
            due_us = operator.due_us()
            if due_us is not None and due_us <= now_us:
                yield from self._pass_on(node, operator, operator.on_clock(now_us))
        yield from self._conclude()

    def due_us(self) -> int | None:
        return min((d for o in self.operators.values() if (d := o.due_us()) is not None), default=None)

    def _advance(self, watermark_us: int) -> Iterator[Emission]:
        # In the order of the stage: what an operator puts out reaches those behind it before the watermark does.
        for node, operator in self.operators.items():
            yield from self._pass_on(node, operator, operator.on_watermark(watermark_us))

    def _conclude(self) -> Iterator[Emission]:
        """End a number on every output that has something to tell."""
        status = self.inputs.status
        if status is InputStatus.ENDED and not self.ended:
            for node, operator in self.operators.items():
                yield from self._pass_on(node, operator, operator.on_end())
            self.ended = True
        yield from self._tell(self._passed_on_us(self.watermark_us), status)

    def _tell(self, watermark_us: int, status: InputStatus) -> Iterator[Emission]:
        told = (watermark_us, status)
        if told != self._told or any(o.holds for o in self.exchange_outputs):
            for output in self.exchange_outputs:
                yield from output.finish(self.worker_index, self._sequence, *told)
            self._sequence += 1
            self._told = told

    def _pass_barrier(self, epoch: int) -> Iterator[Emission]:
        yield self.snapshot(epoch)
        for output in self.exchange_outputs:
            yield from output.finish(self.worker_index, self._sequence, *self._told, epoch)
        self._sequence += 1

    def _passed_on_us(self, watermark_us: int) -> int:
        """The watermark that those behind may learn when this stage has reached one."""
        if watermark_us == MAX_US:
            return MAX_US
        return min((o.passes_on_us(watermark_us) for o in self.operators.values()), default=watermark_us)

    def _number(self, output: ExchangeOutput) -> tuple[int, int]:
        return self.worker_index, self._sequence


def _behind_event_time(operators: Mapping[int, Operator], edges: Mapping[Port, Sequence[tuple[int, int]]]) -> set[int]:
    """The nodes of a block stage that work in the second half: those that an ``event_time()`` of it leads to."""
    behind: set[int] = set()
    for port, readers in sorted(edges.items(), key=lambda edge: edge[0].node):
        if port.node in behind or isinstance(operators[port.node], EventTime):
            behind.update(node for node, _ in readers)
    return behind


def _largest(parts: Iterable[_Timed]) -> int:
    return max((part.largest_us for part in parts), default=MIN_US)
