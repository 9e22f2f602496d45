"""Checkpoints as the coordinator leads them: when one begins, who has answered, and what its manifest says.

A pure state machine. The coordinator's core tells it what happens and does what it says; the shell writes the
manifest. One checkpoint is under way at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from millstream.checkpoints.manifest import Manifest, PartitionState, SinkState, TableFile
from millstream.checkpoints.part import is_written_for
from millstream.meters import add_counts
from millstream.plan import PhysicalPlan
from millstream.wire import Acknowledged

FINAL_TRIES: Final = 5
_TRY_AGAIN_US: Final = 1_000_000


@dataclass(slots=True)
class UnderWay:
    """A checkpoint that has begun.

    Attributes:
        last: all input has ended and everything was worked on.
        final: the run ends when it is complete and everyone has shown what it counts; so does the last one.
        partitions: by source partition, where its reader was, and the number of its next block.
        waiting: the processes that have not yet answered.
        replayed: by source, how much of its dead letters was replayed.
    """

    epoch: int
    last: bool
    final: bool
    begun_us: int
    partitions: dict[int, tuple[Any, int, bool]]
    waiting: set[str]
    replayed: Mapping[str, int]
    answers: list[Acknowledged] = field(default_factory=list)


@dataclass(frozen=True)
class CheckpointPolicy:
    """Attributes:
    interval_us: from the beginning of one checkpoint to that of the next.
    """

    interval_us: int


class Checkpointing:
    """Args:
    first_epoch: the number of the first checkpoint of this life of the run.
    everyone: the processes that take part.
    """

    def __init__(
        self, plan: PhysicalPlan, policy: CheckpointPolicy, attempt: int, first_epoch: int, everyone: Iterable[str]
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._attempt = attempt
        self._next_epoch = first_epoch
        self.everyone = sorted(everyone)
        self._next_us: int | None = None
        self.under_way: UnderWay | None = None
        self.committing: int | None = None
        """The epoch whose commits the run waits for before it ends."""
        self._uncommitted: set[str] = set()
        self.completed = 0
        self.last_epoch = first_epoch - 1
        self._failed = 0
        self._not_before_us: int | None = None
        self.failure = ""
        """Why the last one was given up; "" where it was not."""
        self.given_up: int | None = None
        """The newest that was, until what had been written for it is removed."""

    def due(self, now_us: int) -> bool:
        if self._next_us is None:
            self._next_us = now_us + self._policy.interval_us
        return self.under_way is None and now_us >= self._next_us

    def final_due(self, now_us: int) -> bool:
        """Whether to begin the checkpoint at which the run ends; one that was given up is tried again in a second."""
        waits = self._not_before_us is not None and now_us < self._not_before_us
        return self.under_way is None and self.committing is None and not waits

    @property
    def try_again_us(self) -> int | None:
        """When one that was given up is tried again; None: none was."""
        return self._not_before_us

    @property
    def hopeless(self) -> bool:
        """Whether checkpoint after checkpoint had to be given up, so that a run which waits for one must not go on."""
        return self._failed >= FINAL_TRIES

    def begin(
        self,
        partitions: dict[int, tuple[Any, int, bool]],
        now_us: int,
        *,
        last: bool,
        final: bool = False,
        replayed: Mapping[str, int] = MappingProxyType({}),
    ) -> int:
        """Begin a checkpoint; returns its epoch."""
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        self.under_way = UnderWay(epoch, last, final or last, now_us, partitions, set(self.everyone), replayed)
        self._next_us = now_us + self._policy.interval_us
        return epoch

    def acknowledged(self, message: Acknowledged) -> None:
        """A process has its part of the checkpoint under way on disk."""
        assert self.under_way is not None
        self.under_way.waiting.discard(message.process)
        self.under_way.answers.append(message)

    def manifest(
        self,
        clocks: Mapping[int, Mapping[int, list[int]]],
        created_us: int,
        counters: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
        started_us: int = 0,
    ) -> Manifest:
        """The manifest of the checkpoint under way, which everyone has acknowledged.

        Args:
            clocks: by source partition and ``event_time()``, what the clock had seen at the barrier.
            counters: by operator, what the coordinator's own stages had counted.
            started_us: when the run began, by the clock of `begin`.
        """
        under_way = self.under_way
        assert under_way is not None
        plan = self._plan
        sinks: dict[str, list[SinkState]] = {}
        totals: dict[str, dict[str, int]] = {}
        for counted in (counters, *(answer.counters for answer in under_way.answers)):
            for name, figures in counted.items():
                add_counts(totals.setdefault(name, {}), figures)
        for answer in under_way.answers:
            for name, (state, commits) in answer.sinks.items():
                sinks.setdefault(name, []).append(SinkState(state, commits))
        partitions: list[PartitionState] = []
        for number, (offset, sequence, ended) in under_way.partitions.items():
            node, name = plan.partitions[number]
            seen = {plan.nodes[n].name: list(s) for n, s in clocks.get(number, {}).items()}
            partitions.append(PartitionState(plan.nodes[node].name, name, offset, sequence, seen, ended))
        return Manifest(
            flow=plan.name, epoch=under_way.epoch, attempt=self._attempt, workers=plan.workers, created_us=created_us,
            operators={n.name: n.spec.describe() for n in plan.nodes.values()}, shapes=plan.shapes,
            tables=tuple(TableFile(*t) for a in under_way.answers for t in a.tables),
            partitions=tuple(partitions), sinks=sinks, finished=under_way.last, counters=totals,
            seconds=(under_way.begun_us - started_us) / 1e6, replayed=dict(under_way.replayed),
        )  # fmt: skip

    def sizes(self) -> dict[str, list[int]]:
        """By operator, of the checkpoint under way: rows of its state, bytes of all files that it is in, and of those
        that were written for this checkpoint; earlier ones have written the others."""
        assert self.under_way is not None
        sizes: dict[str, list[int]] = {}
        seen: set[tuple[str, str]] = set()
        for answer in self.under_way.answers:
            for table in (TableFile(*t) for t in answer.tables):
                size = sizes.setdefault(table.operator, [0, 0, 0])
                size[0] += table.rows
                if (table.operator, table.path) in seen:
                    continue  # other rows of the same file
                seen.add((table.operator, table.path))
                size[1] += table.size_bytes
                size[2] += table.size_bytes if is_written_for(table.path, self.under_way.epoch) else 0
        return sizes

    def complete(self) -> int:
        """The manifest is on disk: the checkpoint exists. Returns its epoch."""
        assert self.under_way is not None
        epoch, final = self.under_way.epoch, self.under_way.final
        self.under_way = None
        self._failed, self._not_before_us, self.failure = 0, None, ""
        self.completed += 1
        self.last_epoch = epoch
        if final:
            self.committing, self._uncommitted = epoch, set(self.everyone)
        return epoch

    def give_up(self, reason: str) -> None:
        """Something could not be written: the run goes on without this checkpoint."""
        assert self.under_way is not None
        self._failed += 1
        self._not_before_us = self.under_way.begun_us + _TRY_AGAIN_US
        self.given_up, self.under_way = self.under_way.epoch, None
        self.failure = reason

    def committed(self, process: str, epoch: int) -> None:
        if epoch == self.committing:
            self._uncommitted.discard(process)

    @property
    def all_committed(self) -> bool:
        """Whether the final checkpoint exists and everyone has shown what it counts."""
        return self.committing is not None and not self._uncommitted
