"""The text of floats: always what Arrow writes, and so what reads back as the same float."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from millstream.connectors.float_text import float_text

decimals = st.builds(lambda digits, places: digits / 10**places, st.integers(-(10**16), 10**16), st.integers(0, 12))
edges = st.sampled_from([0.0, -0.0, 1e9, 999_999_999.999999, 1e-6, 1e-7, 5e-324, 0.1 + 0.2, 2.0**53, -999.9995])
floats = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.none() | st.one_of(decimals, edges, floats)),
    st.integers(0, 3),
    st.sampled_from([pa.float64(), pa.float32()]),
)
def test_any_floats_are_written_as_arrow_writes_them(
    values: list[float | None], start: int, type_: pa.DataType
) -> None:
    column = pa.array(values, pa.float64()).cast(type_)[start:]
    assert float_text(column).equals(column.cast(pa.string()))


@given(st.integers(0, 9), st.lists(st.integers(-(10**15), 10**15), min_size=1), st.none() | floats)
def test_columns_of_decimals_are_written_as_arrow_writes_them(
    places: int, digits: list[int], other: float | None
) -> None:
    values = [number / 10**places for number in digits] * 12 + ([other] if other is not None else [])
    column = pa.array(values, pa.float64())
    assert float_text(column).equals(column.cast(pa.string()))
