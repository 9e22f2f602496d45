"""The clocks of source partitions: every block learns what was before it, whatever order reports come in."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest
from harness.sources import ColumnSource

from millstream import aggregates as ms
from millstream.coordinator.clocks import EventClocks, Mark
from millstream.errors import InternalError
from millstream.flow import Flow
from millstream.planner import make_plan
from millstream.specs.ends import EventTimeSpec
from millstream.times import MAX_US, MIN_US
from millstream.topology import Topology
from millstream.watermarks import InputStatus
from millstream.windows import tumbling
from millstream.wire import ClockReading, TimeReport

SECOND = 1_000_000


class Clocks:
    """The clocks of a flow with one ``event_time()`` over several partitions."""

    def __init__(self, partitions: int = 1, **options: Any) -> None:
        flow = Flow("clocks")
        stream = flow.source(ColumnSource([[]] * partitions, pa.schema([("t", pa.int64())])))
        timed = stream.event_time("t", unit="us", **{"out_of_orderness": "1s", "max_ahead": None, **options})
        timed.key_by("t").window(tumbling("1s")).agg(n=ms.count()).collect("out")
        plan = make_plan(flow, workers=2)
        self.clocks = EventClocks(plan, Topology(plan))
        self.node = next(n.id for n in plan.nodes.values() if isinstance(n.spec, EventTimeSpec))

    def report(
        self, sequence: int, seconds: float | None, *, partition: int = 0, resolved: bool = False
    ) -> list[tuple[int, ClockReading]]:
        max_us = MIN_US if seconds is None else int(seconds * SECOND)
        answers = self.clocks.report(
            TimeReport(self.node, f"worker-{sequence % 2}", partition, sequence, max_us, resolved)
        )
        assert all(worker == f"worker-{reading.sequence % 2}" for worker, reading in answers), (
            "the answer goes to who asked"
        )
        return [(reading.sequence, reading) for _, reading in answers]

    def one(self, sequence: int, seconds: float | None, **options: Any) -> ClockReading:
        ((_, reading),) = self.report(sequence, seconds, **options)
        return reading


def test_each_block_learns_the_largest_time_before_it() -> None:
    clocks = Clocks()
    first, second, third = clocks.one(0, 10), clocks.one(1, 5), clocks.one(2, 20)
    assert [r.before_us for r in (first, second, third)] == [MIN_US, 10 * SECOND, 10 * SECOND]
    assert [r.watermark_us for r in (first, second, third)] == [9 * SECOND, 9 * SECOND, 19 * SECOND]
    assert {r.status for r in (first, second, third)} == {InputStatus.ACTIVE}


def test_reports_in_any_order_give_the_same_readings() -> None:
    times = [10, 5, None, 30, 20, None, 31]
    expected = [Clocks().report(0, 10)[0][1]]
    straight = Clocks()
    expected = [straight.one(n, t) for n, t in enumerate(times)]
    for seed in range(20):
        order = list(range(len(times)))
        random.Random(seed).shuffle(order)
        clocks = Clocks()
        readings = [answer for n in order for answer in clocks.report(n, times[n])]
        assert [n for n, _ in readings] == list(range(len(times)))
        assert [r for _, r in readings] == expected


def test_partitions_have_clocks_of_their_own_and_the_lowest_fires() -> None:
    clocks = Clocks(2)
    clocks.one(0, 100, partition=0)
    assert clocks.clocks.watermark_us() == MIN_US
    assert clocks.one(0, 10, partition=1).before_us == MIN_US
    assert clocks.clocks.watermark_us() == 9 * SECOND
    assert (clocks.clocks.partition_watermark_us(0), clocks.clocks.partition_watermark_us(1)) == (
        99 * SECOND,
        9 * SECOND,
    )


def test_the_end_of_a_partition_comes_with_its_last_block() -> None:
    clocks = Clocks(2)
    clocks.clocks.mark(0, 1, Mark(ended=True))
    assert clocks.one(0, 10).status is InputStatus.ACTIVE
    assert clocks.one(1, None).status is InputStatus.ENDED
    clocks.one(0, 50, partition=1)
    assert clocks.clocks.watermark_us() == 49 * SECOND
    clocks.clocks.mark(1, 1, Mark(ended=True))
    clocks.one(1, None, partition=1)
    assert clocks.clocks.watermark_us() == MAX_US


def test_a_block_reported_twice_is_a_bug_of_ours() -> None:
    clocks = Clocks()
    clocks.report(1, 5)
    with pytest.raises(InternalError, match="reported twice"):
        clocks.report(1, 5)
    clocks.report(0, 5)
    with pytest.raises(InternalError, match="reported twice"):
        clocks.report(0, 5)


# --- idleness ---


def test_an_idle_partition_counts_again_once_it_has_caught_up_and_its_rows_are_judged_by_the_others() -> None:
    clocks = Clocks(2, idle="5s")
    clocks.one(0, 10, partition=0)
    clocks.one(0, 100, partition=1)
    clocks.clocks.mark(0, 1, Mark(idle=frozenset((clocks.node,))))
    assert clocks.one(1, None, partition=0).status is InputStatus.IDLE
    assert clocks.clocks.is_idle(clocks.node, 0)
    assert clocks.clocks.watermark_us() == 99 * SECOND
    behind = clocks.one(2, 50, partition=0)
    assert (behind.status, behind.before_us, behind.floor_us) == (InputStatus.IDLE, 10 * SECOND, 99 * SECOND)
    almost = clocks.one(3, 99.999999, partition=0)
    assert (almost.status, almost.floor_us) == (InputStatus.IDLE, 99 * SECOND)
    caught_up = clocks.one(4, 100, partition=0)
    assert (caught_up.status, caught_up.floor_us) == (InputStatus.ACTIVE, 99 * SECOND)
    assert clocks.one(5, 101, partition=0).floor_us == 99 * SECOND
    assert clocks.clocks.watermark_us() == 99 * SECOND


def test_the_wall_clock_raises_a_quiet_partition_and_never_lowers_it() -> None:
    clocks = Clocks()
    clocks.one(0, 10)
    clocks.clocks.mark(0, 1, Mark(raised_us={clocks.node: 30 * SECOND}))
    assert clocks.one(1, None).watermark_us == 30 * SECOND
    assert clocks.one(2, 20).watermark_us == 30 * SECOND
    assert clocks.one(3, 40).watermark_us == 39 * SECOND


# --- rows too far ahead ---


@pytest.mark.parametrize(("seconds", "asks"), [(19, False), (20, False), (20.000001, True)])
def test_a_block_is_asked_to_take_rows_out_only_where_one_may_be_too_far_ahead(seconds: float, asks: bool) -> None:
    clocks = Clocks(max_ahead="10s")
    assert clocks.one(0, 10).resolve, "a first block has only its own rows to compare with"
    assert not clocks.one(0, 10, resolved=True).resolve
    assert clocks.one(1, seconds).resolve == asks


def test_blocks_wait_until_the_one_before_has_taken_its_rows_out() -> None:
    clocks = Clocks(max_ahead="10s")
    clocks.one(0, 10)
    clocks.one(0, 10, resolved=True)
    assert clocks.one(1, 1000).resolve
    assert clocks.report(2, 12) == []
    answers = clocks.report(1, 11, resolved=True)
    assert [(n, r.resolve, r.before_us) for n, r in answers] == [(1, False, 10 * SECOND), (2, False, 11 * SECOND)]


def test_a_block_without_times_is_never_asked() -> None:
    assert not Clocks(max_ahead="10s").one(0, None).resolve


def test_after_a_recovery_an_idle_partition_is_held_against_what_the_others_had_made_fire() -> None:
    clocks = Clocks(partitions=3)
    clocks.clocks.restore(clocks.node, 0, [11 * SECOND, 10 * SECOND, 1])  # idle
    clocks.clocks.restore(clocks.node, 1, [101 * SECOND, 100 * SECOND, 0])
    clocks.clocks.restore_ended(2)
    # Nobody else has reported yet; windows up to 100 s have fired in an earlier life all the same.
    reading = clocks.one(0, 50)
    assert reading.floor_us == 100 * SECOND
    assert reading.status is InputStatus.IDLE


def test_what_was_seen_at_barriers_that_nobody_asks_for_is_forgotten() -> None:
    clocks = Clocks()
    for sequence, epoch in enumerate((1, 2, 3)):
        clocks.clocks.mark(0, sequence, Mark(barrier=epoch))
        clocks.one(sequence, None)
    clocks.clocks.forget_barriers(2)
    assert not clocks.clocks.passed_barrier(2, 0)
    assert clocks.clocks.passed_barrier(3, 0)
