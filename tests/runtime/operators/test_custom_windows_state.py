"""Custom windows keep their start with their key; in state it must not decide who owns the key."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from harness.tables import as_file
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Keys, make_columns
from millstream.checkpoints.tables import StateTable, from_ipc, owned
from millstream.operators.free_windows import _start_into_keys, _start_out_of_keys

ROWS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b", None]), st.integers()), min_size=1)


@given(ROWS, st.integers(1, 3))
def test_starts_leave_the_keys_and_come_back(rows: list[tuple[int, str | None, int]], workers: int) -> None:
    starts, keys, values = zip(*rows, strict=True)
    different = sorted({(s, k) for s, k, _ in rows}, key=str)
    distinct = make_columns(
        ["\0start", "k"], [pa.array([s for s, _ in different]), pa.array([k for _, k in different], pa.string())]
    )
    codes = np.array([different.index(pair) for pair in zip(starts, keys, strict=True)], np.int32)
    column = pa.array([v % 1000 for v in values], pa.int64())
    out = _start_out_of_keys(StateTable("windows", Keys(distinct, codes), make_columns(["v"], [column])))
    assert out.keys is not None and out.keys.distinct.schema.names == ["k"]
    assert out.keys.distinct.num_rows == len(set(keys))
    found: list[tuple[int, str | None, int]] = []
    for worker in range(workers):
        back = _start_into_keys(owned(from_ipc("windows", as_file(out)), worker, workers))
        assert back.keys is not None and back.columns.schema.names == ["v"]
        start, key = back.keys.columns()
        found += zip(start.to_pylist(), key.to_pylist(), back.columns.column(0).to_pylist(), strict=True)
    assert sorted(found, key=str) == sorted(zip(starts, keys, column.to_pylist(), strict=True), key=str)
