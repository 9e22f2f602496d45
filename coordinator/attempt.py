"""One life of a run: its processes are started, watched and ended; whatever happens, none of them is left.

Rows for ``print`` and ``collect`` end here, in the process that called `Flow.run` or the command line.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from millstream.bootstrap import Bootstrap, NextPlan
from millstream.checkpoints.recovery import Recovery
from millstream.connectors import StdinSource, TableSource
from millstream.coordinator.caller import Caller
from millstream.coordinator.children import Child
from millstream.coordinator.collected import collected_tables
from millstream.coordinator.core import State
from millstream.coordinator.guarantee import end_to_end
from millstream.coordinator.hosting import host_in_thread
from millstream.coordinator.silence import Silence
from millstream.coordinator.spares import Spares
from millstream.coordinator.standstill import Standstill
from millstream.coordinator.state_directory import StateDirectory
from millstream.coordinator.steering import Steering
from millstream.coordinator.ui.watching import Watch
from millstream.coordinator.view import View
from millstream.deadletters import DeadLetterFile
from millstream.errors import MillstreamError, ProcessError, ProcessLost, restored
from millstream.plan import PhysicalPlan
from millstream.process import now_us
from millstream.result import RunResult, make_result
from millstream.specs.ends import ReadSpec
from millstream.topology import CALLER, CALLER_HOST, COORDINATOR, SOURCE_HOST, worker_name
from millstream.transport import Link
from millstream.wire import (
    Answered,
    Beat,
    Checkpoint,
    ClockReading,
    Completed,
    Credit,
    Data,
    Failed,
    Finished,
    Found,
    Hello,
    Look,
    Rescale,
    Start,
    Stop,
    Switch,
)

_STEPS: Final = 64
_LAST_WORDS_S: Final = 2.0
_STACK_S: Final = 0.5
_START_GRACE_S: Final = 10.0
"""How much longer the coordinator may take for its first sign of life: it has to start."""
_LONGEST_DIRECTORY: Final = 88
"""In bytes. Linux takes 107 for the path of a socket, and their names up to 18 of these."""


RESCALE: Final = 0
"""The number by which the coordinator answers to `Rescale`: there is one at a time."""


@dataclass
class Scaling:
    """How many workers the run has, or was last asked to have, in all of its lives.

    Attributes:
        plan: makes the plan for a number of workers.
        next_attempt: takes the number of another life.
    """

    workers: int
    plan: Callable[[int], PhysicalPlan]
    next_attempt: Callable[[], int]

    def plan_for(self, workers: int) -> PhysicalPlan:
        self.workers = workers
        return self.plan(workers)


@dataclass(frozen=True)
class Life:
    """Which life of the run this is, and how it is led.

    Attributes:
        attempt: counts the lives of a flow.
        state: the state directory.
        recovery: the checkpoint that it goes on from; None: it starts anew.
        checkpoint_us: from one checkpoint to the next, in microseconds; None: there are none.
        hang_timeout_s: how long a process may give no sign of life.
        drain: when it is asked to stop, open windows fire and the output is finished; else a checkpoint is made
            from which it can go on.
        import_paths: where the user's modules are, beside those of this process.
        standstill: since a process of the life before was lost; None: this is the first.
    """

    attempt: int
    state: Path
    recovery: Recovery | None
    checkpoint_us: int | None
    hang_timeout_s: float
    drain: bool
    import_paths: tuple[str, ...]
    standstill: Standstill | None = None


def _socket_directory() -> Path:
    """A directory of mode 0700 for the run's sockets: their paths must be short, which a temporary directory's may not be."""
    directory = Path(tempfile.mkdtemp(prefix="millstream-"))
    if len(os.fsencode(directory)) <= _LONGEST_DIRECTORY:
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix="millstream-", dir="/tmp"))


class Attempt:
    """One life of a run.

    Attributes:
        interrupts: how often the user asked to stop, in this life or before it.
        failed_s: when it was seen that this life is over before its time, by `time.monotonic`.
    """

    def __init__(
        self,
        plan: PhysicalPlan,
        life: Life,
        view: View,
        steering: Steering,
        scaling: Scaling,
        watch: Watch,
        spares: Spares,
    ) -> None:
        self.plan = plan
        self.scaling = scaling
        self.life = life
        self.view = view
        self.steering = steering
        self.steering.replaying.plan = plan
        self.watch = watch
        self.spares = spares
        self.directory = _socket_directory()
        self.letters = DeadLetterFile(life.state / "dead-letters" / "caller.jsonl", life.attempt)
        staged = life.checkpoint_us is not None
        self.caller = Caller(plan, now_us=now_us, dead_letter=self.letters, checkpoints=staged)
        if life.recovery is not None:
            self.caller.runner.restore(life.recovery)
        self.children: list[Child] = []
        self.figures: dict[str, Any] = {}
        self.finished = False
        self.interrupts = self._handled = int(steering.stopping is not None)
        self._gone_since_s: dict[str, float] = {}
        self._silence = Silence(life.hang_timeout_s + _START_GRACE_S)
        self.failed_s = 0.0
        self._goes_on = False
        self._checkpoints_fail = False
        self._told_of_rest = False
        self._link: Link | None = None
        self._over = threading.Event()
        self._stored: dict[int, ReadSpec] = {}
        self._retired: set[str] = set()

    def run(self) -> RunResult:
        self._link = Link(self.directory, CALLER, self.life.attempt)
        try:
            with self._signals():
                self._start()
                self._watch(self._link)
                self._show(self.figures)
            processes = {**self.figures["processes"], CALLER: self.caller.figures()}
            return make_result(
                self.plan, processes, seconds=self.figures["seconds"], tables=collected_tables(self.plan, self.caller),
                state=self.life.state, interrupted=self.interrupts > 0,
                stopped_at=self.figures.get("checkpoint") if self.stopped else None,
                guarantee=end_to_end(self.plan, checkpoints=self.life.checkpoint_us is not None),
            )  # fmt: skip
        except BaseException:
            self.failed_s = time.monotonic()
            self.caller.abort()
            for child in self.children:
                child.process.kill()
            raise
        finally:
            self._over.set()
            for child in self.children:
                child.end(5.0)
            self._link.close()
            self.letters.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    # --- starting ---

    def _start(self) -> None:
        sources = [self.plan.source_of(p) for p in range(len(self.plan.partitions))]
        in_caller = tuple(p for p, s in enumerate(sources) if s.in_caller)
        in_host = tuple(p for p, s in enumerate(sources) if s.hosted)
        stdin = os.dup(0) if any(isinstance(s, StdinSource) for s in sources) else -1
        told = self._bootstrap(COORDINATOR, pickle.dumps(self._shipped_plan(self.plan)))
        self._spawn(replace(told, hosted=(*in_caller, *in_host), stdin=stdin), "millstream.coordinator")
        for index in range(self.plan.workers):
            self._spawn(replace(told, name=worker_name(index)), "millstream.workers", str(index))
        if in_host:
            self._spawn(replace(told, name=SOURCE_HOST, hosted=in_host), "millstream.coordinator.hosting")
        if in_caller:
            link = Link(self.directory, CALLER_HOST, self.life.attempt)
            host_in_thread(self.plan, in_caller, link, self.life.recovery, self._over)
        if stdin >= 0:
            os.close(stdin)

    def _bootstrap(self, name: str, plan: bytes) -> Bootstrap:
        life = self.life
        epoch = None if life.recovery is None else life.recovery.manifest.epoch
        import_paths = (*life.import_paths, *(p for p in sys.path if p))
        return Bootstrap(
            name, self.directory, life.attempt, plan, life.state.absolute(), import_paths,
            hang_timeout_s=life.hang_timeout_s, checkpoint_us=life.checkpoint_us, epoch=epoch,
        )  # fmt: skip

    def _shipped_plan(self, plan: PhysicalPlan) -> PhysicalPlan:
        """The plan as it travels: tables that are in memory go by file, which the coordinator maps; once."""
        nodes = dict(plan.nodes)
        for number, node in nodes.items():
            if isinstance(node.spec, ReadSpec) and isinstance(node.spec.source, TableSource):
                if number not in self._stored:
                    stored = node.spec.source.stored(str(self.directory / f"table-{number}.arrow"))
                    self._stored[number] = ReadSpec(stored)
                nodes[number] = replace(node, spec=self._stored[number])
        return replace(plan, nodes=nodes)

    def _spawn(self, bootstrap: Bootstrap, module: str, *arguments: str) -> None:
        fits = bootstrap.name != SOURCE_HOST and bootstrap.stdin < 0
        child = self.spares.take() if fits else None
        if child is None:
            child = Child(module, list(arguments), self.view, bootstrap.stdin)
        child.begin(bootstrap)
        self.children.append(child)

    # --- watching ---

    def _watch(self, link: Link) -> None:
        for told in self.steering.begin_life():
            link.send(COORDINATOR, told)
        while not (self.finished and (self.caller.finished or self.stopped)):
            for message in link.received():
                match message:
                    case Beat():
                        self._heard(message.figures)
                    case Finished():
                        self.figures, self.finished = message.figures, True
                        self._show(message.figures)
                    case Failed():
                        self._ask_for_stack(message)
                        raise self._failure(message)
                    case Data() | Credit() | ClockReading() | Checkpoint() | Completed() | Start():
                        self.caller.receive(message)
                    case Answered() if message.number == RESCALE:
                        self._rescaled(message)
                    case Answered():
                        self.steering.answered(message)
                    case Found():
                        self.steering.questions.found(message)
                    case Switch():
                        self._switch(link, message)
                    case _:
                        pass  # a child says hello
            more = self.caller.work(_STEPS)
            while self.caller.outbox:
                link.send(*self.caller.outbox.popleft())
            self._hand_on_commands(link)
            self._hand_on_interrupts(link)
            if not more:
                self._check_children(link)
                link.wait(50)

    def _heard(self, figures: dict[str, Any]) -> None:
        """The coordinator lives, and says how the run goes."""
        self._silence.heard()
        self._silence.limit_s = self.life.hang_timeout_s
        if figures["state"] == State.RUNNING.value and self.life.checkpoint_us is not None:
            self.spares.keep(1 + self.plan.workers, time.monotonic())
        if self.life.standstill is not None and not self._goes_on and figures["state"] == State.RUNNING.value:
            workers = [figures["processes"][worker_name(i)] for i in range(self.plan.workers)]
            if all("restoring_us" in told for told in workers):
                self._goes_on = True
                restoring_us, cpu_us = max((told["restoring_us"], told["restoring_cpu_us"]) for told in workers)
                text = self.life.standstill.sentence(restoring_us / 1e6, cpu_us / 1e6, time.monotonic())
                self.view.line(text)
                self.watch.recovered(text)
        if self._checkpoints_fail != bool(figures["checkpoint_failure"]):
            self._tell_of_checkpoints(figures["checkpoint_failure"], figures["checkpoint"])
        if figures["not_removed"] and not self._told_of_rest:
            self._told_of_rest = True
            text = (
                f"what old checkpoints need no more cannot all be removed, and takes up room: {figures['not_removed']}"
            )
            self.view.line(text)
            self.watch.warned(text)
        self._show(figures)

    def _tell_of_checkpoints(self, failure: str, newest: int) -> None:
        """They cannot be written any more, or can be again."""
        self._checkpoints_fail = bool(failure)
        text = f"checkpoints are written again: {newest} exists"
        if failure:
            back = f"checkpoint {newest}" if newest else "its start"
            text = f"a checkpoint could not be written: {failure}; the run tries again, and goes back to {back} if a process is lost"
        self.view.line(text)
        self.watch.warned(text)

    # --- another number of workers ---

    def _rescale(self, link: Link, workers: int) -> None:
        """Start the workers that are new, send everyone the plan, and let the coordinator do it at a barrier."""
        if workers == self.plan.workers:
            self.steering.scaled(f"the run has {workers} worker{'s' if workers != 1 else ''} already")
            return
        if self.life.checkpoint_us is None:
            reason = "the run makes no checkpoints, at one of which it could go on with other workers"
            self.steering.scaled(f"{reason}; run the flow with --checkpoint-interval 10s", error=True)
            return
        plan, attempt = self.scaling.plan_for(workers), self.scaling.next_attempt()
        shipped = pickle.dumps(self._shipped_plan(plan))
        staying = [child for child in self.children if child.name not in self._retired]
        joining = {worker_name(i): i for i in range(self.plan.workers, workers)}
        self._reap(set(joining))
        self._retired.difference_update(joining)
        try:
            for name, index in joining.items():
                self._spawn(replace(self._bootstrap(name, shipped), joins=True), "millstream.workers", str(index))
        except ProcessError as error:
            self._do_not_rescale(f"{error}; the run goes on with {self.plan.workers} as before")
            return
        for child in staying:
            if child.name != SOURCE_HOST:
                child.tell_plan(NextPlan(attempt, shipped))
        link.send(COORDINATOR, Rescale(RESCALE, workers, attempt))

    def _switch(self, link: Link, switch: Switch) -> None:
        """Go on in the next life. What was last sent to the coordinator may have come too late, and is sent again."""
        plan = self.scaling.plan_for(switch.workers)
        store = StateDirectory(self.life.state).checkpoints
        recovery = Recovery(store.manifest(switch.epoch), store)
        self._retired |= {worker_name(i) for i in range(switch.workers, self.plan.workers)}
        link.begin(switch.next_attempt, self._retired)
        self.caller = self.caller.successor(plan, recovery)
        self.steering.replaying.plan = plan
        self.plan, self.life = plan, replace(self.life, attempt=switch.next_attempt, recovery=recovery)
        self.watch.begin(switch.next_attempt, switch.epoch)
        link.send(COORDINATOR, Hello(CALLER, os.getpid()))
        for told in self.steering.begin_life():
            link.send(COORDINATOR, told)

    def _rescaled(self, answer: Answered) -> None:
        if answer.failure:
            self._do_not_rescale(answer.failure)
            return
        workers, took_s = self.plan.workers, answer.took_us / 1e6
        said = f"{workers} worker{'s' if workers != 1 else ''}; nothing was read for {took_s:.2f} s"
        self.view.line(f"the run goes on with {said}")
        self.steering.scaled(said, took_s=took_s)

    def _do_not_rescale(self, reason: str) -> None:
        """Go on as before: whoever was about to join holds nothing, and may not even listen."""
        workers = self.plan.workers
        for child in self.children:
            if self.caller.runner.topology.index_of(child.name) >= workers:
                self._retired.add(child.name)
                child.process.kill()
        self.scaling.workers = workers
        self.steering.scaled(f"scale: {reason}", error=True)

    def _reap(self, names: set[str]) -> None:
        """See that workers which have left are gone, before others take their names."""
        for child in [c for c in self.children if c.name in names]:
            child.end(5.0)
            self.children.remove(child)

    @property
    def stopped(self) -> bool:
        """Whether the run has ended at a checkpoint, before its input."""
        return bool(self.figures.get("state") == State.STOPPED.value)

    def _show(self, figures: dict[str, Any]) -> None:
        figures["processes"][CALLER] = self.caller.figures()
        self.view.update(figures)

    def _ask_for_stack(self, failed: Failed) -> None:
        """Let a process that hangs print where it is, if it still can, before it is killed."""
        hangs = failed.error[0] == ProcessLost.__name__
        for child in self.children:
            if hangs and child.name == failed.process and child.process.poll() is None:
                child.process.send_signal(signal.SIGUSR1)
                time.sleep(_STACK_S)

    def _failure(self, failed: Failed) -> MillstreamError:
        if failed.error == ["stopped"]:
            return ProcessError("stopped before the input ended, as asked; results may be incomplete")
        return restored(failed.error)

    def _check_children(self, link: Link) -> None:
        if self.finished:
            return
        if self._silence.too_long(time.monotonic()):
            silent = f"{COORDINATOR} gave no sign of life for {self._silence.silent_s:.0f} s: it hangs"
            failed = Failed(COORDINATOR, [ProcessLost.__name__, silent])
            self._ask_for_stack(failed)
            raise self._failure(failed)
        self._reap({c.name for c in self.children if c.name in self._retired and c.process.poll() is not None})
        for child in self.children:
            if child.name in self._retired:
                continue  # it has been told to leave
            death = child.died() or self._left_early(child)
            if death is None:
                continue
            # The reason may still be on its way: from itself, or from whoever noticed first.
            deadline_s = time.monotonic() + _LAST_WORDS_S
            while time.monotonic() < deadline_s:
                for message in link.received():
                    if isinstance(message, Failed):
                        raise self._failure(message)
                if child.process.returncode < 0:
                    break  # killed: it had no time for words
                link.wait(50)
            raise ProcessLost(death)

    def _left_early(self, child: Child) -> str | None:
        """Whether it ended as if all were well, long before the run did; in words, or None."""
        if child.name == SOURCE_HOST or child.process.poll() != 0:
            return None  # a source host ends when it has sent all that there is
        since_s = self._gone_since_s.setdefault(child.name, time.monotonic())
        if time.monotonic() - since_s < _LAST_WORDS_S:
            return None
        return f"{child.name} (process {child.process.pid}) ended before its work was done"

    # --- stopping ---

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: object) -> None:
        self.interrupts += 1

    def _hand_on_commands(self, link: Link) -> None:
        for ask in self.steering.due():
            link.send(COORDINATOR, ask)
        for name, query in self.steering.questions.due(self.plan):
            link.send(name, query)
        for operator in self.watch.looked_at():
            self.caller.runner.look(operator)
            for name in (COORDINATOR, *map(worker_name, range(self.plan.workers))):
                link.send(name, Look(operator))
        workers = self.steering.scale_due()
        if workers is not None:
            self._rescale(link, workers)
        stop = self.steering.stop_due()
        if stop is not None:
            self._handled = self.interrupts = self.interrupts + 1
            self._stop(link, drain=stop.drain)

    def _hand_on_interrupts(self, link: Link) -> None:
        if self.interrupts == self._handled:
            return
        self._handled = self.interrupts
        if self.interrupts > 1:
            raise ProcessError("stopped at once, as asked; results are incomplete")
        self._stop(link, drain=self.life.drain)

    def _stop(self, link: Link, *, drain: bool) -> None:
        drain |= self.life.checkpoint_us is None
        self.view.line(
            "stopping: sources end here, open windows fire, sinks are finished; once more stops at once"
            if drain
            else "stopping: a last checkpoint is made, from which the run can go on; once more stops at once"
        )
        self.steering.stopping = Stop(drain)
        link.send(COORDINATOR, self.steering.stopping)
