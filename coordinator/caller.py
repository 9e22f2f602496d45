"""The calling process's part in a run: the stages of ``print`` and ``collect``, and their part in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from millstream.channel import RECEIVER_BUDGET, Budget
from millstream.checkpoints.part import CheckpointPart, acknowledgement
from millstream.checkpoints.recovery import Recovery
from millstream.operators.base import DeadLetter
from millstream.operators.sinks import WriteSink
from millstream.plan import PhysicalPlan
from millstream.runner import Runner
from millstream.stage import StageRun
from millstream.topology import CALLER, COORDINATOR
from millstream.wire import Checkpoint, ClockReading, Committed, Completed, Credit, Data, Message, Start


class Caller:
    """A pure state machine, as the coordinator and the workers are."""

    def __init__(
        self,
        plan: PhysicalPlan,
        *,
        now_us: Callable[[], int],
        dead_letter: Callable[[DeadLetter], None],
        budget: Budget = RECEIVER_BUDGET,
        checkpoints: bool = False,
    ) -> None:
        self._now_us, self._dead_letter = now_us, dead_letter
        self._budget, self._checkpoints = budget, checkpoints
        self.runner = Runner(
            plan, CALLER, now_us=now_us, dead_letter=dead_letter, budget=budget, checkpoints=checkpoints
        )
        self.outbox = self.runner.outbox
        self._part = CheckpointPart(self.runner)

    def receive(self, message: Message) -> None:
        match message:
            case Data() | Credit() | ClockReading():
                self.runner.receive(message)
            case Start():
                self.runner.go_on()
            case Checkpoint():
                self._part.begin(message.epoch, last=message.last, closing=message.closing)
            case Completed():
                self._part.completed(message.epoch)
                self.outbox.append((COORDINATOR, Committed(CALLER, message.epoch)))
            case _:
                pass  # never sent to the caller

    def work(self, steps: int) -> bool:
        more = self.runner.work(steps)
        while (snapshot := self._part.ready()) is not None:
            # Nothing here has state: what sinks of this process have said is all there is.
            self.outbox.append((COORDINATOR, acknowledgement(self.runner, CALLER, snapshot, [])))
        return more

    def successor(self, plan: PhysicalPlan, recovery: Recovery) -> Caller:
        """The same in the next life of the run; what has been collected stays."""
        after = Caller(
            plan, now_us=self._now_us, dead_letter=self._dead_letter, budget=self._budget,
            checkpoints=self._checkpoints,
        )  # fmt: skip
        after.runner.restore(recovery)
        writers = {plan.nodes[n].name: o for n, o in _writing(self.runner)}
        for node, operator in _writing(after.runner):
            operator.writer = writers[plan.nodes[node].name].writer
        return after

    @property
    def stages(self) -> Mapping[int, StageRun]:
        return self.runner.stages

    @property
    def finished(self) -> bool:
        return self.runner.finished

    def due_us(self) -> int | None:
        return self.runner.due_us()

    def figures(self) -> dict[str, Any]:
        return self.runner.figures()

    def abort(self) -> None:
        self.runner.abort()


def _writing(runner: Runner) -> Iterator[tuple[int, WriteSink]]:
    for stage in runner.stages.values():
        for node, operator in stage.operators.items():
            if isinstance(operator, WriteSink):
                yield node, operator
