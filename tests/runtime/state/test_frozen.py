"""States that are encoded while the operator goes on are encoded as they were."""

from __future__ import annotations

import threading
from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from millstream.state.frozen import CHUNK_KEYS, Frozen
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
        self.frozen = Frozen(self.live, keys, lambda key, state: self.codec.encode(state))

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
