"""Running one stage: batches through its operators, and what leaves it through its exchanges.

A stage's work on one input message is a generator of emissions: messages to send, pauses, reports of
event times. Whoever drives it takes the next emission only when the one before has been sent, so
backpressure reaches into the middle of an operator's output without a queue.

There are two kinds: stages of blocks (block_stage.py) and stages with state (keyed_stage.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from millstream.batch import Batch
from millstream.checkpoints.tables import StateTable
from millstream.connectors.base import Prepared
from millstream.operators.base import Operator
from millstream.operators.sinks import WriteSink
from millstream.plan import Port, Stage
from millstream.sending import ExchangeOutput, Outgoing
from millstream.specs.base import MAIN
from millstream.wire import TimeReport


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
