"""The coordinator's decisions, one message at a time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from harness.sources import ColumnSource

from millstream import aggregates as ms
from millstream.channel import Budget
from millstream.connectors.base import Block
from millstream.coordinator.core import Coordinator, State
from millstream.coordinator.members import HANG_TIMEOUT_S
from millstream.coordinator.source_partitions import QUIET_STEP_US
from millstream.flow import Flow
from millstream.operators.base import DeadLetter
from millstream.planner import Ingest, make_plan
from millstream.topology import COORDINATOR
from millstream.watermarks import InputStatus
from millstream.windows import tumbling
from millstream.wire import NO_MORE_BLOCKS, Beat, Credit, Data, Failed, Finished, Hello, Message, Start, Stop

HANG_US = int(HANG_TIMEOUT_S * 1_000_000)
NOW = 1_700_000_000_000_000
SCHEMA = pa.schema([("t", pa.int64())])


class Bench:
    """A coordinator with nobody around it."""

    def __init__(
        self,
        *,
        workers: int = 2,
        partitions: int = 1,
        ingest: Ingest = "workers",
        budget_bytes: int = 16 * 2**20,
        **options: Any,
    ) -> None:
        flow = Flow("core")
        stream = flow.source(ColumnSource([[]] * partitions, SCHEMA)).event_time("t", unit="us", **options)
        stream.key_by("t").window(tumbling("1s")).agg(n=ms.count()).collect("out")
        self.letters: list[DeadLetter] = []
        plan = make_plan(flow, workers=workers, ingest=ingest)
        self.core = Coordinator(plan, now_us=lambda: NOW, dead_letter=self.letters.append, budget=Budget(budget_bytes))
        for name in self.core.members:
            self.core.receive(Hello(name, 1), NOW)
        self.sent()

    def sent(self) -> list[tuple[str, Message]]:
        while self.core.work(1_000):
            pass
        messages = list(self.core.outbox)
        self.core.outbox.clear()
        return messages

    def data(self) -> list[tuple[str, Data]]:
        return [(receiver, m) for receiver, m in self.sent() if isinstance(m, Data)]


def block(rows: int = 1, at: int = 0) -> Block:
    return Block(pa.RecordBatch.from_pylist([{"t": at + i} for i in range(rows)], schema=SCHEMA), at, 0, "memory")


# --- starting and ending ---


def test_nothing_is_read_until_everyone_has_said_hello() -> None:
    flow = Flow("core")
    flow.source(ColumnSource([[]], SCHEMA)).collect("out")
    core = Coordinator(make_plan(flow, workers=2), now_us=lambda: NOW, dead_letter=print)
    core.receive(Hello("worker-0", 1), NOW)
    assert (core.state, core.next_partition()) == (State.STARTING, None)
    core.receive(Hello("worker-1", 1), NOW)
    assert (core.state, core.next_partition()) == (State.RUNNING, 0)
    assert list(core.outbox) == [("worker-0", Start(1)), ("worker-1", Start(1))]


def test_the_run_is_done_when_all_sources_have_ended_and_all_workers_have_finished() -> None:
    bench = Bench()
    bench.core.on_block(0, block(), False, NOW)
    bench.core.on_block(0, None, True, NOW)
    assert bench.core.state is State.ENDING
    messages = bench.data()
    assert [(m.sequence, m.status) for _, m in messages if m.origin[1] == 0] == [
        (0, InputStatus.ACTIVE),
        (1, InputStatus.ENDED),
    ]
    ends = [receiver for receiver, m in messages if m.origin[1] == NO_MORE_BLOCKS]
    assert ends == ["worker-0", "worker-1"]
    bench.core.receive(Finished("worker-0", {}), NOW)
    bench.core.work(1)
    assert bench.core.state is State.ENDING
    bench.core.receive(Finished("worker-1", {}), NOW)
    bench.core.work(1)
    assert bench.core.state is State.DONE


def test_a_drain_ends_every_partition_once() -> None:
    bench = Bench(partitions=3)
    bench.core.on_block(1, None, True, NOW)
    bench.core.receive(Stop(True), NOW)
    bench.core.receive(Stop(True), NOW)
    assert bench.core.state is State.ENDING
    ended = Counter(m.origin[1] for _, m in bench.data() if m.status is InputStatus.ENDED)
    assert ended == {0: 1, 1: 1, 2: 1, NO_MORE_BLOCKS: 2}
    assert bench.core.next_partition() is None


def test_the_first_failure_is_the_reason() -> None:
    bench = Bench()
    bench.core.receive(Failed("worker-1", ["UserCodeError", "a", "b", "c"]), NOW)
    bench.core.receive(Failed("worker-0", ["ProcessError", "later"]), NOW)
    assert bench.core.state is State.FAILED
    assert bench.core.failure == Failed("worker-1", ["UserCodeError", "a", "b", "c"])
    assert bench.core.next_partition() is None


@pytest.mark.parametrize(("silence_us", "state"), [(HANG_US, State.RUNNING), (HANG_US + 1, State.FAILED)])
def test_a_worker_that_says_nothing_for_too_long_fails_the_run(silence_us: int, state: State) -> None:
    bench = Bench()
    bench.core.receive(Beat("worker-0", {}), NOW + silence_us)
    bench.core.check_members(NOW + silence_us)
    assert bench.core.state is state
    if bench.core.failure is not None:
        assert bench.core.failure.process == "worker-1"


# --- which partition, and to whom ---


def test_blocks_of_a_partition_are_numbered_and_dealt_to_who_has_most_room() -> None:
    bench = Bench()
    for number in range(4):
        bench.core.on_block(0, block(10, number), False, NOW)
    dealt = bench.data()
    assert [m.sequence for _, m in dealt] == [0, 1, 2, 3]
    assert [receiver for receiver, _ in dealt] == ["worker-0", "worker-1", "worker-0", "worker-1"]
    bench.core.receive(
        Credit(dealt[1][1].exchange, dealt[1][1].origin[0], "worker-1", dealt[1][1].size_bytes, 2**24), NOW
    )
    bench.core.on_block(0, block(10, 5), False, NOW)
    assert bench.data()[0][0] == "worker-1"


def test_nothing_is_read_while_nobody_has_room() -> None:
    bench = Bench(budget_bytes=1)
    for _ in range(2):
        assert bench.core.next_partition() == 0
        bench.core.on_block(0, block(), False, NOW)
    assert bench.core.next_partition() is None
    receiver, data = bench.data()[0]
    bench.core.receive(Credit(data.exchange, data.origin[0], receiver, data.size_bytes, 2**24), NOW)
    assert bench.core.next_partition() == 0


def test_partitions_take_turns_while_their_watermarks_are_equal_and_then_the_lowest_is_read() -> None:
    bench = Bench(partitions=3, ingest="coordinator", max_ahead=None)
    assert sorted(i for i in (bench.core.next_partition() for _ in range(3)) if i is not None) == [0, 1, 2]
    for partition, at in ((0, 50), (1, 10), (2, 30)):
        bench.core.on_block(partition, block(1, at), False, NOW)
        for receiver, data in bench.data():
            if data.size_bytes:
                bench.core.receive(Credit(data.exchange, data.origin[0], receiver, data.size_bytes, 2**24), NOW)
    assert bench.core.next_partition() == 1


def test_a_partition_that_had_nothing_is_asked_again_only_when_it_is_woken() -> None:
    bench = Bench()
    bench.core.on_block(0, None, False, NOW)
    assert bench.core.next_partition() is None
    assert bench.data() == []
    bench.core.wake(0)
    assert bench.core.next_partition() == 0


# --- quiet sources ---


def quiet(bench: Bench, *moments_s: float) -> list[Data]:
    for moment in moments_s:
        bench.core.wake(0)
        bench.core.on_block(0, None, False, NOW + int(moment * 1_000_000))
    return [m for _, m in bench.data()]


def test_a_partition_is_idle_after_its_timeout_of_being_asked_in_vain() -> None:
    bench = Bench(idle="5s")
    assert quiet(bench, 0, 3, 4.999999) == []
    (idle,) = quiet(bench, 5)
    assert bench.core.clocks._marks[0, idle.sequence].idle == frozenset(bench.core.clocks.nodes_of(0))


def test_an_event_starts_the_silence_anew() -> None:
    bench = Bench(idle="5s")
    assert quiet(bench, 0, 4) == []
    bench.core.on_block(0, block(), False, NOW + 4_500_000)
    bench.data()
    assert quiet(bench, 5, 9.9) == []
    assert len(quiet(bench, 10)) == 1


def test_the_watermark_follows_the_wall_clock_while_a_source_is_quiet() -> None:
    bench = Bench(ingest="coordinator", quiet="1s", out_of_orderness="2s", max_ahead=None)
    bench.core.on_block(0, block(1, 100_000_000), False, NOW)
    bench.data()
    assert quiet(bench, 0, 0.9) == []
    raised = quiet(bench, 1.5)
    assert {m.watermark_us for m in raised} == {99_500_000}
    assert quiet(bench, 1.5 + QUIET_STEP_US / 1e6 - 0.001) == []
    assert {m.watermark_us for m in quiet(bench, 1.5 + QUIET_STEP_US / 1e6)} == {99_700_000}


def test_a_source_that_never_had_an_event_has_no_time_to_follow() -> None:
    assert quiet(Bench(quiet="1s"), 0, 10, 20) == []


def test_reports_of_its_own_stages_are_answered_and_are_work_to_do() -> None:
    # Where they were not, the process would wait for messages, and the next would be one of its own.
    bench = Bench(ingest="coordinator")
    bench.core.on_block(0, block(3), False, NOW)
    turns = 1
    while bench.core.work(1_000):
        assert all(receiver != COORDINATOR for receiver, _ in bench.core.outbox)
        turns += 1
    assert turns > 1
    assert {m.sequence for _, m in bench.core.outbox if isinstance(m, Data)} == {0}
