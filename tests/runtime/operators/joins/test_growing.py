"""Columns that grow, against lists."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import SchemaError
from millstream.operators.joins.growing import GrowingColumn, GrowingColumns

VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-5, 5)),
    (pa.int8(), st.integers(-5, 5)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(max_size=4)),
    (pa.large_string(), st.text(max_size=4)),
    (pa.binary(), st.binary(max_size=4)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.decimal128(9, 2), st.integers(-99, 99).map(lambda n: Decimal(n) / 100)),
    (pa.date32(), st.dates(date(1960, 1, 1), date(2030, 1, 1))),
    (pa.timestamp("us", "UTC"), st.datetimes(datetime(1960, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))),
    (pa.duration("us"), st.integers(-9, 9).map(lambda n: timedelta(microseconds=n))),
    (pa.list_(pa.int64()), st.lists(st.integers(0, 3), max_size=3)),
    (pa.struct([("a", pa.string())]), st.builds(lambda a: {"a": a}, st.text(max_size=2))),
    (pa.null(), st.none()),
]


@given(st.data())
def test_what_was_appended_is_there_whatever_its_type(data: st.DataObject) -> None:
    kind, values = data.draw(st.sampled_from(VALUES))
    column, expected = GrowingColumn(kind), list[Any]()
    for _ in range(data.draw(st.integers(0, 5))):
        part = data.draw(st.lists(st.one_of(st.none(), values), max_size=8))
        start = data.draw(st.integers(0, len(part)))
        column.extend(pa.array(part, kind).slice(start))
        expected += part[start:]
        if expected and data.draw(st.booleans()):
            rows = data.draw(st.lists(st.integers(0, len(expected) - 1), unique=True).map(sorted))
            column.keep(np.array(rows, np.int64))
            expected = [expected[r] for r in rows]
        rows = data.draw(st.lists(st.integers(0, max(0, len(expected) - 1)))) if expected else []
        taken = column.take(np.array(rows, np.int64))
        assert taken.type == kind
        assert taken.to_pylist() == [expected[r] for r in rows]
        taken.validate(full=True)


@given(st.data())
def test_a_slice_stays_as_it_is_whatever_is_appended_and_forgotten(data: st.DataObject) -> None:
    kind, values = data.draw(st.sampled_from(VALUES))
    some = st.lists(st.one_of(st.none(), values), min_size=1, max_size=8)
    column, expected = GrowingColumn(kind), data.draw(some)
    column.extend(pa.array(expected, kind))
    start = data.draw(st.integers(0, len(expected) - 1))
    stop = data.draw(st.integers(start, len(expected)))
    part = column.slice(start, stop)
    column.extend(pa.array(data.draw(some), kind))
    column.keep(np.array([0]))
    column.extend(pa.array(data.draw(some), kind))
    part.validate(full=True)
    assert part.type == kind and part.to_pylist() == expected[start:stop]


def test_a_field_that_shows_a_wider_type_later_has_it_in_all_rows() -> None:
    columns = GrowingColumns("join")
    columns.extend(["x", "y"], [pa.array([1, 2]), pa.nulls(2)], 2)
    columns.extend(["x", "y"], [pa.array([2.5]), pa.array(["text"])], 1)
    columns.extend(["x", "y"], [pa.array([3]), pa.nulls(1)], 1)
    rows = np.arange(4)
    assert columns.take("x", rows).to_pylist() == [1.0, 2.0, 2.5, 3.0]
    assert columns.take("y", rows).to_pylist() == [None, None, "text", None]
    with pytest.raises(SchemaError, match="field 'x' was double and is now string"):
        columns.extend(["x", "y"], [pa.array(["a"]), pa.nulls(1)], 1)
