"""Numbers for keys, against a dict."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Keys, index_array, make_columns
from millstream.errors import SchemaError
from millstream.grouping import factorize
from millstream.operators.joins import key_index
from millstream.operators.joins.key_index import NO_KEY, KeyIndex


def keys(*columns: pa.Array[Any]) -> Keys:
    codes, first = factorize(columns)
    rows = index_array(first)
    names = [f"k{i}" for i in range(len(columns))]
    return Keys(make_columns(names, [c.take(rows) for c in columns]), codes.astype(np.int32))


BATCHES = st.lists(
    st.lists(st.tuples(st.one_of(st.none(), st.integers(-3, 3)), st.one_of(st.none(), st.text("ab", max_size=2)))),
    max_size=6,
)


@given(BATCHES, st.booleans())
def test_a_key_has_one_number_in_every_batch(batches: list[list[tuple[Any, Any]]], one_column: bool) -> None:
    index, numbers = KeyIndex("test"), dict[Any, int]()
    for rows in batches:
        if not rows:
            continue
        columns = [pa.array([a for a, _ in rows], pa.int64()), pa.array([b for _, b in rows], pa.string())]
        used = columns[:1] if one_column else columns
        for row, number in zip(rows, index.numbers(keys(*used)).tolist(), strict=True):
            key = row[:1] if one_column else row
            if None in key:
                assert number == NO_KEY
            else:
                assert numbers.setdefault(key, number) == number
    assert sorted(numbers.values()) == list(range(len(index)))
    for key, number in numbers.items():
        assert tuple(c[0].as_py() for c in index.columns(np.array([number]))) == key


def test_keys_that_share_a_hash_are_two_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def same_for_all(columns: list[pa.Array[Any]]) -> npt.NDArray[np.uint64]:
        return np.full(len(columns[0]), 7, np.uint64)

    monkeypatch.setattr(key_index, "hash_keys", same_for_all)
    index = KeyIndex("test")
    words = [f"word {i}" for i in range(50)]
    first = index.numbers(keys(pa.array(words[:30]))).tolist()
    second = index.numbers(keys(pa.array(words[::-1]))).tolist()
    assert sorted(first) == list(range(30))
    assert second[::-1][:30] == first
    assert sorted(second) == list(range(50))


def test_every_nan_is_one_key_and_so_are_both_zeros() -> None:
    index = KeyIndex("test")
    values = [math.nan, 0.0, 1.5]
    again = [-0.0, 1.5, -math.nan]
    first, second = index.numbers(keys(pa.array(values))), index.numbers(keys(pa.array(again)))
    assert second.tolist() == [first[1], first[2], first[0]]


def test_many_keys_find_their_places_again_when_the_table_grows() -> None:
    index = KeyIndex("test")
    values = np.random.default_rng(1).permutation(100_000)
    numbers = np.concatenate([index.numbers(keys(pa.array(part))) for part in np.split(values, 20)])
    assert sorted(numbers.tolist()) == list(range(100_000))
    assert (index.find([pa.array(values)]) == numbers).all()
    assert (index.find([pa.array(values + 100_000)]) == NO_KEY).all()


def test_keys_that_are_forgotten_leave_the_others_in_order() -> None:
    index = KeyIndex("test")
    index.numbers(keys(pa.array(["a", "b", "c", "d"])))
    index.keep(np.array([1, 3]))
    assert index.find([pa.array(["a", "b", "c", "d"])]).tolist() == [NO_KEY, 0, NO_KEY, 1]
    assert index.numbers(keys(pa.array(["e"]))).tolist() == [2]
    assert index.columns(np.arange(3))[0].to_pylist() == ["b", "d", "e"]


def test_integers_and_then_floats_are_one_type_of_key() -> None:
    index = KeyIndex("test")
    whole = index.numbers(keys(pa.array([1, 2])))
    mixed = index.numbers(keys(pa.array([2.0, 2.5, 1.0])))
    assert mixed.tolist() == [whole[1], 2, whole[0]]


def test_keys_of_types_that_do_not_go_together_are_refused() -> None:
    index = KeyIndex("join (flow.py:3)")
    index.numbers(keys(pa.array([1, 2])))
    with pytest.raises(SchemaError, match=r"join \(flow.py:3\).*was int64 and is now string"):
        index.numbers(keys(pa.array(["1"])))
