"""Credit at the sender, order at the receiver."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import EMPTY_COLUMNS, Batch, Keys, make_columns
from millstream.channel import (
    RECEIVER_BUDGET,
    TOGETHER_KEYS,
    TOGETHER_MESSAGES,
    Budget,
    Drain,
    Inbox,
    OnwardShare,
    SendCredit,
    StageInputs,
)
from millstream.errors import WireError
from millstream.times import MAX_US, MIN_US
from millstream.watermarks import InputStatus
from millstream.wire import Data


def message(
    sequence: int, *, partition: int = 0, more: bool = False, tag: int = 0, size: int = 10, watermark_us: int = MIN_US,
    barrier: int = 0,
) -> Data:  # fmt: skip
    origin, status = (1, partition), InputStatus.ACTIVE
    return Data(3, f"worker-{tag}", origin, sequence, more, watermark_us, status, None, barrier, size_bytes=size)


def drain(inbox: Inbox) -> list[tuple[int, int, bool]]:
    taken = []
    while (taken_now := inbox.take()) is not None:
        taken.append((taken_now.origin[1], taken_now.sequence, taken_now.more))
    return taken


# --- credit ---


@pytest.mark.parametrize(
    ("in_flight", "size", "allowed"),
    [(60, 39, True), (60, 40, True), (60, 41, False), (0, 101, True), (100, 0, True), (100, 1, False)],
)
def test_a_sender_may_send_what_fits_or_one_message_of_any_size(in_flight: int, size: int, allowed: bool) -> None:
    credit = SendCredit(100, 100, in_flight)
    assert credit.allows(size) == allowed


def test_credit_that_was_never_given_cannot_return() -> None:
    credit = SendCredit(100, 100)
    credit.sent(10)
    credit.returned(4, 100)
    credit.returned(6, 100)
    with pytest.raises(WireError, match="1 bytes returned, 0 in flight"):
        credit.returned(1, 100)


def test_a_sender_keeps_to_the_window_that_the_receiver_said_last() -> None:
    credit = SendCredit(1_000, 1_000)
    credit.sent(900)
    credit.returned(100, 850)
    assert credit.allows(50) and not credit.allows(51)
    credit.returned(100, 5_000)
    assert credit.allows(300) and not credit.allows(301), "more than its memory takes"


# --- how much a receiver finishes ---


@dataclass
class Channel:
    """A sender that sends as much as it may, and a receiver that finishes so much a second."""

    drain: Drain
    credit: SendCredit
    size: int
    now_us: int = 0
    waiting: deque[tuple[int, int]] = field(default_factory=deque)
    longest_us: int = 0

    def carry(self, bytes_a_second: int, seconds: int) -> None:
        until_us, self.longest_us = self.now_us + seconds * 1_000_000, 0
        while self.now_us < until_us:
            while self.credit.allows(self.size):
                self.credit.sent(self.size)
                self.drain.put(self.size, self.now_us)
                self.waiting.append((self.size, self.now_us))
            size, put_us = self.waiting.popleft()
            self.now_us += size * 1_000_000 // bytes_a_second
            self.longest_us = max(self.longest_us, self.now_us - put_us)
            self.drain.finished(size, self.now_us)
            self.credit.returned(size, self.drain.window_bytes)


def channel(size: int) -> Channel:
    return Channel(Drain(RECEIVER_BUDGET), SendCredit.first(RECEIVER_BUDGET, senders=1), size)


@pytest.mark.parametrize("bytes_a_second", [20_000, 300_000, 5_000_000])
def test_what_is_in_flight_to_a_slow_receiver_is_finished_in_a_second(bytes_a_second: int) -> None:
    slow = channel(1_000)
    slow.carry(bytes_a_second, 30)
    slow.carry(bytes_a_second, 30)
    assert 900_000 < slow.longest_us < 1_100_000


def test_a_fast_receiver_gets_all_that_its_memory_allows() -> None:
    fast = channel(100_000)
    fast.carry(400_000_000, 1)
    assert fast.credit.window_bytes == 16 * 2**20


def test_the_window_follows_a_receiver_that_becomes_slow_and_fast_again() -> None:
    changing = channel(10_000)
    changing.carry(400_000_000, 1)
    changing.carry(100_000, 300)
    assert changing.credit.window_bytes < 120_000
    changing.carry(400_000_000, 1)
    assert changing.credit.window_bytes == 16 * 2**20


def test_a_sender_with_little_to_send_leaves_the_window_as_it_is() -> None:
    drain = Drain(Budget(2**20))
    before = drain.window_bytes
    for second in range(20):
        drain.put(10, second * 1_000_000)
        drain.finished(10, second * 1_000_000 + 300_000)
    assert drain.window_bytes == before


def test_messages_are_finished_in_any_order() -> None:
    drain = Drain(Budget(2**20))
    for size in (100, 2_000, 30):
        drain.put(size, 0)
    for size in (30, 100, 2_000):
        drain.finished(size, 5_000_000)
    assert drain.window_bytes == 4_096


def test_a_message_that_is_not_in_turn_says_nothing_of_the_receiver() -> None:
    inbox = Inbox(in_order=True)
    before = inbox.drain.window_bytes
    inbox.put(message(1), 0)
    inbox.put(message(0), 9_000_000)
    for sequence in range(2):
        assert inbox.take() is not None, sequence
        inbox.drain.finished(10, 9_001_000)
    assert inbox.drain.window_bytes == before


def test_blocks_grow_while_little_of_them_goes_on_and_shrink_when_much_does() -> None:
    onward = OnwardShare()
    for expected in (1_000, 2_000, 4_000):
        assert onward.block_bytes(1_000) == expected
        onward.finished(expected)
    onward.sent(3_000)
    onward.sent(3_000)
    onward.finished(8_000)
    assert onward.block_bytes(3_000) == 4_000
    for _ in range(2_000):
        onward.finished(1)
    assert onward.block_bytes(1_000) == 1_024_000, "to nothing at all it says no more than to very little"


# --- together ---


def test_messages_are_taken_together_up_to_a_barrier() -> None:
    inbox = Inbox(in_order=True)
    for sequence in range(3):
        inbox.put(message(sequence, barrier=1 if sequence == 1 else 0), 0)
    assert not inbox.has_few(1_000)
    assert [m.sequence for m in inbox.take_together(1_000)] == [0, 1]
    assert inbox.has_few(1_000)
    assert [m.sequence for m in inbox.take_together(1_000)] == [2]
    assert inbox.take_together(1_000) == []


@pytest.mark.parametrize(("most_bytes", "taken"), [(1, 1), (10, 1), (11, 2), (1_000, TOGETHER_MESSAGES)])
def test_so_many_messages_are_taken_together_as_a_limit_allows(most_bytes: int, taken: int) -> None:
    inbox = Inbox(in_order=True)
    for sequence in range(TOGETHER_MESSAGES + 1):
        inbox.put(message(sequence), 0)
    assert len(inbox.take_together(most_bytes)) == taken


@pytest.mark.parametrize(("keys", "taken"), [(TOGETHER_KEYS // 2, 2), (TOGETHER_KEYS // 2 + 1, 1), (TOGETHER_KEYS, 1)])
def test_messages_of_many_keys_come_alone(keys: int, taken: int) -> None:
    inbox = Inbox(in_order=True)
    column, codes = pa.array(np.arange(keys)), np.arange(keys, dtype=np.int32)
    batch = Batch(EMPTY_COLUMNS, keys=Keys(make_columns(["key"], [column]), codes))
    for sequence in range(3):
        inbox.put(replace(message(sequence), payload=batch), 0)
    assert not inbox.has_few(1_000)
    assert len(inbox.take_together(1_000)) == taken


# --- order ---


def test_numbers_that_come_early_wait_for_those_before_them() -> None:
    inbox = Inbox(in_order=True)
    inbox.put(message(1), 0)
    inbox.put(message(2), 0)
    assert (inbox.take(), inbox.held_bytes) == (None, 20)
    inbox.put(message(0), 0)
    assert drain(inbox) == [(0, 0, False), (0, 1, False), (0, 2, False)]
    assert inbox.held_bytes == 0


def test_a_number_is_through_only_with_its_last_message() -> None:
    inbox = Inbox(in_order=True)
    inbox.put(message(0, more=True), 0)
    inbox.put(message(1, more=True), 0)
    assert drain(inbox) == [(0, 0, True)]
    inbox.put(message(0), 0)
    assert drain(inbox) == [(0, 0, False), (0, 1, True)]
    inbox.put(message(1), 0)
    assert drain(inbox) == [(0, 1, False)]


def test_a_number_that_was_through_must_not_come_again() -> None:
    inbox = Inbox(in_order=True)
    inbox.put(message(0), 0)
    with pytest.raises(WireError, match="number 0 of input \\(1, 0\\) came twice"):
        inbox.put(message(0), 0)


def test_without_order_messages_leave_as_they_come() -> None:
    inbox = Inbox(in_order=False)
    for sequence in (2, 0, 5):
        inbox.put(message(sequence), 0)
    assert [s for _, s, _ in drain(inbox)] == [2, 0, 5]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(1, 3), st.integers(0, 2**32))
def test_any_order_between_senders_gives_the_order_of_every_input(parts: list[int], senders: int, seed: int) -> None:
    dice = random.Random(seed)
    queues: list[list[Data]] = [[] for _ in range(senders)]
    expected: dict[int, list[tuple[int, int, bool]]] = {0: [], 1: []}
    for sequence, count in enumerate(parts):
        for partition in (0, 1):
            sender = dice.randrange(senders)
            for part in range(count):
                more = part < count - 1
                queues[sender].append(message(sequence, partition=partition, more=more, tag=sender))
                expected[partition].append((partition, sequence, more))
    inbox = Inbox(in_order=True)
    taken: list[tuple[int, int, bool]] = []
    while any(queues):
        inbox.put(dice.choice([q for q in queues if q]).pop(0), 0)
        if dice.random() < 0.5:
            taken += drain(inbox)
    taken += drain(inbox)
    assert {p: [t for t in taken if t[0] == p] for p in (0, 1)} == expected
    assert inbox.held_bytes == 0


# --- the inputs of a stage ---


def data(partition: int, watermark_us: int, status: InputStatus = InputStatus.ACTIVE) -> Data:
    return Data(3, "worker-0", (1, partition), 0, False, watermark_us, status, None)


def test_a_stage_is_idle_when_all_its_inputs_are_and_ends_with_the_last() -> None:
    inputs = StageInputs()
    inputs.add(3, (1, 0))
    inputs.add(3, (1, 1))
    assert inputs.status is InputStatus.ACTIVE
    inputs.update(data(0, 5, InputStatus.IDLE))
    assert inputs.status is InputStatus.ACTIVE
    inputs.update(data(1, 9, InputStatus.IDLE))
    assert (inputs.status, inputs.watermarks.watermark_us) == (InputStatus.IDLE, 9)
    inputs.update(data(0, 5, InputStatus.ENDED))
    inputs.update(data(1, 9, InputStatus.ENDED))
    assert (inputs.status, inputs.watermarks.watermark_us) == (InputStatus.ENDED, MAX_US)


def test_an_input_that_was_not_announced_is_refused() -> None:
    with pytest.raises(WireError, match="was not announced"):
        StageInputs().update(data(0, 5))


def test_a_receiver_takes_one_message_at_least_whatever_the_limit() -> None:
    inbox = Inbox(in_order=True)
    inbox.put(message(0, size=100), 0)
    assert [d.sequence for d in inbox.take_together(most_bytes=0)] == [0]
