"""Splitting batches by key: every row with its own key, to the owner of it, in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness.sources import fields
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.batch import Batch, make_columns
from millstream.expr import col
from millstream.keys import group_owners, hash_keys, key_groups
from millstream.operators.base import Context, DeadLetter
from millstream.partition import KeyPartitioner

Value = int | str | float | None


def context(letters: list[DeadLetter] | None = None) -> Context:
    return Context("key_by (flow.py:1)", 0, 1, lambda: 0, (letters if letters is not None else []).append)


def rows_of(parts: list[tuple[int, Batch]], fields: list[str]) -> dict[int, list[tuple[Any, ...]]]:
    """The rows of every receiver, key fields in front."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for worker, part in parts:
        assert worker not in found, "one part for each receiver"
        assert part.num_rows
        assert part.keys is not None
        columns = [*part.keys.columns(), *(part.columns.column(f) for f in fields), pa.array(part.time_us)]
        found[worker] = list(zip(*(c.to_pylist() for c in columns), strict=True))
    return found


@given(
    st.one_of(
        st.lists(st.one_of(st.none(), st.integers(-5, 5))), st.lists(st.one_of(st.none(), st.integers())), st.lists(st.one_of(st.none(), st.text(max_size=3))),
        st.lists(st.one_of(st.none(), st.sampled_from([0.5, -0.5, 1.0, float("inf")]))),
    ).filter(lambda values: all(not isinstance(v, int) or -(2**63) <= v < 2**63 for v in values)),
    st.integers(1, 5), st.booleans(),
)  # fmt: skip
@example([5, 3, 4], 1, False)  # all different and not in order: codes are numbered by value
@example([5, 3, 4], 3, False)
@example([2**40, 5, 3, None], 2, False)
def test_every_row_goes_with_its_key_to_the_owner_of_it(values: list[Value], workers: int, dictionary: bool) -> None:
    keys = pa.array(list[Any](values)) if any(v is not None for v in values) else pa.array(values, pa.string())
    row = np.arange(len(values))
    batch = Batch(
        make_columns(["k", "row"], [keys.dictionary_encode() if dictionary else keys, pa.array(row)]), row * 10
    )
    parts = rows_of(KeyPartitioner((("k", col("k")),), ("row",), workers, context()).split(batch), ["row"])
    owners = group_owners(workers)[key_groups(hash_keys([keys]))] if values else []
    for worker in range(workers):
        assert parts.get(worker, []) == [(v, i, 10 * i) for i, v in enumerate(values) if owners[i] == worker]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.one_of(st.none(), st.integers(0, 3)))), st.integers(1, 4)
)
def test_keys_of_several_fields_are_computed_and_stay_with_their_rows(
    pairs: list[tuple[str | None, int | None]], workers: int
) -> None:
    schema = fields(a=pa.string(), b=pa.int64())
    columns = pa.RecordBatch.from_pylist([{"a": a, "b": b} for a, b in pairs], schema=schema)
    batch = Batch(columns, np.arange(len(pairs)))
    split = KeyPartitioner((("a", col("a")), ("next", col("b") + 1)), ("b",), workers, context()).split(batch)
    found = sorted((row for rows in rows_of(split, ["b"]).values() for row in rows), key=lambda r: int(r[-1]))
    assert found == [(a, None if b is None else b + 1, b, i) for i, (a, b) in enumerate(pairs)]


def test_what_is_beside_the_columns_is_split_with_them() -> None:
    numbers = np.arange(20)
    batch = Batch(make_columns(["k"], [pa.array(numbers % 7)]), numbers, numbers + 100, numbers + 200)
    for _, part in KeyPartitioner((("k", col("k")),), (), 3, context()).split(batch):
        assert (
            part.time_us is not None
            and part.before_us is not None
            and part.position is not None
            and part.keys is not None
        )
        assert part.columns.num_columns == 0
        assert part.num_rows == len(part.time_us)
        assert (part.before_us == part.time_us + 100).all()
        assert (part.position == part.time_us + 200).all()
        assert (part.keys.columns()[0].to_numpy() == part.time_us % 7).all()


def test_a_batch_without_rows_has_no_parts() -> None:
    batch = Batch(make_columns(["k"], [pa.array([], pa.int64())]), np.zeros(0, np.int64))
    assert KeyPartitioner((("k", col("k")),), None, 3, context()).split(batch) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_whose_key_cannot_be_computed_are_dead_letters_and_the_others_go_on(workers: int) -> None:
    letters: list[DeadLetter] = []
    batch = Batch(make_columns(["k"], [pa.array(["1", "x", "2"])]), np.arange(3))
    parts = rows_of(KeyPartitioner((("k", col("k").cast(pa.int64())),), (), workers, context(letters)).split(batch), [])
    assert sorted(row for rows in parts.values() for row in rows) == [(1, 0), (2, 2)]
    assert [letter.record for letter in letters] == ["{'k': 'x'}"]
