"""Starting a run, watching over it, and ending it: the supervisor.

The supervisor is the process that called `Flow.run` (or the command line). It starts the coordinator, the
workers and, where it is needed, the source host; shows what they say; hands Ctrl-C on; and whatever
happens leaves no process and no socket behind. Rows for ``print`` and ``collect`` end here.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, Literal

import pyarrow as pa

from millstream.bootstrap import Bootstrap, write_bootstrap
from millstream.connectors import StdinSource, TableSource
from millstream.connectors.caller import CollectSink, CollectWriter
from millstream.coordinator.hosting import host_in_thread
from millstream.coordinator.local import LocalRun
from millstream.coordinator.view import View, make_view
from millstream.deadletters import DeadLetterFile, as_json
from millstream.errors import FlowError, MillstreamError, ProcessError, restored
from millstream.flow import Flow
from millstream.operators.sinks import WriteSink
from millstream.plan import PhysicalPlan
from millstream.planner import Ingest, make_plan
from millstream.process import now_us
from millstream.result import RunResult, make_result
from millstream.runner import Runner
from millstream.specs.ends import ReadSpec, SinkSpec
from millstream.topology import CALLER, CALLER_HOST, COORDINATOR, SOURCE_HOST, worker_name
from millstream.transport import Link
from millstream.wire import Beat, ClockReading, Credit, Data, Failed, Finished, Stop

_ATTEMPT: Final = 1
_STEPS: Final = 64
_LAST_WORDS_S: Final = 2.0
_STACK_S: Final = 0.5
_MAX_BATCH_ROWS: Final = 1_000_000
_ENVIRONMENT: Final = {
    "PYTHONUNBUFFERED": "1",
    # glibc gives freed arrays back to the system after every batch, and the page faults of getting them
    # again cost more than the work on them (grouping: 15 ns a row instead of 6). Keep up to 256 MiB.
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    # One process, one core: the workers are the parallelism.
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class RunOptions:
    """How to run a flow; see `Flow.run` and ``millstream run --help``."""

    workers: int | Literal["auto"] = "auto"
    batch_size: int = 65_536
    ingest: Ingest = "auto"
    state: str | Path | None = None
    live_view: bool = False
    import_paths: tuple[str, ...] = ()
    hang_timeout_s: float = 60.0


def worker_count(wanted: int | Literal["auto"]) -> int:
    """How many workers: all cores but one, which the coordinator has, unless the user says.

    Raises:
        FlowError: less than one, or more than there are key groups.
    """
    if wanted == "auto":
        return max(1, len(os.sched_getaffinity(0)) - 1)
    if not 1 <= wanted <= 256:
        raise FlowError(f"workers={wanted}: a run has 1 to 256 workers")
    return wanted


def run(flow: Flow, options: RunOptions) -> RunResult:
    """Run a flow in processes, until its input ends or it is told to stop.

    Raises:
        MillstreamError: the flow or the run failed; nothing of it is left running.
    """
    _check_batch_size(options.batch_size)
    state = Path(options.state or ".millstream") / flow.name
    workers = worker_count(options.workers)
    plan = make_plan(
        flow, workers=workers, batch_rows=options.batch_size, ingest=options.ingest, late_directory=state / "late"
    )
    with _locked(state):
        view = make_view(plan, live=options.live_view)
        try:
            return _Supervisor(plan, state, options, view).run()
        finally:
            view.close()


def run_here(flow: Flow, *, batch_size: int = 65_536, state: str | Path | None = None) -> RunResult:
    """Run a flow in this process: no sockets, no waiting, the same answers."""
    _check_batch_size(batch_size)
    directory = None if state is None else Path(state) / flow.name
    late = None if directory is None else directory / "late"
    plan = make_plan(flow, workers=1, batch_rows=batch_size, late_directory=late)
    letters = DeadLetterFile(None if directory is None else directory / "dead-letters" / "run.jsonl")
    local = LocalRun(plan, letters)
    try:
        local.run()
    finally:
        letters.close()
    processes = {
        COORDINATOR: local.coordinator.runner.figures(),
        CALLER: local.caller.figures(),
        **{n: w.figures() for n, w in local.workers.items()},
    }
    seconds = time.monotonic() - local.started_s
    result = make_result(
        plan, processes, seconds=seconds, tables=_tables(plan, local.caller), state=directory, interrupted=False
    )
    return replace(result, letters=tuple(map(as_json, letters.kept)))


def _check_batch_size(rows: int) -> None:
    if not 1 <= rows <= _MAX_BATCH_ROWS:
        raise FlowError(f"batch_size={rows}: a batch has 1 to {_MAX_BATCH_ROWS:,} rows")


def _tables(plan: PhysicalPlan, caller: Runner) -> dict[str, pa.Table]:
    tables: dict[str, pa.Table] = {}
    for stage in caller.stages.values():
        for node, operator in stage.operators.items():
            spec = plan.nodes[node].spec
            if isinstance(spec, SinkSpec) and isinstance(spec.sink, CollectSink):
                assert isinstance(operator, WriteSink)
                writer = operator.writer
                tables[spec.sink.name or plan.nodes[node].name] = (
                    writer.table() if isinstance(writer, CollectWriter) else pa.table({})
                )
    return tables


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """Hold the state directory against a second run, and clear what an earlier run left to look at."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("a+")
    except OSError as error:
        raise ProcessError(
            f"the state directory {state} cannot be used: {error.strerror}; choose another with --state"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise ProcessError(
                f"the flow runs already (process {owner}, state directory {state}); "
                "stop it, or choose another directory with --state"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        for leftover in ("dead-letters", "late"):
            shutil.rmtree(state / leftover, ignore_errors=True)
        yield


class _Child:
    """A process of the run, and the thread that shows what it prints."""

    def __init__(self, name: str, module: str, arguments: list[str], bootstrap: Bootstrap, view: View) -> None:
        self.name = name
        read_end, self._pipe = os.pipe()
        pass_fds = [read_end, *([bootstrap.stdin] if bootstrap.stdin >= 0 else [])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, str(read_end)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            pass_fds=pass_fds, start_new_session=True, env={**os.environ, **_ENVIRONMENT},
        )  # fmt: skip
        os.close(read_end)
        # The plan may be larger than the pipe: write while the child starts.
        self._writer = threading.Thread(target=self._tell, args=(bootstrap,), daemon=True)
        self._writer.start()
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._show, args=(self.process.stdout, view), daemon=True)
        self._reader.start()

    def _tell(self, bootstrap: Bootstrap) -> None:
        try:
            write_bootstrap(self._pipe, bootstrap)
        except BrokenPipeError:
            return  # it is gone already: the supervisor sees that, and says so

    def _show(self, output: IO[bytes], view: View) -> None:
        for line in output:
            view.line(f"[{self.name}] {line.decode(errors='replace').rstrip()}")

    def died(self) -> str | None:
        """How it ended, in words; None while it runs or when it ended well."""
        status = self.process.poll()
        if status is None or status == 0:
            return None
        if status < 0:
            name = signal.Signals(-status).name
            hint = "; the system may have run out of memory" if -status == signal.SIGKILL else ""
            return f"{self.name} (process {self.process.pid}) was killed by {name}{hint}"
        return f"{self.name} (process {self.process.pid}) ended with status {status}"

    def end(self, grace_s: float) -> None:
        """Make sure it is gone, and reaped, and its last output shown."""
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(1.0)
        os.close(self._pipe)


class _Supervisor:
    def __init__(self, plan: PhysicalPlan, state: Path, options: RunOptions, view: View) -> None:
        self.plan = plan
        self.state = state
        self.options = options
        self.view = view
        self.directory = Path(tempfile.mkdtemp(prefix="millstream-"))  # mode 0700
        self.letters = DeadLetterFile(state / "dead-letters" / "caller.jsonl")
        self.caller = Runner(plan, CALLER, now_us=now_us, dead_letter=self.letters)
        self.children: list[_Child] = []
        self.figures: dict[str, Any] = {}
        self.finished = False
        self.interrupts = 0
        self._gone_since_s: dict[str, float] = {}
        self._handled = 0
        self._link: Link | None = None

    def run(self) -> RunResult:
        self._link = Link(self.directory, CALLER, _ATTEMPT)
        try:
            with self._signals():
                self._start()
                self._watch(self._link)
                self._show(self.figures)
            processes = {**self.figures["processes"], CALLER: self.caller.figures()}
            return make_result(
                self.plan, processes, seconds=self.figures["seconds"], tables=_tables(self.plan, self.caller),
                state=self.state, interrupted=self.interrupts > 0,
            )  # fmt: skip
        except BaseException:
            self.caller.abort()
            for child in self.children:
                child.process.kill()
            raise
        finally:
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
        import_paths = (*self.options.import_paths, *(p for p in sys.path if p))
        stdin = os.dup(0) if any(isinstance(s, StdinSource) for s in sources) else -1
        plan = pickle.dumps(self._shipped_plan())

        def bootstrap(hosted: tuple[int, ...] = (), descriptor: int = -1) -> Bootstrap:
            state, timeout_s = self.state.absolute(), self.options.hang_timeout_s
            return Bootstrap(self.directory, _ATTEMPT, plan, state, import_paths, hosted, descriptor, timeout_s)

        self._spawn(COORDINATOR, "millstream.coordinator", [], bootstrap((*in_caller, *in_host), stdin))
        for index in range(self.plan.workers):
            self._spawn(worker_name(index), "millstream.workers", [str(index)], bootstrap())
        if in_host:
            self._spawn(SOURCE_HOST, "millstream.coordinator.hosting", [], bootstrap(in_host))
        if in_caller:
            host_in_thread(self.plan, in_caller, Link(self.directory, CALLER_HOST, _ATTEMPT))
        if stdin >= 0:
            os.close(stdin)

    def _shipped_plan(self) -> PhysicalPlan:
        """The plan as it travels: tables that are in memory go by file, which the coordinator maps."""
        nodes = dict(self.plan.nodes)
        for number, node in nodes.items():
            if isinstance(node.spec, ReadSpec) and isinstance(node.spec.source, TableSource):
                stored = node.spec.source.stored(str(self.directory / f"table-{number}.arrow"))
                nodes[number] = replace(node, spec=ReadSpec(stored))
        return replace(self.plan, nodes=nodes)

    def _spawn(self, name: str, module: str, arguments: list[str], bootstrap: Bootstrap) -> None:
        self.children.append(_Child(name, module, arguments, bootstrap, self.view))

    # --- watching ---

    def _watch(self, link: Link) -> None:
        while not (self.finished and self.caller.finished):
            for message in link.received():
                match message:
                    case Beat():
                        self._show(message.figures)
                    case Finished():
                        self.figures, self.finished = message.figures, True
                        self._show(message.figures)
                    case Failed():
                        self._ask_for_stack(message)
                        raise self._failure(message)
                    case Data() | Credit() | ClockReading():
                        self.caller.receive(message)
                    case _:
                        pass  # a child says hello
            more = self.caller.work(_STEPS)
            while self.caller.outbox:
                link.send(*self.caller.outbox.popleft())
            self._hand_on_interrupts(link)
            if not more:
                self._check_children(link)
                link.wait(50)

    def _show(self, figures: dict[str, Any]) -> None:
        figures["processes"][CALLER] = self.caller.figures()
        self.view.update(figures)

    def _ask_for_stack(self, failed: Failed) -> None:
        """Let a process that hangs print where it is, if it still can, before it is killed."""
        hangs = failed.error[0] == ProcessError.__name__
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
        for child in self.children:
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
            raise ProcessError(f"{death}; the run ends, and is run again from its start")

    def _left_early(self, child: _Child) -> str | None:
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

    def _hand_on_interrupts(self, link: Link) -> None:
        if self.interrupts == self._handled:
            return
        self._handled = self.interrupts
        if self.interrupts == 1:
            self.view.line("stopping: sources end here, open windows fire, sinks are finished; once more stops at once")
            link.send(COORDINATOR, Stop(True))
        else:
            raise ProcessError("stopped at once, as asked; results are incomplete")
