"""Batches: what is beside the columns goes with them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from millstream.batch import EMPTY_COLUMNS, Batch, Keys, concat, concat_columns, make_columns
from millstream.times import MIN_US


def batch() -> Batch:
    numbers = np.arange(5)
    keys = Keys(make_columns(["k"], [pa.array(["a", "b", None])]), np.array([0, 1, 2, 1, 0], np.int32))
    return Batch(
        make_columns(["x", "k"], [pa.array([10, 11, 12, 13, 14]), pa.array(list("vwxyz"))]),
        numbers,
        numbers + 100,
        numbers + 200,
        keys,
    )


def rows(part: Batch) -> list[tuple[object, ...]]:
    assert (
        part.time_us is not None and part.before_us is not None and part.position is not None and part.keys is not None
    )
    columns = [
        part.columns.column("x").to_pylist(),
        part.time_us,
        part.before_us - 100,
        part.position - 200,
        part.keys.columns()[0].to_pylist(),
    ]
    return [tuple(row) for row in zip(*columns, strict=True)]


ALL = [(10, 0, 0, 0, "a"), (11, 1, 1, 1, "b"), (12, 2, 2, 2, None), (13, 3, 3, 3, "b"), (14, 4, 4, 4, "a")]


def test_take_where_and_slice_keep_rows_whole() -> None:
    assert rows(batch()) == ALL
    assert rows(batch().take(np.array([3, 0, 3]))) == [ALL[3], ALL[0], ALL[3]]
    assert rows(batch().where(np.array([False, True, False, False, True]))) == [ALL[1], ALL[4]]
    assert rows(batch().slice(1, 3)) == ALL[1:4]
    assert rows(batch().slice(1, 3).slice(1, 9)) == ALL[2:4]
    assert batch().where(np.zeros(5, np.bool_)).num_rows == 0


def test_the_key_comes_in_front_of_the_fields_and_takes_the_place_of_one_of_its_name() -> None:
    columns = batch().all_columns()
    assert columns.schema.names == ["k", "x"]
    assert columns.to_pydict() == {"k": ["a", "b", None, "b", "a"], "x": [10, 11, 12, 13, 14]}


def test_a_batch_without_columns_has_as_many_rows_as_it_has_times_or_keys() -> None:
    keys = Keys(make_columns(["k"], [pa.array(["a"])]), np.zeros(4, np.int32))
    assert Batch(EMPTY_COLUMNS, keys=keys).num_rows == 4
    assert Batch(EMPTY_COLUMNS, np.arange(3)).num_rows == 3
    assert Batch(EMPTY_COLUMNS, np.arange(3)).take(np.array([2])).num_rows == 1
    assert Batch(EMPTY_COLUMNS).num_rows == 0


def test_bytes_are_those_of_the_rows_alone() -> None:
    whole = Batch(make_columns(["x"], [pa.array(np.arange(1000))]), np.arange(1000))
    assert whole.nbytes == 16_000
    assert whole.slice(0, 10).nbytes == 160


def test_concat_fills_in_that_no_row_was_behind_the_watermark() -> None:
    def part(*times: int, before: int | None = None) -> Batch:
        behind = None if before is None else np.full(len(times), before)
        return Batch(make_columns(["x"], [pa.array(times)]), np.array(times), behind, np.array(times))

    together = concat([part(1, 2), part(3, before=9), part(4)])
    assert together.time_us is not None and together.before_us is not None and together.position is not None
    assert together.time_us.tolist() == together.position.tolist() == [1, 2, 3, 4]
    assert together.before_us.tolist() == [MIN_US, MIN_US, 9, MIN_US]
    assert concat([part(1), part(2)]).before_us is None


def test_types_widen_where_parts_differ() -> None:
    parts = [make_columns(["x"], [array]) for array in (pa.nulls(1), pa.array([1]), pa.array([0.5]))]
    assert concat_columns(parts).to_pydict() == {"x": [None, 1.0, 0.5]}
    with pytest.raises(pa.ArrowTypeError):
        concat_columns([make_columns(["x"], [pa.array([1])]), make_columns(["x"], [pa.array(["a"])])])


def test_parts_without_rows_keep_their_schema() -> None:
    empty = make_columns(["x"], [pa.array([], pa.int64())])
    assert concat_columns([empty, empty]).schema == empty.schema
