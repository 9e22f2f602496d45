"""Columns spread over more rows, compared with what Arrow's take makes of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.connectors.spread import Spread

VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(max_size=3),
    pa.binary(): st.binary(max_size=3),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.int8(): st.integers(-128, 127),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.timestamp("ms", "UTC"): st.just(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    pa.list_(pa.int64()): st.lists(st.integers(0, 9), max_size=3),
}


@pytest.mark.parametrize("type_", VALUES, ids=str)
@given(data=st.data())
def test_a_row_has_its_value_where_there_is_one(type_: pa.DataType, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.none() | VALUES[type_] | st.just("null"), max_size=20))
    there = [row for row in rows if row is not None]
    values: pa.Array[Any] = pa.array([None if row == "null" else row for row in there], type_)
    spread = Spread(np.array([row is not None for row in rows], np.bool_)).column(values)
    spread.validate(full=True)
    assert spread.type == type_
    assert spread.to_pylist() == [None if row is None or row == "null" else row for row in rows]


def test_a_part_of_a_column_is_spread_as_one() -> None:
    values = pa.array(["a", "bc", "", "d"]).slice(1, 2)
    assert Spread(np.array([True, False, True])).column(values).to_pylist() == ["bc", None, ""]
