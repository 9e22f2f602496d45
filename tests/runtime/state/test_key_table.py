"""Keys and their slots, against a dict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Keys
from millstream.state import key_table
from millstream.state.key_table import KeyTable

Key = tuple[Any, ...]

texts = st.one_of(st.none(), st.sampled_from(["", "a", "b", "user-1", "x" * 40]))
numbers = st.one_of(st.none(), st.sampled_from([0.0, 1.5, float("nan"), -3.0]))
steps = st.lists(st.tuples(st.booleans(), st.lists(st.tuples(texts, numbers), max_size=8)), max_size=12)


def columns(keys: list[Key]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([k[0] for k in keys], pa.string()), pa.array([k[1] for k in keys], pa.float64())], names=["t", "x"]
    )


def distinct(keys: list[Key]) -> list[Key]:
    return list({repr(k): k for k in keys}.values())


@given(steps, st.booleans())
def test_every_key_has_one_slot_until_it_is_freed(given_steps: list[tuple[bool, list[Key]]], collide: bool) -> None:
    table, model = KeyTable(), dict[str, int]()
    with pytest.MonkeyPatch.context() as patch:
        if collide:  # all keys have one hash, and are still told apart
            patch.setattr(key_table, "hash_keys", lambda columns: np.zeros(len(columns[0]), np.uint64))
        for adding, keys in given_steps:
            keys = distinct(keys)
            if not adding:
                keys = [k for k in keys if repr(k) in model]
                table.free(np.array([model.pop(repr(k)) for k in keys], np.int64))
                continue
            slots, new = table.add(columns(keys))
            for key, slot, is_new in zip(keys, slots.tolist(), new.tolist(), strict=True):
                assert is_new == (repr(key) not in model)
                assert model.setdefault(repr(key), slot) == slot
            assert len(set(model.values())) == len(model)
        assert len(table) == len(model)
        assert table.live().tolist() == sorted(model.values())
        if table.capacity:
            found = table.keys(table.live()).to_pylist()
            assert {repr(tuple(r.values())): s for r, s in zip(found, table.live().tolist(), strict=True)} == model
            assert table.find(columns([("never", 1.0)])).tolist() == [-1]


def test_freed_slots_are_given_out_again() -> None:
    table = KeyTable()
    for start in range(0, 100_000, 1_000):
        keys = pa.RecordBatch.from_arrays([pa.array([f"key-{i}" for i in range(start, start + 1_000)])], names=["k"])
        slots, new = table.add(keys)
        assert new.all()
        assert (table.find(keys) == slots).all()
        table.free(slots)
    assert len(table) == 0
    assert table.capacity == 1_000
    assert table.nbytes < 300_000


def test_each_row_has_the_slot_of_its_key_and_keys_of_no_row_get_none() -> None:
    table, keys = KeyTable(), columns([("b", 0.0), (None, float("nan")), ("a", None), ("c", 1.5)])
    for _ in range(2):
        assert table.slots_of(Keys(keys, np.array([2, 1, 0, 2], np.int32))).tolist() == [2, 1, 0, 2]
    assert len(table) == 3 and table.keys(table.live()).column(0).to_pylist() == ["b", None, "a"]
