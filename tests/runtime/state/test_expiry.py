"""The queue of slots that are due, against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millstream.state.expiry import Expiry
from millstream.times import MAX_US


@given(st.lists(st.tuples(st.dictionaries(st.integers(0, 20), st.integers(0, 50)), st.integers(0, 60)), max_size=40))
def test_a_slot_is_due_once_at_the_time_it_was_given_last(steps: list[tuple[dict[int, int], int]]) -> None:
    expiry, model = Expiry(), dict[int, int]()
    for given_times, until in steps:
        expiry.set(np.array(list(given_times), np.int64), np.array(list(given_times.values()), np.int64))
        model |= given_times
        due = sorted(s for s, t in model.items() if t <= until)
        assert expiry.due(until).tolist() == due
        model = {s: t for s, t in model.items() if s not in due}


def test_what_was_put_off_a_thousand_times_is_one_entry() -> None:
    expiry = Expiry()
    for time in range(1_000):
        expiry.set(np.arange(100), np.full(100, time))
    assert expiry.nbytes < 100_000
    assert expiry.due(998).tolist() == []
    assert expiry.due(999).tolist() == list(range(100))


def test_never_is_never() -> None:
    expiry = Expiry()
    expiry.set(np.array([3]), np.array([5]))
    expiry.set(np.array([3]), np.array([MAX_US]))
    assert expiry.due(MAX_US).tolist() == []
