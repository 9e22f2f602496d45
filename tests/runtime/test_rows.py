"""Rows as the user's functions see them, and the columns made of what they return."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from harness.sources import fields

from millstream.batch import make_columns
from millstream.errors import SchemaError
from millstream.rows import Row, columns_of, rows_of

COLUMNS = make_columns(
    ["id", "price", "get", "with space", "_x"],
    [pa.array([1, 2]), pa.array([0.5, None]), pa.array(["a", "b"]), pa.array([True, None]), pa.array([[1], None])],
)


def row() -> Row:
    return rows_of(COLUMNS)[0]


def test_fields_are_there_by_attribute_and_by_item() -> None:
    first, second = rows_of(COLUMNS)
    assert (first.id, first["id"], first.price, second.price, first["with space"], first["get"], first._x) == (
        1,
        1,
        0.5,
        None,
        True,
        "a",
        [1],
    )
    assert first.to_dict() == {"id": 1, "price": 0.5, "get": "a", "with space": True, "_x": [1]}
    assert (first.get("price"), first.get("none", 7)) == (0.5, 7)


def test_a_field_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="no field 'prize'; did you mean 'price'"):
        row().prize  # noqa: B018
    with pytest.raises(KeyError, match="no field 'prize'"):
        row()["prize"]


def test_a_changed_row_is_a_new_one() -> None:
    first = row()
    changed = first.with_(price=2, currency="EUR")
    assert (changed.price, changed.currency, changed.id, first.price) == (2, "EUR", 1, 0.5)
    assert columns_of([changed, changed], None, "map").schema.names == [*COLUMNS.schema.names, "currency"]


def test_times_are_in_utc() -> None:
    moment = datetime(2024, 1, 1, 12, tzinfo=UTC)
    column = pa.array([moment], pa.timestamp("us", "UTC"))
    assert rows_of(make_columns(["at"], [column]))[0].at == moment


@dataclass
class Order:
    id: int
    price: float


Point = namedtuple("Point", ["id", "price"])  # noqa: PYI024  (an untyped one, as users write)


@pytest.mark.parametrize(
    "results",
    [
        [{"id": 1, "price": 0.5}, {"id": 2, "price": 1.5}],
        [{"id": 1, "price": 0.5}, {"price": 1.5, "id": 2}],
        [Order(1, 0.5), Order(2, 1.5)],
        [Point(1, 0.5), Point(2, 1.5)],
        rows_of(make_columns(["id", "price"], [pa.array([1, 2]), pa.array([0.5, 1.5])])),
    ],
    ids=["dicts", "dicts in another order", "dataclasses", "named tuples", "rows"],
)
def test_results_of_every_kind_become_columns(results: list[Any]) -> None:
    assert columns_of(results, None, "map").to_pydict() == {"id": [1, 2], "price": [0.5, 1.5]}


def test_plain_values_are_the_field_value() -> None:
    assert columns_of([1, None, 3], None, "map").to_pydict() == {"value": [1, None, 3]}


def test_dicts_with_different_fields_are_filled_with_nulls() -> None:
    assert columns_of([{"a": 1}, {"b": 2}, {"a": 3, "b": 4}], None, "map").to_pydict() == {
        "a": [1, None, 3],
        "b": [None, 2, 4],
    }


def test_integers_and_floats_together_are_floats() -> None:
    assert columns_of([{"a": 1}, {"a": 0.5}, {"a": None}], None, "map").to_pydict() == {"a": [1.0, 0.5, None]}


def test_naive_times_are_utc_and_in_microseconds() -> None:
    made = columns_of([{"at": datetime(2024, 1, 1)}], None, "map")  # noqa: DTZ001
    assert made.schema.field("at").type == pa.timestamp("us", "UTC")


def test_a_declared_schema_gives_types_and_order() -> None:
    schema = fields(b=pa.float32(), a=pa.int8())
    assert columns_of([{"a": 1, "b": 2}], schema, "map").schema == schema
    assert columns_of([], schema, "map").schema == schema


def test_a_field_of_two_types_is_refused_by_name() -> None:
    with pytest.raises(SchemaError, match=r"map \(f.py:1\): field 'a' cannot be a column.*schema="):
        columns_of([{"a": 1}, {"a": "x"}], None, "map (f.py:1)")


def test_a_missing_declared_field_is_refused_by_name() -> None:
    with pytest.raises(SchemaError, match="returned no field 'b', which schema= declares; it returned a"):
        columns_of([{"a": 1}], pa.schema([("a", pa.int64()), ("b", pa.int64())]), "map")


@pytest.mark.parametrize(
    "results", [[{"a": 1}, 5], [5, {"a": 1}], [Point(1, 2), (1, 2, 3)], [Order(1, 2.0), {"id": 1}], [{"a": 1}, None]]
)
def test_results_of_two_kinds_are_refused_as_the_users_mistake(results: list[Any]) -> None:
    with pytest.raises(SchemaError):
        columns_of(results, None, "map")
