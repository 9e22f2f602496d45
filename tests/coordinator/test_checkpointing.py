"""What the coordinator makes of checkpoints that succeed and fail."""

from __future__ import annotations

from dataclasses import astuple, replace

import pyarrow as pa
from harness.sources import ColumnSource

from millstream.checkpoints.manifest import TableFile
from millstream.coordinator.checkpointing import FINAL_TRIES, CheckpointPolicy
from millstream.coordinator.core import Coordinator, State
from millstream.flow import Flow
from millstream.planner import make_plan
from millstream.topology import CALLER, COORDINATOR
from millstream.wire import (
    Acknowledged,
    Answered,
    Ask,
    Checkpoint,
    Committed,
    Completed,
    Finished,
    Hello,
    Message,
    Stop,
)

SECOND = 1_000_000


class Bench:
    """A coordinator with checkpoints, alone with one worker and the caller, whose clock the test sets."""

    def __init__(self, interval_us: int = 10 * SECOND) -> None:
        flow = Flow("checkpoints")
        flow.source(ColumnSource([[]], pa.schema([("t", pa.int64())]))).collect("out")
        plan = make_plan(flow, workers=1, ingest="workers")
        self.now_us = 0
        self.core = Coordinator(
            plan, now_us=lambda: 0, dead_letter=lambda letter: None, policy=CheckpointPolicy(interval_us)
        )
        self.core.receive(Hello("worker-0", 1), 0)
        self.look()

    def look(self, at_us: int | None = None) -> list[Message]:
        """What it sends, other than blocks, when it looks at the clock."""
        self.now_us = self.now_us if at_us is None else at_us
        self.core.checkpoint_if_due(self.now_us)
        self.core.work(100)
        self.core.checkpoint_if_due(self.now_us)
        sent = [m for _, m in self.core.outbox if isinstance(m, Checkpoint | Completed)]
        self.core.outbox.clear()
        return sent

    def acknowledge(self, epoch: int, failure: str = "") -> None:
        for name in ("worker-0", CALLER):
            self.core.receive(Acknowledged(name, epoch, [], {}, failure), self.now_us)

    def end_input(self) -> None:
        self.core.on_block(0, None, True, self.now_us)
        self.core.receive(Finished("worker-0", {}), self.now_us)


def test_a_late_answer_to_a_checkpoint_that_was_given_up_is_not_taken_for_one_to_the_next() -> None:
    bench = Bench()
    assert bench.look(10 * SECOND) == [Checkpoint(1, False)] * 2
    bench.core.receive(Acknowledged("worker-0", 1, [], {}, "worker-0: disk full"), bench.now_us)
    assert bench.look(20 * SECOND) == [Checkpoint(2, False)] * 2
    bench.core.receive(Acknowledged(CALLER, 1, [], {}), bench.now_us)
    bench.core.receive(Acknowledged("worker-0", 2, [], {}), bench.now_us)
    assert bench.core.manifest_due() is None
    bench.core.receive(Acknowledged(CALLER, 2, [], {}), bench.now_us)
    manifest = bench.core.manifest_due()
    assert manifest is not None and manifest.epoch == 2


def test_what_was_written_for_a_checkpoint_that_was_given_up_is_to_be_removed_once() -> None:
    bench = Bench()
    bench.look(10 * SECOND)
    assert bench.core.take_given_up() is None
    bench.core.receive(Acknowledged("worker-0", 1, [], {}, "worker-0: disk full"), bench.now_us)
    assert bench.core.take_given_up() == 1
    assert bench.core.take_given_up() is None


def test_the_run_ends_when_the_last_checkpoint_exists_and_everyone_has_shown_what_it_counts() -> None:
    bench = Bench()
    bench.end_input()
    assert bench.look() == [Checkpoint(1, True, True)] * 2
    bench.acknowledge(1)
    manifest = bench.core.manifest_due()
    assert manifest is not None and manifest.finished
    bench.core.checkpoint_written()
    assert bench.look() == [Completed(1)] * 2
    bench.core.receive(Committed("worker-0", 1), 0)
    bench.look()
    assert bench.core.state is State.ENDING
    bench.core.receive(Committed(CALLER, 1), 0)
    bench.look()
    assert bench.core.state is State.DONE


def test_a_last_checkpoint_that_fails_is_tried_again_a_few_times_and_then_the_run_says_why_it_ends() -> None:
    bench = Bench()
    bench.end_input()
    for tried in range(1, FINAL_TRIES + 1):
        assert bench.look(tried * SECOND) == [Checkpoint(tried, True, True)] * 2
        bench.acknowledge(tried, "worker-0: No space left on device")
        if tried < FINAL_TRIES:
            assert bench.look(tried * SECOND + 999_999) == []  # not in a circle without a pause
    bench.look((FINAL_TRIES + 1) * SECOND)
    assert bench.core.state is State.FAILED
    assert bench.core.failure is not None and bench.core.failure.process == COORDINATOR
    kind, text = bench.core.failure.error
    assert kind == "CheckpointError"
    assert "No space left on device" in text and "run again to go on from there" in text


