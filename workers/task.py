"""A worker's decisions: its stages, and when it has finished. A pure state machine; loop.py moves the frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from millstream.channel import RECEIVER_BUDGET, Budget
from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.part import CheckpointPart, Snapshot, acknowledgement
from millstream.checkpoints.recovery import Recovery
from millstream.errors import MillstreamError, ProcessLost, described
from millstream.operators.base import DeadLetter
from millstream.plan import PhysicalPlan
from millstream.runner import Runner
from millstream.topology import CALLER, COORDINATOR, worker_name
from millstream.wire import (
    Beat,
    Checkpoint,
    ClockReading,
    Committed,
    Completed,
    Credit,
    Data,
    Failed,
    Finished,
    Found,
    Look,
    Message,
    Query,
    Start,
    Stop,
    Switch,
)


class Worker:
    """Worker number ``index`` of a run.

    Attributes:
        snapshots: what is to be written to disk, and then given to `written`.
        switch: the run goes on with another number of workers: `successor` takes this worker's place, or it leaves.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        index: int,
        *,
        now_us: Callable[[], int],
        dead_letter: Callable[[DeadLetter], None],
        budget: Budget = RECEIVER_BUDGET,
        checkpoints: bool = False,
    ) -> None:
        self.name = worker_name(index)
        self._now_us, self._dead_letter = now_us, dead_letter
        self._budget, self._checkpoints = budget, checkpoints
        self.runner = Runner(
            plan, self.name, now_us=now_us, dead_letter=dead_letter, budget=budget, checkpoints=checkpoints
        )
        self.outbox = self.runner.outbox
        self.snapshots: deque[Snapshot] = deque()
        self._part = CheckpointPart(self.runner)
        self.stopped = False
        self.switch: Switch | None = None
        self._started = False
        self._told = False

    def receive(self, message: Message) -> None:
        match message:
            case Data() | Credit() | ClockReading():
                self.runner.receive(message)
            case Start():
                self._started = True
                self.runner.go_on()
            case Checkpoint():
                self._part.begin(message.epoch, last=message.last, closing=message.closing)
            case Completed():
                self._part.completed(message.epoch)
                self.outbox.append((COORDINATOR, self.beat()))  # the run may end here: these figures are the last
                self.outbox.append((COORDINATOR, Committed(self.name, message.epoch)))
            case Look():
                self.runner.look(message.operator)
            case Query():
                self.outbox.append((CALLER, self._found(message)))
            case Stop():
                self.stopped = True
            case Switch():
                self.switch = message
            case _:
                pass  # never sent to a worker

    def _found(self, query: Query) -> Found:
        """The answer to a question; a question is nobody's reason to fail."""
        try:
            rows, more = self.runner.lookup(query)
        except MillstreamError as error:
            return Found(query.number, self.name, failure=str(error))
        except Exception as error:
            failure = f"{query.operator}: the answer could not be made: {type(error).__name__}: {error}"
            return Found(query.number, self.name, failure=failure)
        return Found(query.number, self.name, rows, more)

    def work(self, steps: int) -> bool:
        """Take up to so many steps; returns whether there may be more to do."""
        if not self._started:
            return False  # others may not be there yet to take what it would send
        more = self.runner.work(steps)
        if not self._told and self.runner.finished:
            self._told = True
            self.outbox.append((COORDINATOR, Finished(self.name, self.figures())))
        while (snapshot := self._part.ready()) is not None:
            self.snapshots.append(snapshot)
        return more

    def written(self, snapshot: Snapshot, tables: list[TableFile], failure: str = "") -> None:
        """A snapshot that came out of ``snapshots`` is on disk; or, with a failure, is not."""
        if not failure:
            self._part.written(snapshot, tables)
        self.outbox.append((COORDINATOR, acknowledgement(self.runner, self.name, snapshot, tables, failure)))

    def successor(self, plan: PhysicalPlan, recovery: Recovery) -> Worker:
        """This worker in the next life of the run, where there are others beside it.

        It reads from the checkpoint what comes to it; what stays it has.

        Raises:
            CheckpointError: a part of the checkpoint is damaged.
        """
        held = self.runner.hand_over()
        self.runner.abort()
        after = Worker(
            plan, self.runner.index, now_us=self._now_us, dead_letter=self._dead_letter,
            budget=self._budget, checkpoints=self._checkpoints,
        )  # fmt: skip
        after.runner.restore(recovery.beside(held))
        return after

    def beat(self) -> Beat:
        return Beat(self.name, self.figures())

    def failed(self, error: BaseException, traceback: str) -> Failed:
        """The message for an error that this worker cannot go on after."""
        self.runner.abort()
        if isinstance(error, MemoryError):
            text = f"{self.name} is out of memory ({error}): give the machine more, or the flow less state or fewer workers"
            return Failed(self.name, [ProcessLost.__name__, text])
        return Failed(self.name, described(error, traceback))

    def figures(self) -> dict[str, Any]:
        return self.runner.figures()
