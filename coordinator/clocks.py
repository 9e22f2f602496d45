"""The clocks of all source partitions: the one place that decides what was late and what fires.

Whoever reads event times, this process or a worker, reports the largest time of each block. Reports are
taken in the order of the partition, so that each block learns the largest time before it, whatever
order the workers finish in. A pure state machine: reports and marks in, readings out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from millstream.errors import InternalError
from millstream.plan import PhysicalPlan
from millstream.specs.ends import EventTimeSpec
from millstream.times import MAX_US, MIN_US, saturating_add
from millstream.topology import Topology
from millstream.watermarks import InputStatus, InputWatermarks, PartitionClock
from millstream.wire import ClockReading, TimeReport


@dataclass(slots=True)
class Mark:
    """What the coordinator knows of a block beside its times: silence, the wall clock, the end.

    Attributes:
        ended: the partition has ended with this block.
        idle: the ``event_time()``s that count the partition as idle from here on.
        raised_us: for an ``event_time()``, what the wall clock raises the watermark to.
        barrier: the epoch of the barrier that goes with the block; 0: none does.
    """

    ended: bool = False
    barrier: int = 0
    idle: frozenset[int] = frozenset()
    raised_us: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Clock:
    clock: PartitionClock
    next: int = 0
    idle: bool = False
    early: dict[int, TimeReport] = field(default_factory=dict)
    resolving: bool = False


class EventClocks:
    """All partition clocks of a run, for each ``event_time()`` that a partition's events reach."""

    def __init__(self, plan: PhysicalPlan, topology: Topology) -> None:
        self.specs: dict[int, EventTimeSpec] = {}
        self._live: dict[int, bool] = {}
        self._clocks: dict[tuple[int, int], _Clock] = {}
        self._firing: dict[int, InputWatermarks] = {}
        self._marks: dict[tuple[int, int], Mark] = {}
        self.at_barrier: dict[tuple[int, int], dict[int, list[int]]] = {}
        """By epoch and source partition, what the clock of each ``event_time()`` had seen when the barrier passed."""
        self._nodes_of: dict[int, list[int]] = {p: [] for p in range(len(plan.partitions))}
        for stage in plan.stages:
            for node, partitions in topology.clocks_of(stage).items():
                spec = plan.nodes[node].spec
                assert isinstance(spec, EventTimeSpec)
                self.specs[node] = spec
                self._live[node] = topology.is_live(node)
                self._firing[node] = InputWatermarks()
                for partition in sorted(partitions):
                    self._clocks[node, partition] = _Clock(PartitionClock(spec.out_of_orderness_us))
                    self._firing[node].add(partition)
                    self._nodes_of[partition].append(node)

    def nodes_of(self, partition: int) -> list[int]:
        return self._nodes_of[partition]

    def mark(self, partition: int, sequence: int, mark: Mark) -> None:
        """Say something of a block before it is sent on its way."""
        if self._nodes_of[partition]:
            self._marks[partition, sequence] = mark

    def report(self, report: TimeReport) -> list[tuple[str, ClockReading]]:
        """Take a report; returns the readings that can be given now, with the worker that waits for each."""
        entry = self._clocks[report.node, report.partition]
        if report.sequence < entry.next or report.sequence in entry.early:
            raise InternalError(f"clock of partition {report.partition}: block {report.sequence} was reported twice")
        entry.early[report.sequence] = report
        if report.resolved:
            entry.resolving = False
        readings: list[tuple[str, ClockReading]] = []
        while not entry.resolving and entry.next in entry.early:
            readings.append(self._read(entry, entry.early.pop(entry.next)))
        return readings

    def _read(self, entry: _Clock, report: TimeReport) -> tuple[str, ClockReading]:
        clock, firing = entry.clock, self._firing[report.node]
        if not report.resolved and self._needs_resolving(report, clock.max_us):
            entry.resolving = True
            return report.worker, self._reading(report, clock.max_us, MIN_US, MIN_US, InputStatus.ACTIVE, resolve=True)
        before_us = clock.max_us
        # After idleness the others may be ahead; what they have made fire cannot be taken back.
        floor_us = max(clock.watermark_us, firing.watermark_us if entry.idle else MIN_US)
        clock.advance(report.max_us)
        mark = self._marks.get((report.partition, report.sequence), Mark())
        clock.raise_to(mark.raised_us.get(report.node, MIN_US))
        if report.node in mark.idle:
            entry.idle = True
        elif entry.idle and report.max_us != MIN_US and clock.watermark_us >= firing.watermark_us:
            entry.idle = False
        status = InputStatus.ENDED if mark.ended else InputStatus.IDLE if entry.idle else InputStatus.ACTIVE
        firing.update(report.partition, clock.watermark_us, status)
        if mark.barrier:
            seen = self.at_barrier.setdefault((mark.barrier, report.partition), {})
            seen[report.node] = [clock.max_us, clock.watermark_us, int(entry.idle)]
        entry.next += 1
        self._forget(report.partition, report.sequence)
        return report.worker, self._reading(report, before_us, floor_us, clock.watermark_us, status, resolve=False)

    def _needs_resolving(self, report: TimeReport, max_us: int) -> bool:
        """Whether rows of a replay may be too far ahead. A first block has only its own rows to compare with."""
        ahead_us = self.specs[report.node].max_ahead_us
        if self._live[report.node] or ahead_us == MAX_US or report.max_us == MIN_US:
            return False
        return max_us == MIN_US or report.max_us > saturating_add(max_us, ahead_us)

    def _forget(self, partition: int, sequence: int) -> None:
        if all(self._clocks[n, partition].next > sequence for n in self._nodes_of[partition]):
            self._marks.pop((partition, sequence), None)

    @staticmethod
    def _reading(
        report: TimeReport, before_us: int, floor_us: int, watermark_us: int, status: InputStatus, *, resolve: bool
    ) -> ClockReading:
        return ClockReading(
            report.node, report.partition, report.sequence, before_us, floor_us, watermark_us, status, resolve
        )

    # --- checkpoints ---

    def passed_barrier(self, epoch: int, partition: int) -> bool:
        """Whether the barrier of a partition has passed all of its clocks."""
        return len(self.at_barrier.get((epoch, partition), {})) == len(self._nodes_of[partition])

    def take_barrier(self, epoch: int, partition: int) -> dict[int, list[int]]:
        """What the clocks of a partition had seen at its barrier; and forget it."""
        return self.at_barrier.pop((epoch, partition), {})

    def forget_barriers(self, epoch: int) -> None:
        """Nobody asks any more for what clocks had seen at the barriers up to this one."""
        self.at_barrier = {key: seen for key, seen in self.at_barrier.items() if key[0] > epoch}

    def restore(self, node: int, partition: int, seen: list[int]) -> None:
        """Go on from what `take_barrier` had given; called for all partitions before the first report."""
        entry = self._clocks[node, partition]
        entry.clock.max_us, entry.clock.watermark_us = seen[0], seen[1]
        entry.idle = bool(seen[2])
        # A partition that was idle is held against what the others had made fire: not when they report again, but now.
        status = InputStatus.IDLE if entry.idle else InputStatus.ACTIVE
        self._firing[node].update(partition, entry.clock.watermark_us, status)

    def restore_ended(self, partition: int) -> None:
        """An earlier life had read all of a partition: it does not count."""
        for node in self._nodes_of[partition]:
            self._firing[node].update(partition, MIN_US, InputStatus.ENDED)

    # --- what others ask ---

    def is_idle(self, node: int, partition: int) -> bool:
        return self._clocks[node, partition].idle

    def largest_us(self, node: int, partition: int) -> int:
        return self._clocks[node, partition].clock.max_us

    def partition_watermark_us(self, partition: int) -> int:
        """The lowest watermark of a partition, for deciding which to read next."""
        return min((self._clocks[n, partition].clock.watermark_us for n in self._nodes_of[partition]), default=MIN_US)

    def watermark_us(self) -> int | None:
        """The firing watermark of the flow's slowest ``event_time()``; None when there is none."""
        return min((f.watermark_us for f in self._firing.values()), default=None)
