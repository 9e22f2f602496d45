"""What a source host has read and not sent yet: a block of each partition at most, within the credit of the coordinator."""

from __future__ import annotations

from collections.abc import Sequence

from millstream.channel import SendCredit
from millstream.connectors.base import Block
from millstream.coordinator.reading import HOSTED, HOSTED_BUDGET, hosted_exchange
from millstream.times import MIN_US
from millstream.topology import SOURCE_STAGE
from millstream.watermarks import InputStatus
from millstream.wire import Credit, Data


class HostedBlocks:
    """A pure state machine: blocks and credits in, messages out.

    Args:
        me: the name of the host.
        partitions: those that it reads.
    """

    def __init__(self, me: str, partitions: Sequence[int]) -> None:
        self._me = me
        self._credits = {p: SendCredit.first(HOSTED_BUDGET, senders=1) for p in partitions}
        self._sequences = dict.fromkeys(partitions, 0)
        self._held: dict[int, Data] = {}
        self._open = set(partitions)

    @property
    def wanted(self) -> list[int]:
        """The partitions of which the next block can be taken: none is held."""
        return [p for p in self._sequences if p not in self._held]

    @property
    def done(self) -> bool:
        """Whether every partition has ended, and all of it was sent."""
        return not (self._open or self._held)

    def put(self, partition: int, block: Block | None, ended: bool) -> None:
        """The next of a partition that is `wanted`; ended: there is nothing behind it."""
        if ended:
            self._open.discard(partition)
        number = self._sequences[partition]
        self._sequences[partition] += 1
        status = InputStatus.ENDED if ended else InputStatus.ACTIVE
        self._held[partition] = Data(
            hosted_exchange(partition), self._me, (SOURCE_STAGE, partition), number, False, MIN_US, status, block
        )

    def take(self) -> list[Data]:
        """What may be sent now."""
        ready = [data for p, data in self._held.items() if self._credits[p].allows(data.size_bytes)]
        for data in ready:
            partition = HOSTED - data.exchange
            self._credits[partition].sent(data.size_bytes)
            del self._held[partition]
        return ready

    def on_credit(self, credit: Credit) -> None:
        """
        Raises:
            WireError: it is for more than is in flight.
        """
        self._credits[HOSTED - credit.exchange].returned(credit.grant_bytes, credit.window_bytes)
