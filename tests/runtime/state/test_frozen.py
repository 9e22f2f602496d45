"""States that are encoded while the operator goes on are encoded as they were."""

from __future__ import annotations

import threading
from copy import deepcopy
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Keys, make_columns
from millstream.checkpoints.tables import PendingTable, StateTable
from millstream.state.frozen import CHUNK_KEYS, Frozen
from millstream.state.pieces import KeyPieces
from millstream.state_codec import StateCodec


class Lists:
    """Lists by key that are changed in place, and what was frozen of them."""

    def __init__(self, count: int, every: int | None = None) -> None:
        self.codec = StateCodec("test")
        self.live = {key: [key] for key in range(count)}
        self.expected = deepcopy(self.live)
        keys = None if every is None else list(self.live)[::every]
        if keys is not None:
            self.expected = {key: self.expected[key] for key in keys}
        self.frozen = Frozen(self.live, keys, lambda key, state: self.codec.encode(state), threading.Lock())

    def change(self, keys: list[int]) -> None:
        self.frozen.keep(keys)
        for key in keys:
            if key % 3:
                self.live.setdefault(key, []).append(-1)
            else:
                self.live.pop(key, None)

    def written(self, pause: Any) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for keys, encoded in self.frozen.chunks(pause):
            found.update(zip(keys, map(self.codec.decode, encoded), strict=True))
        return found


@given(
    st.lists(st.lists(st.integers(0, 320), max_size=40), max_size=20), st.integers(0, 8), st.sampled_from([None, 1, 7])
)
def test_states_are_written_as_they_were_whenever_they_change(
    changes: list[list[int]], before: int, every: int | None
) -> None:
    lists = Lists(300, every)
    left = list(changes)
    for _ in range(min(before, len(left))):
        lists.change(left.pop(0))
    found = lists.written(lambda: lists.change(left.pop(0)) if left else None)
    assert found == lists.expected
    assert list(found) == list(lists.expected), "and in their order"


def test_another_thread_may_write_them() -> None:
    lists = Lists(10 * CHUNK_KEYS)
    found: dict[int, list[int]] = {}
    thread = threading.Thread(target=lambda: found.update(lists.written(lambda: None)))
    thread.start()
    first = 0
    while thread.is_alive():
        lists.change([(first + 7 * k) % len(lists.expected) for k in range(200)])
        first += 1
    thread.join()
    assert found == lists.expected


def test_one_that_was_given_up_may_still_be_written_when_the_next_begins() -> None:
    codec, encoding, count = StateCodec("test"), threading.Lock(), 4 * CHUNK_KEYS
    states: dict[int, Any] = {key: (key, (key,)) for key in range(count)}

    def encode(key: int, state: Any) -> bytes:
        assert encoding.acquire(blocking=False), "by one thread at a time"
        try:
            return codec.encode(state)
        finally:
            encoding.release()

    pieces: KeyPieces[Any, bytes] = KeyPieces(encode)

    def begun() -> PendingTable:
        (table,) = pieces.snapshot("states", states, keys_of, lambda encoded: make_columns(["s"], [pa.array(encoded)]))
        assert isinstance(table, PendingTable)
        return table

    written: list[StateTable] = []
    given_up, expected = begun(), list(states.values())
    thread = threading.Thread(target=lambda: written.append(given_up.made()))
    following = begun()
    thread.start()
    first = 0
    while thread.is_alive():
        changing = [(first + key) % count for key in range(100)]
        pieces.changing(changing)
        states.update((key, (key, "changed")) for key in changing)
        first += 100
    thread.join()
    assert written
    for table in (*written, following.made()):
        assert [codec.decode(state) for state in table.columns.column(0).to_pylist()] == expected


def keys_of(keys: list[int]) -> Keys:
    return Keys(make_columns(["k"], [pa.array(keys, pa.int64())]), np.arange(len(keys), dtype=np.int32))
