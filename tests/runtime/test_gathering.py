"""Small batches put together: the same rows in the same order, each key once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Batch, Keys
from millstream.gathering import gathered

Row = tuple[str | None, int, int | None, int]

rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None, ""]),
        st.integers(0, 9),
        st.none() | st.integers(0, 9),
        st.sampled_from([-1, 1]),
    )
)


def batch(of: list[Row], kind: pa.DataType) -> Batch:
    """Rows of (key, value, watermark before, sign); watermarks and signs are left out where all are alike."""
    names = list(dict.fromkeys(key for key, *_ in of))
    before = [np.iinfo(np.int64).min if b is None else b for _, _, b, _ in of]
    return Batch(
        pa.RecordBatch.from_arrays([pa.array([v for _, v, _, _ in of], kind)], names=["v"]),
        np.arange(len(of)), None if all(b is None for _, _, b, _ in of) else np.array(before), np.arange(len(of)) + 7,
        Keys(
            pa.RecordBatch.from_arrays([pa.array(names, pa.string())], names=["k"]),
            np.array([names.index(key) for key, *_ in of], np.int32),
        ),
        None if all(sign == 1 for *_, sign in of) else np.array([sign for *_, sign in of], np.int8),
    )  # fmt: skip


def said(batches: list[Batch]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for one in batches:
        assert one.time_us is not None and one.position is not None
        n = one.num_rows
        before = [np.iinfo(np.int64).min] * n if one.before_us is None else one.before_us.tolist()
        sign = [1] * n if one.sign is None else one.sign.tolist()
        fields = [tuple(row.values()) for row in one.all_columns().to_pylist()]
        found += zip(fields, one.time_us.tolist(), before, one.position.tolist(), sign, strict=True)
    return found


@given(st.lists(st.tuples(rows, st.sampled_from([pa.int64(), pa.float64()])), max_size=6))
def test_batches_together_hold_the_rows_of_all_and_every_key_once(given_batches: list[tuple[list[Row], Any]]) -> None:
    batches = [batch(of, kind) for of, kind in given_batches]
    together = gathered(batches)
    assert said(together) == said(batches)
    types = [kind for _, kind in given_batches]
    assert len(together) == sum(a != b for a, b in zip(types, [None, *types], strict=False))
    for one in together:
        assert one.keys is not None
        keys = one.keys.distinct.column(0).to_pylist()
        assert len(set(keys)) == len(keys)
