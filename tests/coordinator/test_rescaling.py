"""Another number of workers, one message at a time: when the coordinator lets the run go on with it, and when not."""

from __future__ import annotations

import random

import pyarrow as pa
from harness.faults import SimulatedDisk, Trouble
from harness.sources import ColumnSource

from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import CheckpointStore
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.core import Coordinator, State
from millstream.flow import Flow
from millstream.plan import PhysicalPlan
from millstream.planner import make_plan
from millstream.topology import CALLER
from millstream.wire import (
    Acknowledged,
    Answered,
    Ask,
    Beat,
    Checkpoint,
    Committed,
    Hello,
    Message,
    Rescale,
    Start,
    Stop,
    Switch,
)


def plan_for(workers: int) -> PhysicalPlan:
    flow = Flow("rescaled")
    flow.source(ColumnSource([[]], pa.schema([("t", pa.int64())]))).collect("out")
    return make_plan(flow, workers=workers, ingest="workers")


class Bench:
    """A coordinator with checkpoints and two workers, and everyone's answers from the test."""

    def __init__(self, workers: int = 2) -> None:
        self.store = CheckpointStore(SimulatedDisk(Trouble(random.Random(0))))
        self.core = Coordinator(
            plan_for(workers), now_us=lambda: 0, dead_letter=print, policy=CheckpointPolicy(10_000_000)
        )
        for name in self.core.members:
            self.core.receive(Hello(name, 1), 0)
        self.look()

    def look(self, at_us: int = 1) -> list[tuple[str, Message]]:
        """What it sends, other than blocks and barriers, when it looks at the clock."""
        self.core.checkpoint_if_due(at_us)
        self.core.work(100)
        self.core.checkpoint_if_due(at_us)
        kinds = Checkpoint | Start | Stop | Switch | Answered
        sent = [(name, m) for name, m in self.core.outbox if isinstance(m, kinds)]
        self.core.outbox.clear()
        return sent

    def acknowledge(self, epoch: int, failure: str = "") -> None:
        for name in (*self.core.members, CALLER):
            self.core.receive(Acknowledged(name, epoch, [], {}, failure), 1)

    def complete(self, epoch: int) -> None:
        self.acknowledge(epoch)
        manifest = self.core.manifest_due()
        assert isinstance(manifest, Manifest) and manifest.epoch == epoch
        self.store.complete(manifest)
        self.core.checkpoint_written()
        for name in (*self.core.members, CALLER):
            self.core.receive(Committed(name, epoch), 1)

    def successor(self, workers: int) -> Coordinator:
        return self.core.successor(plan_for(workers), Recovery(self.store.manifest(1), self.store))


def beat_all(bench: Bench, at_us: int) -> None:
    for name in bench.core.members:
        bench.core.receive(Beat(name, {}), at_us)


def test_the_run_goes_on_as_before_until_new_workers_are_there_and_then_stands_still_behind_a_closing_barrier() -> None:
    bench = Bench()
    bench.core.receive(Rescale(0, 4, 9), 1)
    assert bench.look() == [] and bench.core.next_partition() == 0
    bench.core.receive(Hello("worker-3", 1), 1)
    assert bench.look() == [] and bench.core.next_partition() == 0
    bench.core.receive(Hello("worker-2", 1), 1)
    closing = Checkpoint(1, False, True)
    assert bench.look() == [(CALLER, closing), ("worker-0", closing), ("worker-1", closing)]
    assert bench.core.next_partition() is None
    bench.complete(1)
    switch = Switch(1, 4, 9)
    sent = [(n, m) for n, m in bench.look() if isinstance(m, Switch)]
    assert sent == [(n, switch) for n in ("worker-0", "worker-1", "worker-2", "worker-3", CALLER)]
    assert bench.core.state is State.SWITCHED


def test_workers_that_come_before_the_request_are_not_waited_for_again() -> None:
    bench = Bench(workers=1)
    bench.core.receive(Hello("worker-1", 1), 1)
    bench.core.receive(Rescale(0, 2, 9), 1)
    assert bench.look()[0][1] == Checkpoint(1, False, True)


def test_the_successor_begins_when_everyone_has_switched_the_caller_too_and_says_how_long_it_took() -> None:
    bench = Bench()
    bench.core.receive(Rescale(0, 1, 9), 1)
    bench.look(at_us=1_000)
    bench.complete(1)
    bench.look()
    after = bench.successor(1)
    assert after.attempt == 9 and list(after.members) == ["worker-0"]
    after.receive(Hello("worker-0", 1), 5_000)
    assert after.state is State.STARTING and not [m for _, m in after.outbox if isinstance(m, Start)]
    after.receive(Hello(CALLER, 1), 6_000)
    assert after.state is State.RUNNING
    assert [m for n, m in after.outbox if n == CALLER] == [Answered(0, took_us=5_000)]


