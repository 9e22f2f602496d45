"""A stage without state, tied to source partitions: everything that comes of block n leaves under number n.

So receivers can restore the order of the source wherever the block was worked on. Where event time is assigned,
the work on a block is in two halves, with the answer of the coordinator's clock between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

from millstream.batch import Batch
from millstream.connectors.base import Block
from millstream.deadletters import letters_in, name_of
from millstream.errors import FlowError, InternalError
from millstream.letter_rows import rows_of_letters
from millstream.operators.base import DeadLetter, Wait
from millstream.operators.decode import Decode
from millstream.operators.event_time import EventTime
from millstream.plan import ExchangeKind, Port
from millstream.sending import ExchangeOutput, Number
from millstream.stage import Emission, StageRun, Wiring
from millstream.times import MIN_US, saturating_add
from millstream.watermarks import InputStatus
from millstream.wire import BARRIER_MARK, NO_MORE_BLOCKS, ClockReading, Data, TimeReport


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
    read_us: int = 0
    letters: list[Block] = field(default_factory=list)

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
        takers: by name, operators to which alone an exchange of this stage leads.
    """

    WAITING_LIMIT = 4

    def __init__(
        self,
        wiring: Wiring,
        *,
        worker: str,
        partitions_of: Mapping[int, frozenset[int]],
        clocks_of: Mapping[int, frozenset[int]],
        timed_exchanges: frozenset[int],
        deals: int,
        takers: Mapping[str, ExchangeOutput],
    ) -> None:
        super().__init__(wiring)
        self.worker = worker
        self._partitions_of = partitions_of
        self._clocks_of = clocks_of
        self._timed_exchanges = timed_exchanges
        self._timed_nodes = _behind_event_time(wiring)
        self._letters: list[Block] = []
        self._takers = takers
        self._nodes = {name_of(operator.context.name): node for node, operator in self.operators.items()}
        self._deals_open = deals
        self._marked = 0
        self._units_open = 0
        self._timed: dict[int, list[_Timed]] = {}
        self._current = Number(0, 0)
        self._second = Number(0, 0)
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
        self._current = Number(partition, data.sequence, data.read_us)
        self._in_second_half = False
        payload = data.payload
        if isinstance(payload, Block) and payload.replayed:
            self._letters.append(payload)
            yield from self._switched(self._replay(payload, self._current, second=False), second=False)
        elif payload is not None:
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
        yield from self._finish(self._current, data.watermark_us, data.status, data.barrier, timed=False)
        letters, self._letters = self._letters, []
        clocks = [n for n, reach in self._clocks_of.items() if partition in reach]
        if not clocks:
            self.finished += credit
            return
        timed, self._timed = {n: self._timed.get(n, []) for n in clocks}, {}
        self._units_open += 1
        self.waiting.append(
            _Unit(
                partition, data.sequence, timed, credit=credit, barrier=data.barrier, read_us=data.read_us,
                letters=letters,
            )
        )  # fmt: skip
        for node in clocks:
            yield TimeReport(node, self.worker, partition, data.sequence, _largest(timed[node]), False)

    def _decode(self, node: int, block: Block, partition: int, sequence: int) -> Iterator[Emission]:
        operator = self.operators[node]
        if not isinstance(operator, Decode):
            raise InternalError(f"stage {self.stage.id}: a block for {operator.context.name}, which does not decode")
        yield from self._switched(self._pass_on(node, operator.on_block, block, partition, sequence), second=False)

    def _push(self, node: int, port: int, batch: Batch) -> Iterator[Emission]:
        operator = self.operators[node]
        if not isinstance(operator, EventTime):
            yield from super()._push(node, port, batch)
            return
        operator.context.counters.rows_in += batch.num_rows
        for output in self._outputs_of(node, operator.on_batch, batch, port):
            if output is None or isinstance(output, Wait):
                yield output
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
        number = self._second = Number(unit.partition, unit.sequence, unit.read_us)
        for node, parts in unit.timed.items():
            reading = unit.readings[node]
            operator = self._clock_operator(node)
            largest_us = reading.before_us
            for batch, batch_us in parts:
                started_us = operator.context.now_us()
                stamped = operator.with_watermarks(batch, largest_us, reading.floor_us)
                self.busy_us[node] += operator.context.now_us() - started_us
                largest_us = max(largest_us, batch_us)
                yield from self._switched(self._emit(Port(node), stamped), second=True)
            yield from self._switched(self._letters_of(node), second=True)
        for block in unit.letters:
            stamped_block = replace(block, watermark_us=self._watermark_before(unit))
            yield from self._switched(self._replay(stamped_block, number, second=True), second=True)
        yield from self._end_block(second=True)
        watermark_us = min(r.watermark_us for r in unit.readings.values())
        status = min(r.status for r in unit.readings.values())
        yield from self._finish(number, watermark_us, status, unit.barrier, timed=True)
        self.finished += unit.credit
        self._units_open -= 1

    # --- dead letters that go back to who had refused them ---

    def _replay(self, block: Block, number: Number, *, second: bool) -> Iterator[Emission]:
        """Those that are for this half of the stage, or for the stage behind it."""
        letters = letters_in(bytes(memoryview(block.text())))
        for (name, replayed), group in groupby(letters, key=lambda letter: (name_of(letter.operator), letter.replayed)):
            output = self._takers.get(name)
            if output is not None and (output.exchange.id in self._timed_exchanges) == second:
                for batch in _rows_of(name, [*group], block, second=second):
                    yield from output.add_again(batch, number)
                continue
            node = self._nodes.get(name)
            if node is None or (node in self._timed_nodes) != second:
                continue
            operator = self.operators[node]
            if isinstance(operator, Decode):
                yield from self._pass_on(node, operator.on_letters, [*group], number.partition, number.sequence)
                continue
            operator.context.replayed = replayed + 1
            for batch in _rows_of(name, [*group], block, second=second):
                yield from self._push(node, 0, batch)
            operator.context.replayed = 0
        for output in self.exchange_outputs:
            exchange = output.exchange
            leads_on = exchange.kind is ExchangeKind.DEAL and number.partition in self._partitions_of[exchange.id]
            if leads_on and (exchange.id in self._timed_exchanges) == second:
                yield from output.pass_on(block, number)

    def _watermark_before(self, unit: _Unit) -> int:
        """What the watermark of a block's partition was before it."""
        clocks = [(reading, self._clock_operator(node)) for node, reading in unit.readings.items()]
        return min(max(saturating_add(r.before_us, -clock.spec.out_of_orderness_us), r.floor_us) for r, clock in clocks)

    def _letters_of(self, node: int) -> Iterator[Emission]:
        # Rows behind event time leave with the second half. What it refuses in the first half of a block may so leave with
        # the second half of an earlier one: no barrier lies between them.
        if self._in_second_half or not isinstance(self.operators[node], EventTime):
            yield from super()._letters_of(node)

    def _end_block(self, *, second: bool) -> Iterator[Emission]:
        for node, operator in self.operators.items():
            if (node in self._timed_nodes) == second:
                yield from self._switched(self._pass_on(node, operator.on_block_end), second=second)

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

    def _number(self) -> Number:
        return self._second if self._in_second_half else self._current

    def _finish(
        self, number: Number, watermark_us: int, status: InputStatus, barrier: int, *, timed: bool
    ) -> Iterator[Emission]:
        for output in self.exchange_outputs:
            exchange = output.exchange.id
            if (exchange in self._timed_exchanges) == timed and number.partition in self._partitions_of[exchange]:
                yield from output.finish(number, watermark_us, status, barrier)

    def _pass_barrier(self, epoch: int) -> Iterator[Emission]:
        """All blocks of an epoch were worked on. The barrier itself travels with the numbers of each partition."""
        yield self.snapshot(epoch)
        for output in self.exchange_outputs:
            if output.exchange.kind is ExchangeKind.DEAL:
                yield from output.mark_barrier(epoch)

    def _end(self) -> Iterator[Emission]:
        for node, operator in self.operators.items():
            yield from self._pass_on(node, operator.on_end)
        for output in self.exchange_outputs:
            if output.exchange.kind is ExchangeKind.DEAL:
                yield from output.no_more_blocks()
        self.ended = True

    def _clock_operator(self, node: int) -> EventTime:
        operator = self.operators[node]
        assert isinstance(operator, EventTime)
        return operator


def _behind_event_time(wiring: Wiring) -> set[int]:
    """The nodes of a block stage that work in the second half: those that an ``event_time()`` of it leads to."""
    behind: set[int] = set()
    for port, readers in sorted(wiring.edges.items(), key=lambda edge: edge[0].node):
        if port.node in behind or isinstance(wiring.operators[port.node], EventTime):
            behind.update(node for node, _ in readers)
    return behind


def _rows_of(name: str, letters: Sequence[DeadLetter], block: Block, *, second: bool) -> Iterator[Batch]:
    for batch in rows_of_letters(letters, block.watermark_us):
        if batch.time_us is None and (second or block.watermark_us != MIN_US):
            raise FlowError(
                f"{name}: its dead letters are from before event times were given, and it now stands behind that; put it "
                "back, or run the flow with --fresh"
            )
        yield batch


def _largest(parts: Iterable[_Timed]) -> int:
    return max((part.largest_us for part in parts), default=MIN_US)
