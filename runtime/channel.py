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

# An operator costs some 50 microseconds for each batch, however small. What it does with 4 KiB takes about as long, so
# smaller windows than these would let a flow of many operators do little else.
_LEAST_BYTES_PER_OPERATOR: Final = 2**12
_FIRST_BYTES_PER_OPERATOR: Final = 2**15
_LEAST_SHARE: Final = 2**-10

TOGETHER_ROWS: Final = 65_536
TOGETHER_KEYS: Final = 16_384
TOGETHER_MESSAGES: Final = 16
"""How many rows, keys or messages are worked on together at most; few may wait for more while there is other work.

To number the keys of several messages as one costs as much as those keys are, and saves what each batch costs as such.
"""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a receiver takes in flight for each exchange, from all senders together.

    Attributes:
        size_bytes: what its memory allows.
        drain_us: how long it should need at most for what is in flight; None: as long as it takes. Where all processes
            of a run take turns in one thread, how long a message takes says nothing of its receiver.
        operators: how many the flow has.
    """

    size_bytes: int = 16 * 2**20
    drain_us: int | None = 1_000_000
    operators: int = 1

    @property
    def first_window_bytes(self) -> int:
        return self.size_bytes if self.drain_us is None else self.within(self.operators * _FIRST_BYTES_PER_OPERATOR)

    def within(self, window_bytes: int) -> int:
        """A window that is neither too large for the memory nor too small for the number of operators."""
        return min(self.size_bytes, max(window_bytes, self.operators * _LEAST_BYTES_PER_OPERATOR))


RECEIVER_BUDGET: Final = Budget()


@dataclass(slots=True)
class SendCredit:
    """What one sender may still send to one receiver of one exchange.

    Attributes:
        budget_bytes: what the receiver's memory allows.
        window_bytes: what may be in flight now, as the receiver said last.
    """

    budget_bytes: int
    window_bytes: int
    in_flight_bytes: int = 0

    @classmethod
    def first(cls, budget: Budget, senders: int) -> SendCredit:
        """One of so many senders' that nothing has been sent by."""
        return cls(max(1, budget.size_bytes // senders), max(1, budget.first_window_bytes // senders))

    def allows(self, size_bytes: int) -> bool:
        return size_bytes == 0 or self.in_flight_bytes == 0 or self.in_flight_bytes + size_bytes <= self.window_bytes

    def message_bytes(self, most_bytes: int) -> int:
        """How large the next message should be at most, so that another can be in flight beside it."""
        return max(1, min(most_bytes, self.window_bytes // 2))

    def sent(self, size_bytes: int) -> None:
        self.in_flight_bytes += size_bytes

    def returned(self, size_bytes: int, window_bytes: int) -> None:
        if size_bytes > self.in_flight_bytes:
            raise WireError(f"credit: {size_bytes} bytes returned, {self.in_flight_bytes} in flight")
        self.in_flight_bytes -= size_bytes
        self.window_bytes = max(1, min(self.budget_bytes, window_bytes))


@dataclass(slots=True)
class OnwardShare:
    """How much of a block's bytes a process that decodes it deals on: of a filter, little.

    Attributes:
        share: of the last blocks. It falls by half at most with each of them, as the next may be another one.
    """

    share: float = 1.0
    _onward_bytes: int = 0

    def sent(self, size_bytes: int) -> None:
        self._onward_bytes += size_bytes

    def finished(self, block_bytes: int) -> None:
        self.share = max(self._onward_bytes / block_bytes, self.share / 2, _LEAST_SHARE)
        self._onward_bytes = 0

    def block_bytes(self, onward_bytes: int) -> int:
        """The size of a block of which so much is dealt on."""
        return max(1, int(onward_bytes / self.share))


@dataclass(slots=True)
class Drain:
    """How much a receiver finishes, and so how much may be in flight to it: what it finishes within a time.

    A barrier takes its place behind all that is in flight. Where events are small and a function is slow, a budget
    that memory alone bounds would keep every checkpoint, pause and rescaling waiting for minutes. What was here when
    a message had its turn was finished by the time the message was (Little's law); a message that waits for those
    before it has not had its turn yet, and says nothing about this receiver.

    Attributes:
        window_bytes: of all senders together.
    """

    budget: Budget
    window_bytes: int = field(init=False)
    _here_bytes: int = 0
    _put_bytes: int = 0
    _waiting: deque[tuple[int, int, int]] = field(default_factory=deque)
    """Of each message: all bytes that had come by its end, bytes that were here by then, and when."""

    def __post_init__(self) -> None:
        self.window_bytes = self.budget.first_window_bytes

    def put(self, size_bytes: int, now_us: int) -> None:
        if size_bytes and self.budget.drain_us is not None:
            self._here_bytes += size_bytes
            self._put_bytes += size_bytes
            self._waiting.append((self._put_bytes, self._here_bytes, now_us))

    def finished(self, size_bytes: int, now_us: int) -> None:
        drain_us = self.budget.drain_us
        if drain_us is None:
            return
        self._here_bytes -= size_bytes
        finished_bytes = self._put_bytes - self._here_bytes
        while self._waiting and self._waiting[0][0] <= finished_bytes:
            _, here_bytes, put_us = self._waiting.popleft()
            took_us = max(1, now_us - put_us)
            drained_bytes = here_bytes * drain_us // took_us
            if took_us > drain_us:
                self.window_bytes = self.budget.within(drained_bytes)
            elif here_bytes >= self.window_bytes // 4:  # where little comes, it says nothing of what could be done
                grown_bytes = min(drained_bytes, 4 * self.window_bytes)
                self.window_bytes = self.budget.within(max(self.window_bytes, grown_bytes))


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
    budget: Budget = RECEIVER_BUDGET
    inputs: dict[tuple[int, int], _Sequence] = field(default_factory=dict)
    ready: deque[Data] = field(default_factory=deque)
    held_bytes: int = 0
    drain: Drain = field(init=False)
    _behind: dict[tuple[int, int], deque[Data]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.drain = Drain(self.budget)

    def put(self, data: Data, now_us: int) -> None:
        self.held_bytes += data.size_bytes
        if not self.in_order:
            self._ready(data, now_us)
            return
        turn = self.inputs.setdefault(data.origin, _Sequence())
        if data.sequence < turn.next:
            raise WireError(f"exchange {data.exchange}: number {data.sequence} of input {data.origin} came twice")
        if data.sequence > turn.next:
            turn.early.setdefault(data.sequence, deque()).append(data)
            return
        self._ready(data, now_us)
        while not data.more:
            turn.next += 1
            waiting = turn.early.pop(turn.next, None)
            if waiting is None:
                return
            for data in waiting:
                self._ready(data, now_us)

    def _ready(self, data: Data, now_us: int) -> None:
        self.drain.put(data.size_bytes, now_us)
        self.ready.append(data)

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
        """The next messages in order, as many as are worked on together: up to a barrier or a limit."""
        taken: list[Data] = []
        rows = keys = size_bytes = 0
        while len(taken) < TOGETHER_MESSAGES:
            if taken and self.ready:
                rows_then, keys_then = rows + _rows(self.ready[0]), keys + _keys(self.ready[0])
                if size_bytes >= most_bytes or rows_then > TOGETHER_ROWS or keys_then > TOGETHER_KEYS:
                    break
            data = self.take()
            if data is None:
                break
            taken.append(data)
            rows += _rows(data)
            keys += _keys(data)
            size_bytes += data.size_bytes
            if data.barrier or not self.in_order:
                break
        return taken

    def has_few(self, most_bytes: int) -> bool:
        """Whether so little is ready that more might well come before it is worked on."""
        if len(self.ready) >= TOGETHER_MESSAGES or self.held_bytes >= most_bytes or not self.in_order:
            return False
        if sum(map(_rows, self.ready)) >= TOGETHER_ROWS or sum(map(_keys, self.ready)) >= TOGETHER_KEYS:
            return False
        return not any(data.barrier for data in self.ready)

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


def _keys(data: Data) -> int:
    keys = data.payload.keys if isinstance(data.payload, Batch) else None
    return 0 if keys is None else keys.distinct.num_rows


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