def test_a_failure_or_two_in_the_middle_of_a_run_do_not_end_it() -> None:
    bench = Bench()
    for number in range(1, 2 * FINAL_TRIES):
        assert bench.look(10 * number * SECOND) == [Checkpoint(number, False)] * 2
        bench.acknowledge(number, "worker-0: No space left on device")
    assert bench.core.state is State.RUNNING


def test_who_asks_a_run_to_stop_whose_input_has_ended_gets_its_end() -> None:
    bench = Bench()
    bench.core.on_block(0, None, True, 0)
    bench.core.receive(Stop(False), 0)
    assert bench.core.state is State.ENDING
    bench.core.receive(Finished("worker-0", {}), 0)
    assert bench.look() == [Checkpoint(1, True, True)] * 2


# --- what is asked of a run ---


def answers(bench: Bench) -> list[Answered]:
    return [m for _, m in bench.core.outbox if isinstance(m, Answered)]


def ask(bench: Bench, what: str, number: int = 7) -> None:
    bench.core.receive(Ask(number, what), bench.now_us)


def test_a_checkpoint_that_is_asked_for_begins_at_once_and_is_answered_when_it_exists() -> None:
    bench = Bench()
    ask(bench, Ask.CHECKPOINT)
    assert bench.look(at_us=1) == [Checkpoint(1, False)] * 2
    bench.acknowledge(1)
    assert bench.core.manifest_due() is not None and not answers(bench)
    bench.core.checkpoint_written()
    assert answers(bench) == [Answered(7, 1)]


def test_one_that_is_asked_for_while_another_is_under_way_is_the_next() -> None:
    bench = Bench()
    bench.look()
    bench.look(at_us=10 * SECOND)
    ask(bench, Ask.SAVEPOINT)
    assert bench.look() == []
    bench.acknowledge(1)
    assert bench.core.manifest_due() is not None
    bench.core.checkpoint_written()
    assert not answers(bench) and Checkpoint(2, False) in bench.look()
    assert bench.core.asked_checkpoints.pinned == {2}
    bench.acknowledge(2)
    assert bench.core.manifest_due() is not None
    bench.core.checkpoint_written()
    assert answers(bench) == [Answered(7, 2)] and bench.core.asked_checkpoints.pinned == {2}
    bench.core.receive(Ask(8, Ask.RELEASE, 2), bench.now_us)
    assert not bench.core.asked_checkpoints.pinned


def test_whoever_asked_for_a_checkpoint_that_was_given_up_learns_why() -> None:
    bench = Bench()
    ask(bench, Ask.SAVEPOINT)
    bench.look()
    bench.acknowledge(1, failure="worker-0: the disk is full")
    assert answers(bench) == [Answered(7, 1, "worker-0: the disk is full")] and not bench.core.asked_checkpoints.pinned


def test_nothing_is_read_while_the_run_is_paused() -> None:
    bench = Bench()
    assert bench.core.next_partition() == 0
    ask(bench, Ask.PAUSE)
    assert bench.core.next_partition() is None and bench.core.figures()["state"] == "paused"
    ask(bench, Ask.CHECKPOINT)
    assert bench.look(at_us=1) == [Checkpoint(1, False)] * 2
    ask(bench, Ask.RESUME)
    assert bench.core.next_partition() == 0


def test_the_time_of_a_pause_is_no_silence_of_the_source() -> None:
    bench = Bench()
    bench.core.on_block(0, None, False, 0)
    ask(bench, Ask.PAUSE)
    bench.now_us = 100 * SECOND
    ask(bench, Ask.RESUME)
    bench.core.wake(0)
    bench.core.on_block(0, None, False, 101 * SECOND)
    assert bench.core.partitions[0].quiet_us == 0


def test_what_was_written_for_a_checkpoint_is_told_beside_the_whole_state_each_file_once() -> None:
    bench = Bench()
    bench.look(10 * SECOND)
    bench.acknowledge(1)
    assert bench.core.manifest_due() is not None
    bench.core.checkpoint_written()
    bench.look(20 * SECOND)
    old = TableFile("agg", "standing", 0, 1, "tables/00000001-1-worker-0-1-2-0", 60, 1_000, "")
    rest = replace(old, rows=30, first=70)  # the rows between have gone
    new = replace(old, path="tables/00000002-1-worker-0-1-2-0", rows=5, size_bytes=80)
    tables = [list(astuple(table)) for table in (old, rest, new)]
    bench.core.receive(Acknowledged("worker-0", 2, tables, {}), bench.now_us)
    assert bench.core.checkpointing is not None
    assert bench.core.checkpointing.sizes() == {"agg": [95, 1_080, 80]}
