"""The sending side of an exchange: which receiver gets which rows, and how the numbers of its messages end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from millstream.batch import Batch
from millstream.connectors.base import Block
from millstream.partition import KeyPartitioner
from millstream.plan import Exchange, ExchangeKind
from millstream.times import MAX_US, MIN_US
from millstream.watermarks import InputStatus
from millstream.wire import BARRIER_MARK, NO_MORE_BLOCKS, Data


class Outgoing(NamedTuple):
    receiver: str
    data: Data


Splitter = Callable[[Batch], list[tuple[str, Batch]]]


class Number(NamedTuple):
    """Under what rows leave a stage.

    Attributes:
        partition: a source partition, or the worker's index behind a keyed stage.
        read_us: when the oldest of what they come of was read from its source; 0: not known.
    """

    partition: int
    sequence: int
    read_us: int = 0


class ExchangeOutput:
    """The sending side of one exchange at one stage: numbers, and the last message of each number.

    A batch is held back until the next one or the end of its number, so that the end needs no message
    of its own.
    """

    def __init__(
        self,
        exchange: Exchange,
        stage: int,
        me: str,
        receivers: Sequence[str],
        split: Splitter,
        choose: Callable[[], str] | None,
        split_again: Splitter | None = None,
    ) -> None:
        self.exchange = exchange
        self.stage = stage
        self.me = me
        self.receivers = receivers
        self._split, self._split_again = split, split_again or split
        self._choose = choose
        self._chosen: str | None = None
        self._held: dict[str, Batch | Block] = {}

    def add(self, batch: Batch, number: Number) -> Iterator[Outgoing]:
        if self._choose is not None:
            self._chosen = self._chosen or self._choose()
            parts = [(self._chosen, part) for _, part in self._split(batch)]
        else:
            parts = self._split(batch)
        for receiver, part in parts:
            yield from self._hold(receiver, part, number)

    def add_again(self, batch: Batch, number: Number) -> Iterator[Outgoing]:
        """Rows that had left by this exchange before, as they came out of it."""
        for receiver, part in self._split_again(batch):
            yield from self._hold(receiver, part, number)

    def pass_on(self, block: Block, number: Number) -> Iterator[Outgoing]:
        """A block as it is, by an exchange that deals."""
        assert self._choose is not None
        self._chosen = self._chosen or self._choose()
        yield from self._hold(self._chosen, block, number)

    def _hold(self, receiver: str, part: Batch | Block, number: Number) -> Iterator[Outgoing]:
        before = self._held.get(receiver)
        self._held[receiver] = part
        if before is not None:
            yield Outgoing(receiver, self._message(number, True, MIN_US, InputStatus.ACTIVE, before))

    def finish(self, number: Number, watermark_us: int, status: InputStatus, barrier: int = 0) -> Iterator[Outgoing]:
        """End a number: everyone gets it, with what was held back or empty; and the barrier of an epoch, if one is due."""
        receivers = self.receivers
        if self._choose is not None:
            receivers = (self._chosen or self._choose(),)
            self._chosen = None
        for receiver in receivers:
            held = self._held.pop(receiver, None)
            yield Outgoing(receiver, self._message(number, False, watermark_us, status, held, barrier))

    def no_more_blocks(self) -> Iterator[Outgoing]:
        number = Number(NO_MORE_BLOCKS, 0)
        for receiver in self.receivers:
            yield Outgoing(receiver, self._message(number, False, MAX_US, InputStatus.ENDED, None))

    def mark_barrier(self, epoch: int) -> Iterator[Outgoing]:
        number = Number(BARRIER_MARK, 0)
        for receiver in self.receivers:
            yield Outgoing(receiver, self._message(number, False, MIN_US, InputStatus.ACTIVE, None, epoch))

    @property
    def holds(self) -> bool:
        return bool(self._held)

    def _message(
        self, number: Number, more: bool, watermark_us: int, status: InputStatus, payload: Batch | Block | None,
        barrier: int = 0,
    ) -> Data:  # fmt: skip
        origin = (self.stage, number.partition)
        return Data(
            self.exchange.id, self.me, origin, number.sequence, more, watermark_us, status, payload, barrier,
            read_us=number.read_us,
        )  # fmt: skip


def splitter(
    exchange: Exchange,
    receivers: Sequence[str],
    partitioner: KeyPartitioner | None,
    choose: Callable[[], str],
) -> Splitter:
    if exchange.kind is ExchangeKind.KEY:
        assert partitioner is not None
        return lambda batch: [(receivers[i], part) for i, part in partitioner.split(batch)]
    fields = exchange.fields

    def whole(batch: Batch) -> list[tuple[str, Batch]]:
        if fields is not None:
            batch = batch.with_columns(batch.columns.select([f for f in batch.columns.schema.names if f in fields]))
        if batch.num_rows == 0:
            return []
        if exchange.kind is ExchangeKind.BROADCAST:
            return [(receiver, batch) for receiver in receivers]
        return [(choose() if exchange.kind is ExchangeKind.SPREAD else receivers[0], batch)]

    return whole
