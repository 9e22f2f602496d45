"""What is remembered of each key: found again, numbered on, trimmed, and let go."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Batch, Keys, make_columns
from millstream.operators.key_rows import KeyHistory, KeyRows, TimesByKey, sorted_by_key


def keys_of(text: str) -> Keys:
    distinct = sorted(set(text))
    column = pa.array(distinct, pa.string())
    return Keys(make_columns(["k"], [column]), np.array([distinct.index(k) for k in text], np.int32))


class Driver:
    """A history, and the same as a list for each key."""

    def __init__(self, last: int | None = None, together: int | None = None) -> None:
        self.history = KeyHistory(last, together)
        self.all: dict[str, list[int]] = {}
        self.at = 0

    def add(self, text: str) -> tuple[KeyRows, np.ndarray]:
        """Add a row for each letter, its place in all rows as its time and its value."""
        places = np.arange(self.at, self.at + len(text))
        batch = Batch(make_columns(["v"], [pa.array(places)]), places, position=places, keys=keys_of(text))
        self.at += len(text)
        assert batch.keys is not None
        new, order = sorted_by_key(batch, self.history.keys.slots_of(batch.keys), batch.columns)
        assert new.columns.column(0).to_pylist() == places[order].tolist()
        seen, at, new = self.history.followed_by(new)
        assert seen.columns.column(0).to_numpy()[at].tolist() == new.columns.column(0).to_pylist()
        self.history.add(new)
        for letter, place in zip(text, places.tolist(), strict=True):
            self.all.setdefault(letter, []).append(place)
        return seen, at

    def behind(self, seen: KeyRows, row: int) -> list[int]:
        """The values of a row's key that are seen up to it."""
        return seen.columns.column(0).to_pylist()[seen.starts[row] : row + 1]


TEXTS = st.lists(st.text("abcdefgh", min_size=1, max_size=12), max_size=40)


@given(TEXTS, st.integers(0, 4))
def test_the_last_rows_of_each_key_are_there(texts: list[str], last: int) -> None:
    driver = Driver(last=last)
    for text in texts:
        seen, at = driver.add(text)
        for row in at.tolist():
            behind = driver.behind(seen, row)
            value = behind[-1]
            mine = next(rows for rows in driver.all.values() if value in rows)
            upto = mine[: mine.index(value) + 1]
            assert behind[-min(len(upto), last + 1) :] == upto[-(last + 1) :]
    assert driver.history.rows <= 2 * max(last, 1) * max(1, len(driver.all)) + 40 * last


@given(TEXTS, st.integers(1, 4))
def test_rows_are_numbered_on_and_full_groups_are_forgotten(texts: list[str], together: int) -> None:
    driver = Driver(last=together, together=together)
    for text in texts:
        seen, at = driver.add(text)
        for row in at.tolist():
            value = int(seen.columns.column(0)[row].as_py())
            mine = next(rows for rows in driver.all.values() if value in rows)
            assert seen.number[row] % together == mine.index(value) % together
            group = mine[mine.index(value) // together * together : mine.index(value) + 1]
            assert driver.behind(seen, row)[-len(group) :] == group
    left = driver.history.all_rows()
    open_ = {v for rows in driver.all.values() if len(rows) % together for v in rows[-(len(rows) % together) :]}
    assert set([] if left is None else left.columns.column(0).to_pylist()) == open_


@given(TEXTS, st.integers(1, 30))
def test_rows_before_the_horizon_are_forgotten(texts: list[str], size: int) -> None:
    driver = Driver()
    for text in texts:
        driver.history.forget_before(driver.at - size)
        seen, at = driver.add(text)
        for row in at.tolist():
            behind = [v for v in driver.behind(seen, row) if v >= driver.at - size]
            mine = next(rows for rows in driver.all.values() if behind and behind[-1] in rows) if behind else []
            assert behind == [v for v in mine if driver.at - size <= v <= (behind[-1] if behind else 0)]


def test_keys_whose_rows_are_gone_are_forgotten() -> None:
    driver = Driver()
    for start in range(0, 60_000, 1_000):
        driver.history.forget_before(driver.at - 500)
        driver.add("".join(chr(0x10000 + start + i) for i in range(500)))
    assert len(driver.history.keys) < 5_000
    assert driver.history.rows < 5_000


@pytest.mark.parametrize("factor", [1, 2**54])
def test_moments_are_found_within_their_key_also_where_times_are_far_apart(factor: int) -> None:
    times = np.array([1, 3, 3, 9, 0, 3, 10], np.int64) * factor
    nothing = np.zeros(7, np.int64)
    rows = KeyRows(np.array([0, 0, 0, 0, 1, 1, 1]), times, nothing, nothing, make_columns([], []))
    found = TimesByKey(rows).first_from(np.array([0, 0, 0, 4, 4, 4]), np.array([3, 4, 20, -5, 3, 11]) * factor)
    assert found.tolist() == [1, 3, 4, 4, 5, 7]
