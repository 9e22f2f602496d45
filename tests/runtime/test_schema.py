"""Schemas: what a user may declare, and what a column may become without losing what it means."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple, NewType, NotRequired, TypedDict

import pyarrow as pa
import pytest

from millstream.errors import SchemaError
from millstream.schema import array_of, conform, narrow, plain_schema, to_schema

UserId = NewType("UserId", int)


@dataclass
class Bid:
    price: Decimal
    at: datetime


@dataclass
class Order:
    id: UserId
    ok: bool
    weight: float | None
    name: str
    day: date
    took: timedelta
    tags: list[str]
    bids: list[Bid]
    last: Bid
    labels: dict[str, int]
    side: Literal["buy", "sell"]


class Event(TypedDict):
    key: str
    value: NotRequired[float]


class Point(NamedTuple):
    x: int
    y: float


SOME: dict[str, pa.DataType] = {"key": pa.string(), "value": pa.float64()}


def test_a_dataclass_becomes_columns_with_nested_ones_as_structs() -> None:
    bid = pa.struct([("price", pa.decimal128(38, 9)), ("at", pa.timestamp("us", "UTC"))])
    expected: dict[str, pa.DataType] = {
        "id": pa.int64(),
        "ok": pa.bool_(),
        "weight": pa.float64(),
        "name": pa.string(),
        "day": pa.date32(),
        "took": pa.duration("us"),
        "tags": pa.list_(pa.string()),
        "bids": pa.list_(bid),
        "last": bid,
        "labels": pa.map_(pa.string(), pa.int64()),
        "side": pa.string(),
    }
    assert to_schema(Order) == pa.schema(expected)


@pytest.mark.parametrize("declared", [Event, {"key": str, "value": float}, {"key": pa.string(), "value": pa.float64()}])
def test_typed_dicts_and_dicts_of_types_become_the_same_columns(declared: Any) -> None:
    assert to_schema(declared) == pa.schema(SOME)


def test_a_named_tuple_class_and_an_arrow_schema_are_schemas_too() -> None:
    assert to_schema(Point) == to_schema({"x": int, "y": float})
    assert to_schema(schema := pa.schema({"x": pa.int8()})) is schema


def test_a_dict_inside_a_dict_is_a_struct() -> None:
    assert to_schema({"at": {"lat": float, "lon": float}}).field("at").type == pa.struct(
        [("lat", pa.float64()), ("lon", pa.float64())]
    )


@pytest.mark.parametrize(
    ("declared", "named"), [({"a": {"b": object}}, r"a\.b"), ({"a": int | str}, "'a'"), (7, "dataclass")]
)
def test_what_has_no_column_type_is_refused_by_name(declared: Any, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        to_schema(declared)


def test_narrowing_keeps_order_and_reaches_into_structs() -> None:
    schema = to_schema({"a": int, "b": {"c": int, "d": str}, "e.f": float})
    assert narrow(schema, ["e.f", "b.d", "a"], "here") == to_schema({"a": int, "b": {"d": str}, "e.f": float})
    assert narrow(schema, ["b.d", "b"], "here").field("b") == schema.field("b")
    with pytest.raises(SchemaError, match=r"here, field 'b'.*'c'"):
        narrow(schema, ["b.cc"], "here")


def test_columns_are_made_to_fit_where_nothing_is_lost() -> None:
    columns = pa.record_batch(
        {
            "n": pa.array([1, 2], pa.int32()),
            "f": pa.array([1, 2]),
            "s": pa.array(["a", "b"]).dictionary_encode(),
            "t": pa.array([datetime(2025, 1, 1), None], pa.timestamp("ms")),
            "x": pa.array([None, None]),
        }
    )
    wanted = to_schema({"f": float, "n": int, "s": str, "t": datetime, "x": str})
    fitted = conform(columns, wanted, "here")
    assert fitted.schema == wanted
    assert fitted.column("s").to_pylist() == ["a", "b"]
    assert fitted.column("t")[0].as_py().isoformat() == "2025-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1.5], pa.int64()),
        ([True], pa.int64()),
        ([1], pa.string()),
        (["1"], pa.int64()),
        ([2**40], pa.int32()),
        ([1], pa.bool_()),
    ],
)
def test_columns_that_would_lose_something_are_refused_by_name(values: list[Any], wanted: pa.DataType) -> None:
    with pytest.raises(SchemaError, match=f"field 'v': expected {wanted}"):
        conform(pa.record_batch({"v": pa.array(values)}), pa.schema({"v": wanted}), "here")
    with pytest.raises(SchemaError, match=f"field 'v': expected {wanted}"):
        array_of(values, wanted, "field 'v'")


def test_a_batch_without_columns_still_counts_its_rows() -> None:
    assert conform(pa.record_batch({"v": [1, 2, 3]}), pa.schema([]), "here").num_rows == 3


def test_encoded_columns_become_plain_at_every_depth() -> None:
    coded = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([("a", coded), ("b", pa.list_(coded)), ("c", pa.struct([("d", coded)]))])
    assert plain_schema(schema) == to_schema({"a": str, "b": list[str], "c": {"d": str}})
