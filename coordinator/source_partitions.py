"""Source partitions as the coordinator leads them: which is read next, how their blocks are dealt out, when one is quiet.

A pure state machine beside the `Runner` that sends the blocks. Whoever reads asks it for a partition and
gives it what came of reading that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from millstream.checkpoints.recovery import Recovery
from millstream.connectors.base import Block
from millstream.coordinator.clocks import EventClocks, Mark
from millstream.plan import PhysicalPlan, Port
from millstream.runner import Runner
from millstream.sending import Outgoing
from millstream.times import MIN_US, saturating_add
from millstream.topology import COORDINATOR, SOURCE_STAGE, Topology
from millstream.watermarks import InputStatus
from millstream.wire import BARRIER_MARK, NO_MORE_BLOCKS, Data

BLOCK_BYTES: Final = 2**21
QUIET_STEP_US: Final = 200_000
SHOWN: Final = 100


@dataclass(slots=True)
class SourcePartition:
    """What the coordinator knows of one source partition.

    Attributes:
        exchange: the deal exchange that its blocks leave by.
        before: how many blocks were read in earlier lives of the run.
        had_ended: an earlier life had read all of it.
        quiet_us: for how long the source has had nothing although it was asked.
        asked_us: when it was last asked and had nothing; None when it gave something or was not asked.
    """

    exchange: int
    sequence: int = 0
    before: int = 0
    had_ended: bool = False
    ended: bool = False
    waiting: bool = False
    quiet_us: int = 0
    asked_us: int | None = None
    raised_us: int = 0
    blocks: int = 0
    bytes: int = 0


class SourcePartitions:
    """All partitions of a plan, by their number there."""

    def __init__(
        self, plan: PhysicalPlan, topology: Topology, clocks: EventClocks, runner: Runner, now_us: Callable[[], int]
    ) -> None:
        self._plan, self._topology, self._clocks, self._runner, self._now_us = plan, topology, clocks, runner, now_us
        self._all: list[SourcePartition] = []
        for node, _ in plan.partitions:
            deal = next(e.id for e in plan.exchanges if (None, Port(node)) in e.outputs)
            self._all.append(SourcePartition(deal))
        self._deals = sorted({p.exchange for p in self._all})
        self._turn = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[SourcePartition]:
        return iter(self._all)

    def __getitem__(self, index: int) -> SourcePartition:
        return self._all[index]

    @property
    def ended(self) -> bool:
        return all(p.ended for p in self._all)

    def restore(self, recovery: Recovery) -> None:
        """Every partition, and its clocks, as they were at a checkpoint."""
        numbers = {node.name: number for number, node in self._plan.nodes.items()}
        for index, (node, name) in enumerate(self._plan.partitions):
            known = recovery.partition(self._plan.nodes[node].name, name)
            if known is None:
                continue
            self._all[index].before = known.sequence
            self._all[index].had_ended = known.ended
            for clock, seen in known.clocks.items():
                self._clocks.restore(numbers[clock], index, seen)
            if known.ended:
                self._clocks.restore_ended(index)

    def follow(self, before: SourcePartitions) -> None:
        """Go on counting blocks and silence where the life before has stopped."""
        for partition, earlier in zip(self._all, before, strict=True):
            partition.blocks, partition.bytes = earlier.blocks, earlier.bytes
            partition.quiet_us, partition.raised_us = earlier.quiet_us, earlier.raised_us

    # --- which is read ---

    def next(self) -> int | None:
        """The partition to read now: one that may have something, whose block somebody has room for.

        Among several, the one whose watermark is lowest: it holds back all the others.
        """
        open_ = [i for i, p in enumerate(self._all) if not p.ended and not p.waiting and self.read_bytes(i)]
        if not open_:
            return None
        self._turn += 1
        return min(open_, key=lambda i: (self._clocks.partition_watermark_us(i), (i - self._turn) % len(self._all)))

    def read_bytes(self, index: int) -> int:
        """How large the next block of a partition may be; 0: nobody has room for one."""
        return self._runner.read_bytes(self._all[index].exchange, BLOCK_BYTES)

    def waiting_for_credit(self) -> set[int]:
        """The sources that may have something which nobody has room for."""
        open_ = [i for i, p in enumerate(self._all) if not p.ended and not p.waiting and not self.read_bytes(i)]
        return {self._plan.partitions[i][0] for i in open_}

    def wake(self, index: int) -> None:
        """A partition that had nothing may have something."""
        self._all[index].waiting = False

    def forget_asking(self) -> None:
        """Nobody will ask for a while: that is no silence of the sources."""
        for partition in self._all:
            partition.asked_us = None

    # --- what came of it ---

    def on_block(self, index: int, block: Block | None, ended: bool, now_us: int) -> None:
        """Take what reading a partition gave: a block, or nothing for now; and whether that was all."""
        partition = self._all[index]
        if block is not None:
            partition.quiet_us, partition.asked_us, partition.raised_us = 0, None, 0
            partition.blocks += 1
            partition.bytes += block.nbytes
            self.deal(index, block, Mark(ended=ended))
        elif ended:
            self.deal(index, None, Mark(ended=True))
        else:
            self._quiet(index, partition, now_us)
            partition.waiting = True
        partition.ended = ended

    def _quiet(self, index: int, partition: SourcePartition, now_us: int) -> None:
        if partition.asked_us is not None:
            partition.quiet_us += now_us - partition.asked_us
        partition.asked_us = now_us
        idle: set[int] = set()
        raised: dict[int, int] = {}
        for node in self._clocks.nodes_of(index):
            spec = self._clocks.specs[node]
            may_idle = spec.idle_us is not None and partition.quiet_us >= spec.idle_us
            if may_idle and not self._clocks.is_idle(node, index):
                idle.add(node)
            if spec.quiet_us is not None and partition.quiet_us >= max(
                spec.quiet_us, partition.raised_us + QUIET_STEP_US
            ):
                largest_us = self._clocks.largest_us(node, index)
                if largest_us != MIN_US:
                    raised[node] = saturating_add(largest_us, partition.quiet_us - spec.out_of_orderness_us)
        if raised:
            partition.raised_us = partition.quiet_us
        if idle or raised:
            self.deal(index, None, Mark(idle=frozenset(idle), raised_us=raised))

    def end(self) -> None:
        """Every partition ends where it is."""
        for index, partition in enumerate(self._all):
            if not partition.ended:
                partition.ended = True
                self.deal(index, None, Mark(ended=True))

    # --- what is sent ---

    def deal(self, index: int, block: Block | None, mark: Mark) -> None:
        """Send the next number of a partition to whom has most room: with a block, or with a mark alone."""
        partition = self._all[index]
        if mark.ended or mark.idle or mark.raised_us or mark.barrier:
            self._clocks.mark(index, partition.sequence, mark)
        status = InputStatus.ENDED if mark.ended else InputStatus.ACTIVE
        data = Data(
            partition.exchange, COORDINATOR, (SOURCE_STAGE, index), partition.sequence, False, MIN_US, status, block,
            mark.barrier, read_us=self._now_us(),
        )  # fmt: skip
        self._runner.send(Outgoing(self._runner.roomiest(partition.exchange), data))
        partition.sequence += 1

    def send_barrier(self, epoch: int) -> None:
        """A barrier after the blocks that were read of each partition, and one to each receiver."""
        for index, partition in enumerate(self._all):
            if not partition.ended:
                self.deal(index, None, Mark(barrier=epoch))
        self._tell_receivers(BARRIER_MARK, InputStatus.ACTIVE, epoch)

    def announce_end(self) -> None:
        """Tell every receiver that no further block comes of any partition."""
        self._tell_receivers(NO_MORE_BLOCKS, InputStatus.ENDED)

    def _tell_receivers(self, mark: int, status: InputStatus, epoch: int = 0) -> None:
        for exchange in self._deals:
            for receiver in self._topology.receivers_of(self._plan.exchange(exchange)):
                data = Data(exchange, COORDINATOR, (SOURCE_STAGE, mark), 0, False, MIN_US, status, None, epoch)
                self._runner.send(Outgoing(receiver, data))

    # --- figures ---

    def figures(self) -> list[dict[str, Any]]:
        """Those that matter: where there are very many, the ones with the lowest watermarks that have not ended."""
        numbers: Sequence[int] = range(len(self._all))
        if len(numbers) > SHOWN:
            lowest = sorted(numbers, key=lambda i: (self._all[i].ended, self._clocks.partition_watermark_us(i)))
            numbers = sorted(lowest[:SHOWN])
        return [self._figures_of(i) for i in numbers]

    def _figures_of(self, index: int) -> dict[str, Any]:
        partition = self._all[index]
        node, name = self._plan.partitions[index]
        clocks = self._clocks.nodes_of(index)
        return {
            "source": self._plan.nodes[node].name,
            "name": name,
            "blocks": partition.blocks,
            "bytes": partition.bytes,
            "ended": partition.ended,
            "quiet_us": partition.quiet_us,
            "idle": bool(clocks) and all(self._clocks.is_idle(n, index) for n in clocks),
            "largest_us": max((self._clocks.largest_us(n, index) for n in clocks), default=MIN_US),
            "watermark_us": self._clocks.partition_watermark_us(index) if clocks else MIN_US,
        }
