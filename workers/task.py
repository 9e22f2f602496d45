"""A worker's decisions: its stages, and when it has finished. A pure state machine; loop.py moves the frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millstream.channel import RECEIVER_BUDGET_BYTES
from millstream.errors import described
from millstream.operators.base import DeadLetter
from millstream.plan import PhysicalPlan
from millstream.runner import Runner
from millstream.topology import COORDINATOR, worker_name
from millstream.wire import Beat, ClockReading, Credit, Data, Failed, Finished, Message, Start, Stop


class Worker:
    """Worker number ``index`` of a run."""

    def __init__(
        self,
        plan: PhysicalPlan,
        index: int,
        *,
        now_us: Callable[[], int],
        dead_letter: Callable[[DeadLetter], None],
        budget_bytes: int = RECEIVER_BUDGET_BYTES,
    ) -> None:
        self.name = worker_name(index)
        self.runner = Runner(plan, self.name, now_us=now_us, dead_letter=dead_letter, budget_bytes=budget_bytes)
        self.outbox = self.runner.outbox
        self.stopped = False
        self._started = False
        self._told = False

    def receive(self, message: Message) -> None:
        match message:
            case Data() | Credit() | ClockReading():
                self.runner.receive(message)
            case Start():
                self._started = True
            case Stop():
                self.stopped = True
            case _:
                pass  # never sent to a worker

    def work(self, steps: int) -> bool:
        """Take up to so many steps; returns whether there may be more to do."""
        more = self.runner.work(steps)
        if self._started and not self._told and self.runner.finished:
            self._told = True
            self.outbox.append((COORDINATOR, Finished(self.name, self.figures())))
        return more

    def beat(self) -> Beat:
        return Beat(self.name, self.figures())

    def failed(self, error: BaseException, traceback: str) -> Failed:
        """The message for an error that this worker cannot go on after."""
        self.runner.abort()
        return Failed(self.name, described(error, traceback))

    def figures(self) -> dict[str, Any]:
        return self.runner.figures()
