"""A stage with state and a watermark, the minimum over its inputs; also the stage of a gathered sink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from millstream.batch import Batch
from millstream.channel import StageInputs
from millstream.gathering import gathered
from millstream.sending import Number
from millstream.stage import Emission, StageRun, Wiring
from millstream.times import MAX_US, MIN_US
from millstream.watermarks import InputStatus
from millstream.wire import Data


class KeyedStage(StageRun):
    """Operators with state; also the stage of a gathered sink.

    Args:
        inputs: all of the stage's inputs, announced.
        worker_index: the partition under which this process's output goes on.
    """

    def __init__(self, wiring: Wiring, *, inputs: StageInputs, worker_index: int) -> None:
        super().__init__(wiring)
        self.inputs = inputs
        self.worker_index = worker_index
        self._sequence = 0
        self._read_us = 0
        self._told = (MIN_US, InputStatus.ACTIVE)

    @property
    def watermark_us(self) -> int:
        return self.inputs.watermarks.watermark_us

    def on_data(self, messages: Sequence[Data], targets: Sequence[tuple[int, int]]) -> Iterator[Emission]:
        """Take messages of one exchange together: all their rows, then how far they say that their inputs have come.

        For rows this is as if the watermarks between them had come later. At most the last message has a barrier.
        """
        self._read_us = min((m.read_us for m in messages if m.read_us), default=0)
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
        self._read_us = 0
        for node, operator in self.operators.items():
            due_us = operator.due_us()
            if due_us is not None and due_us <= now_us:
                yield from self._pass_on(node, operator.on_clock, now_us)
        yield from self._conclude()

    def due_us(self) -> int | None:
        return min((d for o in self.operators.values() if (d := o.due_us()) is not None), default=None)

    def _advance(self, watermark_us: int) -> Iterator[Emission]:
        # In the order of the stage: what an operator puts out reaches those behind it before the watermark does.
        for node, operator in self.operators.items():
            yield from self._pass_on(node, operator.on_watermark, watermark_us)

    def _conclude(self) -> Iterator[Emission]:
        """End a number on every output that has something to tell."""
        status = self.inputs.status
        if status is InputStatus.ENDED and not self.ended:
            for node, operator in self.operators.items():
                yield from self._pass_on(node, operator.on_end)
            self.ended = True
        yield from self._tell(self._passed_on_us(self.watermark_us), status)

    def _tell(self, watermark_us: int, status: InputStatus) -> Iterator[Emission]:
        told = (watermark_us, status)
        if told != self._told or any(o.holds for o in self.exchange_outputs):
            for output in self.exchange_outputs:
                yield from output.finish(self._number(), *told)
            self._sequence += 1
            self._told = told

    def _pass_barrier(self, epoch: int) -> Iterator[Emission]:
        yield self.snapshot(epoch)
        for output in self.exchange_outputs:
            yield from output.finish(self._number(), *self._told, epoch)
        self._sequence += 1

    def _passed_on_us(self, watermark_us: int) -> int:
        """The watermark that those behind may learn when this stage has reached one."""
        if watermark_us == MAX_US:
            return MAX_US
        return min((o.passes_on_us(watermark_us) for o in self.operators.values()), default=watermark_us)

    def _number(self) -> Number:
        return Number(self.worker_index, self._sequence, self._read_us)
