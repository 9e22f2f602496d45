"""Flow control between two processes: credit at the sender, order at the receiver.

A receiver has a budget of bytes for each exchange, split among its senders. A sender may have so much in
flight, and with nothing in flight may send one message of any size; credit returns when the receiver has
finished a message, not when it arrives. So credit, not a socket's high-water mark, bounds what any
process holds, and because every sender can always send its next message no wait for order deadlocks:
the lowest number that is still to be sent can be sent.

Messages without a payload (watermarks, ends) take their place in the sequence and need no credit.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from millstream.batch import Batch
from millstream.errors import WireError
from millstream.watermarks import InputStatus, InputWatermarks
from millstream.wire import Data

RECEIVER_BUDGET_BYTES: Final = 16 * 2**20

TOGETHER_ROWS: Final = 65_536
TOGETHER_MESSAGES: Final = 16
"""How many rows or messages are worked on together at most; few of either may wait for more while there is other work."""


@dataclass(slots=True)
class SendCredit:
    """What one sender may still send to one receiver of one exchange."""

    budget_bytes: int
    in_flight_bytes: int = 0

    def allows(self, size_bytes: int) -> bool:
        return size_bytes == 0 or self.in_flight_bytes == 0 or self.in_flight_bytes + size_bytes <= self.budget_bytes

    def sent(self, size_bytes: int) -> None:
        self.in_flight_bytes += size_bytes

    def returned(self, size_bytes: int) -> None:
        if size_bytes > self.in_flight_bytes:
            raise WireError(f"credit: {size_bytes} bytes returned, {self.in_flight_bytes} in flight")
        self.in_flight_bytes -= size_bytes


@dataclass(slots=True)
class _Sequence:
    """One input of an exchange: what arrived ahead of its turn waits here (bounded by its senders' credit)."""

    next: int = 0
    early: dict[int, deque[Data]] = field(default_factory=dict)


@dataclass(slots=True)
class Inbox:
    """The receiving end of an exchange: messages leave in sequence, input by input.

    Attributes:
        in_order: False for a deal exchange, where each receiver gets only some of the numbers.
    """

    in_order: bool
    inputs: dict[tuple[int, int], _Sequence] = field(default_factory=dict)
    ready: deque[Data] = field(default_factory=deque)
    held_bytes: int = 0
    _behind: dict[tuple[int, int], deque[Data]] = field(default_factory=dict)

    def put(self, data: Data) -> None:
        self.held_bytes += data.size_bytes
        if not self.in_order:
            self.ready.append(data)
            return
        turn = self.inputs.setdefault(data.origin, _Sequence())
        if data.sequence < turn.next:
            raise WireError(f"exchange {data.exchange}: number {data.sequence} of input {data.origin} came twice")
        if data.sequence > turn.next:
            turn.early.setdefault(data.sequence, deque()).append(data)
            return
        self.ready.append(data)
        while not data.more:
            turn.next += 1
            waiting = turn.early.pop(turn.next, None)
            if waiting is None:
                return
            self.ready.extend(waiting)
            data = waiting[-1]

    def take(self) -> Data | None:
        """The next message in order, if it is here; the caller returns its credit when it has finished it."""
        while self.ready:
            data = self.ready.popleft()
            behind = self._behind.get(data.origin)
            if behind is None:
                self.held_bytes -= data.size_bytes
                return data
            behind.append(data)
        return None

    def take_together(self, most_bytes: int) -> list[Data]:
        """The next messages in order, as many as are worked on together: up to a barrier or a limit.

        A message that is large already comes alone: to number its keys and those of another together costs more than
        it saves.
        """
        taken: list[Data] = []
        rows = size_bytes = 0
        while len(taken) < TOGETHER_MESSAGES:
            next_rows = _rows(self.ready[0]) if self.ready else 0
            if taken and (size_bytes >= most_bytes or rows + next_rows > TOGETHER_ROWS):
                break
            data = self.take()
            if data is None:
                break
            taken.append(data)
            rows += _rows(data)
            size_bytes += data.size_bytes
            if data.barrier or not self.in_order:
                break
        return taken

    def has_few(self, most_bytes: int) -> bool:
        """Whether so little is ready that more might well come before it is worked on."""
        if len(self.ready) >= TOGETHER_MESSAGES or self.held_bytes >= most_bytes or not self.in_order:
            return False
        return sum(map(_rows, self.ready)) < TOGETHER_ROWS and not any(data.barrier for data in self.ready)

    def hold(self, origin: tuple[int, int]) -> None:
        """A barrier came by this input: what follows waits until it has come by all others, too."""
        self._behind.setdefault(origin, deque())

    def release(self) -> None:
        """The barrier has passed: go on with what waited behind it."""
        if self._behind:
            waited = [data for behind in self._behind.values() for data in behind]
            self._behind.clear()
            self.ready.extendleft(reversed(waited))


def _rows(data: Data) -> int:
    return data.payload.num_rows if isinstance(data.payload, Batch) else 0


@dataclass(slots=True)
class StageInputs:
    """All inputs of a keyed stage: one number for each, their watermark together, and whose barrier has come.

    Attributes:
        epoch: of the barrier that has come by some inputs; 0: by none.
    """

    numbers: dict[tuple[int, int, int], int] = field(default_factory=dict)
    watermarks: InputWatermarks = field(default_factory=InputWatermarks)
    epoch: int = 0
    _barriers: set[int] = field(default_factory=set)

    def add(self, exchange: int, origin: tuple[int, int]) -> None:
        number = self.numbers.setdefault((exchange, *origin), len(self.numbers))
        self.watermarks.add(number)

    def update(self, data: Data) -> bool:
        """Take note of a finished number's watermark and status. Returns whether the watermark went up."""
        key = (data.exchange, *data.origin)
        if key not in self.numbers:
            raise WireError(f"exchange {data.exchange}: input {data.origin} was not announced")
        if data.barrier:
            if self.epoch not in (0, data.barrier):
                raise WireError(
                    f"exchange {data.exchange}: the barrier of epoch {data.barrier} before that of {self.epoch}"
                )
            self.epoch = data.barrier
            self._barriers.add(self.numbers[key])
        return self.watermarks.update(self.numbers[key], data.watermark_us, data.status)

    @property
    def aligned(self) -> bool:
        """Whether a barrier has come by every input that has not ended."""
        return self.epoch != 0 and self.watermarks.open_inputs <= self._barriers

    def pass_barrier(self) -> int:
        """Forget the barrier, which has come by every input; returns its epoch."""
        epoch, self.epoch = self.epoch, 0
        self._barriers.clear()
        return epoch

    @property
    def status(self) -> InputStatus:
        if self.watermarks.ended:
            return InputStatus.ENDED
        return InputStatus.IDLE if self.watermarks.all_idle else InputStatus.ACTIVE
