"""`FlowTest`: a flow under test, fed by hand, on virtual time, in this process.

    test = FlowTest(flow)
    test.feed([{"at": "2024-05-01T10:00:00Z", "user": "ann"}])
    test.watermark("2024-05-01T11:00:00Z")
    assert test.outputs("sessions") == [...]

The flow is the user's own: its sources are replaced by what the test feeds, its sinks by lists, and everything
between runs as it does in a run, on the same coordinator and workers (local.py). Nothing waits and nothing is
written; processing time stands still until the test moves it. After every step the Python state of all
operators goes through the codec that checkpoints use, so a type that would not survive one fails here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from millstream.coordinator.clocks import Mark
from millstream.coordinator.feeding import Feed, Tap
from millstream.coordinator.local import LocalRun, VirtualClock
from millstream.errors import FlowError
from millstream.flow import Flow
from millstream.operators.base import DeadLetter, Operator
from millstream.operators.process import ProcessOperator
from millstream.operators.scan import Scan
from millstream.plan import Node, Port
from millstream.planner import make_plan
from millstream.processing import Timer
from millstream.specs.base import MAIN
from millstream.specs.ends import EventTimeSpec, ReadSpec, SinkSpec
from millstream.specs.keyed import KeyBySpec
from millstream.specs.process import ProcessSpec
from millstream.times import Duration, datetime_us, duration_us

_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
_STEP_US: Final = 200_000  # how often silence is looked at, as in a run: idle= and quiet= count it


class FlowTest:
    """A flow on the bench; usable as a context manager, which ends it.

    Args:
        flow: as it is run elsewhere; it is not changed. Its sources are not opened (but a file that is there may
            be looked at for its fields), and its sinks are not written.
        workers: between how many workers keys are divided.
        batch_size: how many rows of what is fed go together, at most.
        start: processing time at the beginning.
    Raises:
        FlowError, SchemaError: the flow cannot run, as `Flow.run` would say.
    """

    def __init__(self, flow: Flow, workers: int = 1, *, batch_size: int = 65_536, start: datetime = _START) -> None:
        self._feeds: dict[str, Feed] = {}
        self._taps: dict[Port, Tap] = {}
        self._ports: dict[str, Port] = {}
        self._letters: list[DeadLetter] = []
        self._clock = _TestClock(datetime_us(start))
        self.ended = False
        plan = make_plan(self._on_the_bench(flow), workers=workers, batch_rows=batch_size, ingest="coordinator")
        self._run = _SteppedRun(plan, self._letters.append, clock=self._clock)
        self._times = [n.id for n in plan.nodes.values() if isinstance(n.spec, EventTimeSpec)]
        self._counts_silence = any(
            s.idle_us is not None or s.quiet_us is not None
            for s in (plan.nodes[n].spec for n in self._times)
            if isinstance(s, EventTimeSpec)
        )
        self._run.start()
        self._settle()

    # --- what happens ---

    def feed(self, source: str | Iterable[Any], rows: Iterable[Any] | None = None) -> Self:
        """Let a source give rows, and let the flow work on them.

        Args:
            source: the name of the source ("read_csv", "generate_2"); may be left out where there is one.
            rows: dicts (a missing field is null), dataclasses, named tuples, or an Arrow table or batch.
        Raises:
            FlowError: no such source, or a field that it does not have.
            MillstreamError: what the run would have failed with.
        """
        if rows is None:
            if isinstance(source, str):
                raise FlowError(f"feed({source!r}): rows are missing; feed(rows), or feed({source!r}, rows)")
            rows, name = source, None
        else:
            name = str(source)
        feed = self._feed(name)
        feed.put(rows)
        return self._moved()

    def watermark(self, time: datetime | str | int, source: str | None = None) -> Self:
        """Say that no event before a time comes any more: event time passes without an event.

        Args:
            time: a datetime, ISO 8601 text (naive times are UTC), or microseconds since the epoch.
            source: of which source; None: of all.
        Raises:
            FlowError: the flow has no event time.
        """
        time_us = _time_us(time)
        if not self._times:
            raise FlowError("watermark(...): no stream of the flow has an event_time(); advance(...) moves the clock")
        for name, feed in self._feeds.items():
            if source is None or feed is self._feed(source):
                self._run.raise_watermark(self._partition_of(name), time_us)
        return self._moved()

    def advance(self, duration: Duration) -> Self:
        """Let processing time pass; what is due on the way happens in its order.

        Args:
            duration: as "10s" or a ``timedelta``.
        """
        end_us = self._clock() + duration_us(duration, "advance")
        while True:
            due_us = self._run.due_us()
            step_us = min(end_us, self._clock() + _STEP_US) if self._counts_silence else end_us
            next_us = step_us if due_us is None else min(step_us, max(due_us, self._clock()))
            self._clock.jump_to(next_us)
            self._settle()
            still_due_us = self._run.due_us()
            if self._clock() >= end_us and (still_due_us is None or still_due_us > end_us):
                return self._moved()

    def end(self) -> Self:
        """End all sources, as the end of a file does, and let the flow come to its end."""
        for feed in self._feeds.values():
            feed.ended = True
        self._run.finish()
        self.ended = True
        return self

    def close(self) -> None:
        """Let go of the flow where it is."""
        if not self.ended:
            self._run.abort()
            self.ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- what came of it ---

    def outputs(self, name: str | None = None) -> list[dict[str, Any]]:
        """The rows that came out since the last look, in order.

        Args:
            name: an operator ("process"), an output of it beside the main one ("process.alerts", "agg.late"), or a
                sink ("write_jsonl", or the name given to ``collect``). None: the only sink.
        Raises:
            FlowError: there is none of that name.
        """
        return self._tap(name).take()

    def state(self, operator: str, key: Any) -> Any:
        """What an operator with Python state keeps for a key: of a ``process`` a dict by state name, of a ``scan``
        its state; None: nothing.

        Args:
            key: the value of the key field, or a tuple where there are several.
        Raises:
            FlowError: the operator keeps no Python state.
        """
        for part in self._parts(operator):
            if isinstance(part, ProcessOperator):
                found = part.table.view(key)
            elif isinstance(part, Scan):
                found = part.states.get(key)
            else:
                raise FlowError(f"state({operator!r}): it keeps no state of yours; process and scan do")
            if found is not None:
                return found
        return None

    def timers(self, operator: str, key: Any) -> list[Timer]:
        """The timers that are set for a key of a ``process``, the first to fire first.

        Raises:
            FlowError: the operator is no ``process``.
        """
        found: list[Timer] = []
        for part in self._parts(operator):
            if not isinstance(part, ProcessOperator):
                raise FlowError(f"timers({operator!r}): it is no process")
            found += part.timers_of(key)
        return sorted(found)

    def figures(self, operator: str) -> dict[str, int]:
        """The counters of an operator, over all workers, as a run shows them."""
        total: dict[str, int] = {}
        for part in self._parts(operator):
            for name, figure in part.figures().items():
                total[name] = total.get(name, 0) + figure
        return total

    @property
    def now(self) -> datetime:
        """Processing time."""
        return datetime.fromtimestamp(self._clock() / 1_000_000, UTC)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """Records that could not be processed, and why."""
        return list(self._letters)

    # --- how it is done ---

    def _on_the_bench(self, flow: Flow) -> Flow:
        """The flow with feeds for sources and taps for sinks, and a tap on every output with a name."""
        bench = Flow(flow.name)
        sinks: list[Node] = []
        for node in flow.nodes:
            if isinstance(node.spec, SinkSpec):
                sinks.append(node)
                continue
            if isinstance(node.spec, ReadSpec):
                feed = self._feeds[node.name] = Feed(node.name, node.spec.source)
                node = replace(node, spec=ReadSpec(feed))
            bench.nodes.append(node)
        read = [n.inputs[0] for n in sinks]
        for node in bench.nodes:
            ports = [Port(node.id)] if node.spec.keyed else []
            ports += [Port(node.id, n) for n in node.spec.late_ports]
            if isinstance(node.spec, ProcessSpec):
                ports += [Port(node.id, n) for n in node.spec.output_names]
            for port in [*ports, *(p for p in read if p.node == node.id)]:
                self._ports[node.name if port.name == MAIN else f"{node.name}.{port.name}"] = port
        for sink in sinks:
            given = getattr(sink.spec.sink, "name", "") if isinstance(sink.spec, SinkSpec) else ""
            self._ports[given or sink.name] = sink.inputs[0]
        number = max((n.id for n in flow.nodes), default=0)
        for port in dict.fromkeys(self._ports.values()):
            number += 1
            tap = self._taps[port] = Tap()
            bench.nodes.append(Node(number, f"tap_{number}", SinkSpec(tap), (port,), "FlowTest"))
        self._sinks = [n.inputs[0] for n in sinks]
        return bench

    def _feed(self, name: str | None) -> Feed:
        if name is None:
            if len(self._feeds) != 1:
                raise FlowError(f"feed(rows): the flow has {len(self._feeds)} sources; say which: feed(name, rows), "
                                f"with one of {_listed(self._feeds)}")  # fmt: skip
            return next(iter(self._feeds.values()))
        if name not in self._feeds:
            raise FlowError(f"feed({name!r}): no source of that name; there are {_listed(self._feeds)}")
        return self._feeds[name]

    def _partition_of(self, source: str) -> int:
        plan = self._run.plan
        return next(i for i, (node, _) in enumerate(plan.partitions) if plan.nodes[node].name == source)

    def _tap(self, name: str | None) -> Tap:
        if name is None:
            ports = dict.fromkeys(self._sinks or self._ports.values())
            if len(ports) != 1:
                raise FlowError(f"outputs(): the flow has {len(ports)} outputs; say which of {_listed(self._ports)}")
            return self._taps[next(iter(ports))]
        if name not in self._ports:
            raise FlowError(f"outputs({name!r}): nothing of that name comes out; there are {_listed(self._ports)}")
        return self._taps[self._ports[name]]

    def _parts(self, operator: str) -> list[Operator]:
        """The parts of an operator, one a process that runs it."""
        nodes = self._run.plan.nodes.values()
        node = next((n for n in nodes if n.name == operator and not isinstance(n.spec, KeyBySpec)), None)
        if node is None:
            known = [n.name for n in nodes if not isinstance(n.spec, SinkSpec | KeyBySpec)]
            raise FlowError(f"no operator is named {operator!r}; there are {_listed(known)}")
        return [s.operators[node.id] for r in self._run.runners() for s in r.stages.values() if node.id in s.operators]

    def _settle(self) -> None:
        self._run.settle()

    def _moved(self) -> Self:
        self._settle()
        for runner in self._run.runners():
            for stage in runner.stages.values():
                for operator in stage.operators.values():
                    if isinstance(operator, ProcessOperator | Scan):
                        operator.round_trip()
        return self


class _TestClock(VirtualClock):
    """Processing time that stands still until somebody moves it."""

    def __init__(self, start_us: int) -> None:
        super().__init__()
        self._now_us = start_us

    def __call__(self) -> int:
        return self._now_us

    def jump_to(self, moment_us: int) -> None:
        self._now_us = max(self._now_us, moment_us)


class _SteppedRun(LocalRun):
    """A run that goes on only as far as there is something to do."""

    def settle(self) -> None:
        """Work until nobody has anything to do."""
        for partition in range(len(self.plan.partitions)):
            self.coordinator.wake(partition)
        # A partition that has nothing is no reason to stop while another has not been asked.
        while self._round() or self.coordinator.next_partition() is not None:
            pass

    def raise_watermark(self, partition: int, time_us: int) -> None:
        nodes = self.coordinator.clocks.nodes_of(partition)
        self.coordinator.partitions.deal(partition, None, Mark(raised_us=dict.fromkeys(nodes, time_us)))

    def due_us(self) -> int | None:
        dues = [r.due_us() for r in self.runners()]
        return min((d for d in dues if d is not None), default=None)

    def runners(self) -> list[Any]:
        return [self.coordinator.runner, *(w.runner for w in self.workers.values()), self.caller.runner]

    def finish(self) -> None:
        try:
            self.settle()
            while not self.done:
                self.step()
        except BaseException:
            self.abort()
            raise
        finally:
            self.readers.close()

    def abort(self) -> None:
        for worker in self.workers.values():
            worker.runner.abort()
        self.caller.abort()
        self.readers.close()


def _time_us(time: datetime | str | int) -> int:
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError as error:
            raise FlowError(f"watermark({time!r}): no ISO 8601 time: {error}") from error
    return datetime_us(time) if isinstance(time, datetime) else time


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
