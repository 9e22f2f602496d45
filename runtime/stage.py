"""Running one stage: batches through its operators, and what leaves it through its exchanges.

A stage's work on one input message is a generator of emissions: messages to send, pauses, reports of
event times. Whoever drives it takes the next emission only when the one before has been sent, so
backpressure reaches into the middle of an operator's output without a queue.

There are two kinds: stages of blocks (block_stage.py) and stages with state (keyed_stage.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from millstream.batch import Batch
from millstream.binding import FirstRows
from millstream.checkpoints.tables import Part
from millstream.connectors.base import Prepared
from millstream.meters import LatencyHistogram
from millstream.operators.base import Operator, Output, Wait, naming
from millstream.operators.dead_letters import letters_as_rows
from millstream.operators.sinks import Encode, WriteSink
from millstream.plan import Port, Stage
from millstream.sending import ExchangeOutput, Number, Outgoing
from millstream.specs.base import DEAD_LETTERS, MAIN
from millstream.wire import TimeReport


class StageSnapshot(NamedTuple):
    """What a stage held when the barrier of an epoch had passed everything before it.

    Attributes:
        tables: by node, the state of its operator; written while the stage goes on.
        sinks: by node, what its writer said.
        counters: by node, what its operator had counted.
    """

    stage: int
    epoch: int
    tables: dict[int, Sequence[Part]]
    sinks: dict[int, Prepared]
    counters: dict[int, dict[str, int]]


Emission = Outgoing | TimeReport | StageSnapshot | Wait | None
"""What a stage's generator yields; None is a pause."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """One stage as it is put together in one process.

    Attributes:
        operators: by node, in an order in which inputs come first.
        edges: for each port of a node, the nodes of this stage that read it, with their input number.
        outputs: for each port of a node, the exchanges that it feeds.
        first_rows: looks at the rows of outputs whose fields nothing declared; None: there are none.
    """

    stage: Stage
    operators: Mapping[int, Operator]
    edges: Mapping[Port, Sequence[tuple[int, int]]]
    outputs: Mapping[Port, Sequence[ExchangeOutput]]
    first_rows: FirstRows | None


class StageRun(ABC):
    """One stage in one process."""

    def __init__(self, wiring: Wiring) -> None:
        self.stage, self.operators = wiring.stage, wiring.operators
        self._edges, self._outputs, self._first_rows = wiring.edges, wiring.outputs, wiring.first_rows
        self.ended = False
        seen = {id(o): o for group in self._outputs.values() for o in group}
        self.exchange_outputs = list(seen.values())
        self.busy_us = dict.fromkeys(self.operators, 0)
        """By node, for how long its operator has worked: what it gave to others to do is theirs."""
        self.at_work: int | None = None
        """The node whose operator works at this moment."""
        self.looked_at: int | None = None
        """The node whose rows somebody looks at: those that it puts out, or those that it takes where it ends there."""
        self.seen: Batch | None = None
        """The last of them."""
        self.latencies = {n: LatencyHistogram() for n, o in self.operators.items() if isinstance(o, WriteSink)}
        """By sink, how old rows were when they were written: since the oldest event that they come of was read."""

    @abstractmethod
    def _number(self) -> Number:
        """The number under which rows leave now."""

    def _push(self, node: int, port: int, batch: Batch) -> Iterator[Emission]:
        operator = self.operators[node]
        counters = operator.context.counters
        counters.rows_in += batch.num_rows
        if node == self.looked_at and isinstance(operator, WriteSink | Encode):
            self.seen = batch
        rows_before = counters.rows_out
        yield from self._pass_on(node, operator.on_batch, batch, port)
        if node in self.latencies:
            self._note_latency(node, operator, counters.rows_out - rows_before)

    def _pass_on(self, node: int, method: Callable[..., Iterable[Output]], *arguments: Any) -> Iterator[Emission]:
        """What a method of a node's operator puts out, on to those behind it."""
        operator = self.operators[node]
        for output in self._outputs_of(node, method, *arguments):
            if output is None or isinstance(output, Wait):
                yield output
                yield from self._letters_of(node)
                continue
            name, batch = output
            if self._first_rows is not None:
                self._first_rows.see(Port(node, name), batch)
            if node == self.looked_at and not isinstance(operator, WriteSink | Encode):
                self.seen = batch
            operator.context.counters.rows_out += batch.num_rows if name == MAIN else 0
            yield from self._emit(Port(node, name), batch)
            yield from self._letters_of(node)
        yield from self._letters_of(node)

    def _letters_of(self, node: int) -> Iterator[Emission]:
        """The records that a node's operator, or the exchange behind it, has refused since the last time."""
        context = self.operators[node].context
        if context.letters:
            letters, context.letters[:] = context.letters[:], []
            yield from self._emit(Port(node, DEAD_LETTERS), letters_as_rows(letters, context.now_us()))

    def _outputs_of(self, node: int, method: Callable[..., Iterable[Output]], *arguments: Any) -> Iterator[Output]:
        """What a method of a node's operator puts out: errors say whose they are, and the time is noted as its own."""
        context = self.operators[node].context
        with naming(context.name):
            outputs = iter(method(*arguments))
            while True:
                started_us = context.now_us()
                self.at_work = node
                try:
                    output = next(outputs)
                except StopIteration:
                    break
                finally:
                    self.at_work = None
                    self.busy_us[node] += context.now_us() - started_us
                yield output
        context.check_errors()

    def _emit(self, port: Port, batch: Batch) -> Iterator[Emission]:
        for node, number in self._edges.get(port, ()):
            yield from self._push(node, number, batch)
        for output in self._outputs.get(port, ()):
            yield from output.add(batch, self._number())

    def _note_latency(self, node: int, sink: Operator, rows: int) -> None:
        read_us = self._number().read_us
        if rows and read_us:
            self.latencies[node].add(sink.context.now_us() - read_us, rows)

    def snapshot(self, epoch: int, *, last: bool = False) -> StageSnapshot:
        """What the stage holds now, between two messages.

        Args:
            last: the run has ended; sinks say what makes their output whole.
        """
        for operator in self.operators.values():
            operator.context.passed.epoch = epoch
        return StageSnapshot(
            self.stage.id, epoch,
            {node: tables for node, operator in self.operators.items() if (tables := operator.snapshot())},
            {n: o.prepare(epoch, last=last) for n, o in self.operators.items() if isinstance(o, WriteSink)},
            self.counters(),
        )  # fmt: skip

    def counters(self) -> dict[int, dict[str, int]]:
        """By node, what its operator has counted."""
        return {node: operator.context.counters.figures() for node, operator in self.operators.items()}

    def on_abort(self) -> None:
        for operator in self.operators.values():
            operator.on_abort()
