"""Parts of sessions are put together by sorting as they are by comparing each with each."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millstream.operators.windows.parts import OPEN, connect

Part = tuple[int, int, int]

near = st.tuples(st.integers(0, 3), st.integers(-20, 20), st.integers(1, 9))
far = st.tuples(st.integers(0, 3), st.integers(-(2**61), 2**61), st.integers(1, 2**60))


def sessions_of(parts: list[Part]) -> list[set[int]]:
    """The sets of parts, by number, that touch one another directly or through others."""
    found: list[set[int]] = []
    for number, (key, start, length) in enumerate(parts):
        touched = [
            s
            for s in found
            if any(parts[p][0] == key and parts[p][1] <= start + length and start <= sum(parts[p][1:]) for p in s)
        ]
        found = [s for s in found if s not in touched] + [set().union({number}, *touched)]
    return found


@given(st.lists(st.one_of(near, near, near, far), max_size=25))
def test_parts_that_touch_or_overlap_are_one_session(parts: list[Part]) -> None:
    key, start, length = (np.array([p[i] for p in parts], np.int64) for i in range(3))
    found = connect(4, key, start, start + length, None)
    numbers = found.of.tolist()
    assert sorted(map(sorted, sessions_of(parts))) == sorted(
        [n for n, s in enumerate(numbers) if s == session] for session in range(len(found))
    )
    for session in range(len(found)):
        members = [p for p, s in zip(parts, numbers, strict=True) if s == session]
        assert {p[0] for p in members} == {int(found.codes[session])}
        assert int(found.start_us[session]) == min(p[1] for p in members)
        assert int(found.end_us[session]) == max(p[1] + p[2] for p in members)
    order = list(zip(found.codes.tolist(), found.start_us.tolist(), strict=True))
    assert order == sorted(order), "sessions are numbered by key, then start"


def test_a_part_whose_first_rows_saw_the_session_before_expire_is_not_one_with_it() -> None:
    key, start, end = np.zeros(3, np.int64), np.array([0, 10, 10]), np.array([10, 15, 20])
    for tie, together in (([OPEN, OPEN, OPEN], 1), ([OPEN, 7, 9], 2), ([OPEN, 7, OPEN], 1)):
        found = connect(1, key, start, end, np.array(tie))
        assert len(found) == together
    assert connect(1, key, start, end, np.array([OPEN, 7, 9])).tie.tolist() == [OPEN, 7]
