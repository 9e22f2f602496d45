"""Grouping: equal keys get equal codes, whatever the type and whichever way the numbering takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.batch import Array
from millstream.errors import SchemaError
from millstream.grouping import Groups, distinct_keys, factorize, group_codes, raw_values

NAN = float("nan")


def canonical(value: Any) -> Any:
    """A value that Python compares as keys compare: one NaN, one zero, null apart from all."""
    if isinstance(value, float):
        return "nan" if value != value else value + 0.0
    return value


def assert_groups(columns: Sequence[Array]) -> None:
    codes, first = factorize(columns)
    keys = list(zip(*([canonical(v) for v in c.to_pylist()] for c in columns), strict=True))
    expected: dict[Any, int] = {}
    for row, key in enumerate(keys):
        expected.setdefault(key, row)
    assert len(codes) == len(keys)
    assert sorted(first.tolist()) == sorted(expected.values())
    assert [keys[first[code]] for code in codes] == keys
    codes, distinct = distinct_keys(columns)
    assert not any(pa.types.is_dictionary(c.type) for c in distinct)
    found = list(zip(*([canonical(v) for v in c.to_pylist()] for c in distinct), strict=True))
    assert len(found) == len(set(found))
    assert [found[code] for code in codes] == keys


KEYS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.string(), ["a", "b", "", None]),
    (pa.large_string(), ["a", "é", None]),
    (pa.string_view(), ["a", "b", None]),
    (pa.binary(), [b"a", b"", None]),
    (pa.int8(), [-128, 127, 0, None]),
    (pa.int64(), [-(2**63), 2**63 - 1, 0, None]),
    (pa.int64(), [5, 6, 7, None]),
    (pa.uint64(), [2**64 - 1, 2**64 - 2, None]),
    (pa.uint64(), [2**64 - 1, 0, None]),
    (pa.float64(), [0.0, -0.0, NAN, 1.5, None]),
    (pa.float32(), [0.0, -0.0, NAN, 1.5, None]),
    (pa.bool_(), [True, False, None]),
    (pa.timestamp("us", "UTC"), [datetime(2024, 1, 1), datetime(1950, 1, 1), None]),
    (pa.date32(), [date(2024, 1, 1), date(2024, 1, 2), None]),
    (pa.decimal128(38, 2), [Decimal("1.10"), Decimal("-3.00"), None]),
    (pa.decimal64(10, 2), [Decimal("1.10"), Decimal("-3.00"), None]),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b", None]),
    (pa.null(), [None]),
]


@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3), st.integers(0, 30), st.data())
@settings(max_examples=200, deadline=None)
def test_rows_with_equal_keys_get_equal_codes(
    kinds: list[tuple[pa.DataType, list[Any]]], rows: int, data: st.DataObject
) -> None:
    columns = []
    for kind, values in kinds:
        drawn = data.draw(st.lists(st.sampled_from(values), min_size=rows + 2, max_size=rows + 2))
        columns.append(pa.array(drawn, kind).slice(1, rows))  # a slice starts in the middle of its buffers
    assert_groups(columns)


def test_dictionary_may_repeat_values_and_hold_null_twice() -> None:
    repeated = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 2, None, 3, 0], pa.int8()), pa.array(["a", "b", "a", None, "unused"]).slice(0, 4)
    )
    assert_groups([repeated])
    codes, first = factorize([repeated])
    assert codes[0] == codes[2] == codes[5]
    assert codes[3] == codes[4]
    assert len(first) == 3


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.month_day_nano_interval()], ids=str
)
def test_key_that_cannot_be_hashed_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(SchemaError, match="cannot be a key"):
        factorize([pa.array([None, None], kind)])


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=50),
    st.sampled_from([7, 5_000, 2**40, 2**61]),
    st.sampled_from(["i4", "i8"]),
)
@settings(max_examples=150, deadline=None)
def test_combined_codes_are_dense_with_the_first_row_of_each(
    pairs: list[tuple[int, int]], cardinality: int, dtype: str
) -> None:
    high, low = (np.array([p[i] for p in pairs], dtype) for i in (0, 1))
    groups, first = group_codes([(high, 5), (low, cardinality)])
    assert groups.count == len(first) == len(set(pairs))
    assert [pairs[first[code]] for code in groups.codes] == pairs
    assert [pairs.index(pairs[row]) for row in first] == first.tolist()
    if 5 * cardinality <= 8 * len(pairs) + 1024:
        assert [pairs[row] for row in first] == sorted(set(pairs))


def test_many_columns_of_large_codes_do_not_overflow() -> None:
    codes = [np.array([0, 2**40 - 1, 0, i], np.int64) for i in range(5)]
    groups, _ = group_codes([(c, 2**40) for c in codes])
    assert groups.codes[0] == groups.codes[2]
    assert groups.count == 3


@given(st.lists(st.integers(0, 5), max_size=40), st.sampled_from([6, 70_000, 2**17]))
@settings(max_examples=60, deadline=None)
def test_order_and_starts_list_the_rows_of_each_group(codes: list[int], count: int) -> None:
    spread = [c * (count // 6) for c in codes]
    groups = Groups(np.array(spread, np.int32), count)
    assert groups.order.tolist() == sorted(range(len(codes)), key=lambda row: spread[row])
    for code in set(spread):
        rows = groups.order[groups.starts[code] : groups.starts[code + 1]]
        assert rows.tolist() == [row for row, c in enumerate(spread) if c == code]
    assert groups.sizes.sum() == len(codes)
    assert groups.has_empty == (len(set(codes)) < count)


def test_raw_values_of_a_slice_start_where_it_does() -> None:
    for column in (
        pa.array([1, None, 3, 4]),
        pa.array([True, None, True, False]),
        pa.array([1, None, 3, 4], pa.duration("us")),
    ):
        whole, part = raw_values(column), raw_values(column.slice(2))
        assert part.tolist() == whole[2:].tolist()