def test_a_closing_checkpoint_that_cannot_be_written_lets_everyone_go_on_and_sends_new_workers_away() -> None:
    bench = Bench()
    bench.core.receive(Hello("worker-2", 1), 1)
    bench.core.receive(Rescale(0, 3, 9), 1)
    bench.look()
    bench.acknowledge(1, failure="the disk is full")
    sent = bench.look()
    assert (CALLER, Answered(0, failure="the checkpoint for it could not be written: the disk is full")) in sent
    assert ("worker-2", Stop(False)) in sent
    assert [n for n, m in sent if isinstance(m, Start)] == [CALLER, "worker-0", "worker-1"]
    assert bench.core.next_partition() == 0 and bench.core.state is State.RUNNING


def test_a_worker_that_joins_and_never_says_hello_is_waited_for_as_long_as_any_that_starts() -> None:
    bench = Bench()
    bench.core.receive(Rescale(0, 4, 9), 5_000_000)
    bench.core.receive(Hello("worker-2", 1), 6_000_000)
    beat_all(bench, 65_000_000)
    bench.core.check_members(65_000_000)
    assert bench.look() == [], "there is time"
    bench.core.check_members(65_000_001)
    reason = "worker-3 did not start within 60 s; the run goes on with 2 as before"
    assert bench.look() == [
        (CALLER, Answered(0, failure=reason)), ("worker-2", Stop(False)), ("worker-3", Stop(False)),
    ]  # fmt: skip
    assert bench.core.state is State.RUNNING and bench.core.next_partition() == 0
    bench.core.receive(Rescale(0, 1, 10), 66_000_000)
    assert isinstance(bench.look()[0][1], Checkpoint), "another request is followed"


def test_time_counts_only_while_somebody_is_waited_for() -> None:
    bench = Bench()
    bench.core.receive(Rescale(0, 3, 9), 1)
    bench.core.receive(Hello("worker-2", 1), 50_000_000)
    bench.look()
    beat_all(bench, 100_000_000)
    bench.core.check_members(100_000_000)
    assert bench.look() == [] and bench.core.rescaling.is_closing


def test_a_run_whose_input_has_ended_is_not_rescaled() -> None:
    bench = Bench()
    bench.core.receive(Rescale(0, 3, 9), 1)
    bench.core.on_block(0, None, True, 1)
    sent = bench.look()
    assert (CALLER, Answered(0, failure="the input has ended")) in sent and ("worker-2", Stop(False)) in sent
    bench.core.receive(Rescale(0, 1, 10), 1)
    assert "the input has ended" in next(m.failure for _, m in bench.look() if isinstance(m, Answered))


def test_a_second_request_is_refused_and_takes_no_worker_from_the_first() -> None:
    bench = Bench()
    bench.core.receive(Rescale(0, 3, 9), 1)
    bench.core.receive(Rescale(1, 4, 10), 1)
    assert bench.look() == [
        (CALLER, Answered(1, failure="the run is about to go on with 3 workers already")), ("worker-3", Stop(False)),
    ]  # fmt: skip


def test_who_asks_to_stop_meanwhile_stops_the_run_at_the_same_checkpoint() -> None:
    bench = Bench()
    bench.core.receive(Rescale(0, 1, 9), 1)
    bench.look()
    bench.core.receive(Stop(False), 1)
    bench.complete(1)
    bench.look()
    assert bench.core.state is State.STOPPED


def test_who_asks_to_drain_meanwhile_is_heard_when_the_run_is_not_rescaled_after_all() -> None:
    bench = Bench()
    bench.core.receive(Rescale(0, 1, 9), 1)
    bench.look()
    bench.core.receive(Stop(True), 1)
    assert not bench.core.partitions[0].ended, "nothing may follow the barrier"
    bench.acknowledge(1, failure="the disk is full")
    bench.look()
    assert bench.core.partitions[0].ended and bench.core.state is State.ENDING


def test_a_pause_lasts() -> None:
    bench = Bench()
    bench.core.receive(Ask(3, Ask.PAUSE), 1)
    bench.core.receive(Rescale(0, 1, 9), 1)
    bench.look()
    bench.complete(1)
    bench.look()
    after = bench.successor(1)
    for name in ("worker-0", CALLER):
        after.receive(Hello(name, 1), 1)
    assert after.state is State.RUNNING and after.next_partition() is None
