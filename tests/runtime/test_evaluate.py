"""Expressions on columns: values, nulls, types, failing rows, and the texts of errors."""

from __future__ import annotations

import math
import operator
import pickle
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.errors import SchemaError
from millstream.evaluate import EvaluationError, evaluate, evaluate_all, evaluate_rows, output_type
from millstream.expr import Expr, coalesce, col, concat_str, from_epoch, lit, max_horizontal, min_horizontal, when

UTC_US = pa.timestamp("us", "UTC")
MAX, MIN = 2**63 - 1, -(2**63)

BEFORE_1970 = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
NOON = datetime(2024, 2, 29, 12, 34, 56, 789, tzinfo=UTC)
MIDNIGHT = datetime(2024, 2, 29, tzinfo=UTC)


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.record_batch({name: v if isinstance(v, pa.Array) else pa.array(v) for name, v in columns.items()})


INTS = pa.array([7, -7, None, 0])
FLOATS = pa.array([1.5, None, -2.5, 0.0])
TEXT = pa.array(["a,b", "Ünï", None, ""])
TIMES = pa.array([NOON, BEFORE_1970, None], UTC_US)
FLAGS = pa.array([True, True, True, False, False, None]), pa.array([True, False, None, False, None, None])
MIXED_ISO = pa.array(["2024-02-29T12:34:56.000789123Z", "2024-02-29 14:34:56.000789+02:00", "2024-02-29", None])

a, b = col("a"), col("b")
VALUES: list[tuple[Expr, dict[str, Any], list[Any]]] = [
    # arithmetic
    (a + 1, {"a": INTS}, [8, -6, None, 1]),
    (1 - a, {"a": INTS}, [-6, 8, None, 1]),
    (a * 0.5, {"a": INTS}, [3.5, -3.5, None, 0.0]),
    (a / 2, {"a": INTS}, [3.5, -3.5, None, 0.0]),
    (1 / a, {"a": [0, 4, None]}, [math.inf, 0.25, None]),
    (a // 2, {"a": INTS}, [3, -4, None, 0]),
    (a % 3, {"a": INTS}, [1, 2, None, 0]),
    (a % -3, {"a": INTS}, [-2, -1, None, 0]),
    (a // 0, {"a": INTS}, [None] * 4),
    (a // b, {"a": [7, 7, None], "b": [0, 2, 0]}, [None, 3, None]),
    (a % b, {"a": [7, -7, 7], "b": [None, 4, 0]}, [None, 1, None]),
    (7 // a, {"a": INTS}, [1, -1, None, None]),
    (a // 1.5, {"a": INTS}, [4.0, -5.0, None, 0.0]),
    (a % -1, {"a": [MIN, 5]}, [0, 0]),
    (-a, {"a": INTS}, [-7, 7, None, 0]),
    (abs(a), {"a": INTS}, [7, 7, None, 0]),
    (round(a), {"a": [0.5, 1.5, -2.5, None]}, [0.0, 2.0, -2.0, None]),
    (a.round(1), {"a": [1.26, -1.24]}, [1.3, -1.2]),
    (a.floor(), {"a": FLOATS}, [1.0, None, -3.0, 0.0]),
    (a + 1, {"a": pa.array([127, None], pa.int8())}, [128, None]),
    (a + 1, {"a": pa.array([2**63], pa.uint64())}, [2**63 + 1]),
    (a + b, {"a": [2**53 + 1], "b": [0.5]}, [float(2**53 + 1)]),
    (a * b, {"a": [Decimal("1.50")], "b": [Decimal("0.1")]}, [Decimal("0.150")]),
    (a + 1, {"a": [Decimal("1.50"), None]}, [Decimal("2.50"), None]),
    (a + None, {"a": INTS}, [None] * 4),
    # comparison
    (a > 0, {"a": INTS}, [True, False, None, False]),
    (a > 300, {"a": pa.array([1, None], pa.int8())}, [False, None]),
    (a > -1, {"a": pa.array([2**63, None], pa.uint64())}, [True, None]),
    (a == b, {"a": pa.array([2**63, 1], pa.uint64()), "b": [-1, 1]}, [False, True]),
    (a >= 1.5, {"a": [Decimal("1.5"), Decimal("1.4"), None]}, [True, False, None]),
    (a == "Ünï", {"a": TEXT}, [False, True, None, False]),
    (a < b, {"a": ["é", "z"], "b": ["z", "é"]}, [False, True]),
    (a != None, {"a": INTS}, [None] * 4),  # noqa: E711  (an expression)
    (a > datetime(2000, 1, 1), {"a": TIMES}, [True, False, None]),
    (a > datetime(2000, 1, 1), {"a": TIMES.cast(pa.timestamp("us"))}, [True, False, None]),
    (a == b, {"a": TIMES, "b": TIMES.cast(pa.timestamp("us", "Europe/Berlin"))}, [True, True, None]),
    (a == date(2024, 2, 29), {"a": pa.array([MIDNIGHT, NOON], UTC_US)}, [True, False]),
    (a.is_between(-7, 0), {"a": INTS}, [False, True, None, True]),
    (a.is_between(-7, 0, closed="none"), {"a": INTS}, [False, False, None, False]),
    (a.is_in([7, 1.5]), {"a": INTS}, [True, False, None, False]),
    (a.is_in([]), {"a": INTS}, [False, False, None, False]),
    (a.is_in([2**63]), {"a": pa.array([2**63, 0], pa.uint64())}, [True, False]),
    (a.is_in([datetime(2024, 2, 29)]), {"a": pa.array([date(2024, 2, 29), date(2024, 3, 1)])}, [True, False]),
    # logic
    (a & b, {"a": FLAGS[0], "b": FLAGS[1]}, [True, False, None, False, False, None]),
    (a | b, {"a": FLAGS[0], "b": FLAGS[1]}, [True, True, True, False, None, None]),
    (a ^ b, {"a": FLAGS[0], "b": FLAGS[1]}, [False, True, None, False, None, None]),
    (~a, {"a": FLAGS[1]}, [False, True, None, True, None, None]),
    (a & None, {"a": [True, False]}, [None, False]),
    # nulls
    (a.is_null(), {"a": INTS}, [False, False, True, False]),
    (a.is_not_null(), {"a": INTS}, [True, True, False, True]),
    (a.is_nan(), {"a": [math.nan, 1.0, None]}, [True, False, None]),
    (a.fill_null(1), {"a": INTS}, [7, -7, 1, 0]),
    (a.fill_null(0.5), {"a": INTS}, [7.0, -7.0, 0.5, 0.0]),
    (a.fill_null("?"), {"a": TEXT}, ["a,b", "Ünï", "?", ""]),
    (coalesce("a", "b", lit(0)), {"a": [1, None, None], "b": [None, 2, None]}, [1, 2, 0]),
    (max_horizontal("a", "b"), {"a": [1, None, None], "b": [3, 2, None]}, [3, 2, None]),
    (min_horizontal("a", lit(NOON)), {"a": TIMES}, [NOON, BEFORE_1970, NOON]),
    # choice
    (when(a > 0).then("+").when(a < 0).then("-").otherwise("0"), {"a": INTS}, ["+", "-", "0", "0"]),
    (when(a > 0).then(a), {"a": INTS}, [7, None, None, None]),
    (when(a > 0).then(1).otherwise(0.5), {"a": INTS}, [1.0, 0.5, 0.5, 0.5]),
    (when(lit(True)).then(a).otherwise(0), {"a": INTS}, [7, -7, None, 0]),
    (when(a == "").then("empty").otherwise(a.str.extract("^(.)")), {"a": TEXT}, ["a", "Ü", None, "empty"]),
    (when(a == "").then(a.str.replace("^", "?")).when(lit(True)).then("!").otherwise(a.str.extract("(b)")),
     {"a": TEXT}, ["!", "!", "!", "?"]),
    (when(lit(False)).then(a.str.extract("(.)")).otherwise("x"), {"a": TEXT}, ["x"] * 4),
    (when(a == "").then(lit("ab").str.extract("(b)")), {"a": TEXT}, [None, None, None, "b"]),
    # casts
    (a.cast("int64"), {"a": ["1", "-2", None]}, [1, -2, None]),
    (a.cast(int), {"a": [1.9, -1.9, None]}, [1, -1, None]),
    (a.cast(float), {"a": [2**53 + 1]}, [float(2**53 + 1)]),
    (a.cast("string"), {"a": INTS}, ["7", "-7", None, "0"]),
    (a.cast("date"), {"a": TIMES}, [date(2024, 2, 29), date(1969, 12, 31), None]),
    (a.cast("datetime"), {"a": MIXED_ISO}, [NOON, NOON, MIDNIGHT, None]),
    (a.cast("decimal(5, 2)"), {"a": ["1.5"]}, [Decimal("1.50")]),
    # strings
    (a.str.to_uppercase(), {"a": TEXT}, ["A,B", "ÜNÏ", None, ""]),
    (a.str.to_lowercase(), {"a": TEXT}, ["a,b", "ünï", None, ""]),
    (a.str.len_chars(), {"a": TEXT}, [3, 3, None, 0]),
    (a.str.len_bytes(), {"a": TEXT}, [3, 5, None, 0]),
    (a.str.contains("^.n"), {"a": TEXT}, [False, True, None, False]),
    (a.str.contains(".", literal=True), {"a": ["a.b", "ab"]}, [True, False]),
    (a.str.starts_with("Ü"), {"a": TEXT}, [False, True, None, False]),
    (a.str.ends_with("b"), {"a": TEXT}, [True, False, None, False]),
    (a.str.slice(1), {"a": TEXT}, [",b", "nï", None, ""]),
    (a.str.slice(-2, 1), {"a": TEXT}, [",", "n", None, ""]),
    (a.str.slice(-2, 5), {"a": TEXT}, [",b", "nï", None, ""]),
    (a.str.split(","), {"a": TEXT}, [["a", "b"], ["Ünï"], None, [""]]),
    (a.str.strip_chars(), {"a": [" x\t", "\u2003y", None]}, ["x", "y", None]),
    (a.str.strip_chars("x"), {"a": ["xaxbx"]}, ["axb"]),
    (a.str.replace("(.)b", r"<\1>"), {"a": ["abcb", None]}, ["<a>cb", None]),
    (a.str.replace_all("b", "", literal=True), {"a": ["abcb"]}, ["ac"]),
    (a.str.count_matches("[ab]"), {"a": TEXT}, [2, 0, None, 0]),
    (a.str.extract(r"(\w),(\w)", 2), {"a": TEXT}, ["b", None, None, None]),
    (a.str.extract(r"[(](?:x)(?P<n>\d)\)"), {"a": ["f(x1)", "f(y1)"]}, ["1", None]),
    (a.str.extract(r"(?P<n>\d)(\d)", "n"), {"a": ["12"]}, ["1"]),
    (a.str.extract(r"\d+", 0), {"a": ["ab12c"]}, ["12"]),
    (a + "!", {"a": TEXT}, ["a,b!", "Ünï!", None, "!"]),
    ("<" + a, {"a": TEXT}, ["<a,b", "<Ünï", None, "<"]),
    (concat_str(["a", "b"], "-"), {"a": ["x", None], "b": [1, 2]}, ["x-1", None]),
    (a.str.to_datetime(), {"a": MIXED_ISO}, [NOON, NOON, MIDNIGHT, None]),
    (a.str.to_datetime("%d.%m.%Y"), {"a": ["29.02.2024", None]}, [MIDNIGHT, None]),
    # times
    (a.dt.truncate("1d"), {"a": TIMES}, [MIDNIGHT, datetime(1969, 12, 31, tzinfo=UTC), None]),
    (a.dt.truncate("1h"), {"a": TIMES}, [NOON.replace(minute=0, second=0, microsecond=0),
                                         datetime(1969, 12, 31, 23, tzinfo=UTC), None]),
    (a.dt.truncate("1h"), {"a": pa.array([date(2024, 2, 29)])}, [MIDNIGHT]),
    (a.dt.truncate("250us"), {"a": pa.array([NOON], pa.timestamp("ns", "UTC"))}, [NOON.replace(microsecond=750)]),
    (a.dt.year(), {"a": TIMES}, [2024, 1969, None]),
    (a.dt.month(), {"a": TIMES}, [2, 12, None]),
    (a.dt.day(), {"a": TIMES}, [29, 31, None]),
    (a.dt.hour(), {"a": TIMES}, [12, 23, None]),
    (a.dt.hour(), {"a": TIMES.cast(pa.timestamp("us", "Europe/Berlin"))}, [13, 0, None]),
    (a.dt.minute(), {"a": TIMES}, [34, 59, None]),
    (a.dt.second(), {"a": TIMES}, [56, 59, None]),
    (a.dt.microsecond(), {"a": TIMES}, [789, 999_999, None]),
    (a.dt.weekday(), {"a": TIMES}, [4, 3, None]),
    (a.dt.date(), {"a": TIMES}, [date(2024, 2, 29), date(1969, 12, 31), None]),
    (a.dt.epoch(), {"a": TIMES}, [1_709_210_096_000_789, -1, None]),
    (a.dt.epoch("s"), {"a": TIMES}, [1_709_210_096, -1, None]),
    (a.dt.epoch("us"), {"a": pa.array([-2], pa.timestamp("s"))}, [-2_000_000]),
    (a.dt.strftime("%H:%M:%S"), {"a": TIMES}, ["12:34:56", "23:59:59", None]),
    (a.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), {"a": TIMES},
     ["2024-02-29T12:34:56.000789Z", "1969-12-31T23:59:59.999999Z", None]),
    (a.dt.strftime("%d/%m/%y"), {"a": pa.array([date(1969, 12, 31)])}, ["31/12/69"]),
    (a - datetime(1970, 1, 1), {"a": TIMES}, [NOON - datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=-1), None]),
    (a + timedelta(microseconds=1), {"a": TIMES}, [NOON + timedelta(microseconds=1), datetime(1970, 1, 1, tzinfo=UTC), None]),
    (a - timedelta(days=1), {"a": pa.array([date(2024, 3, 1)])}, [MIDNIGHT]),
    (a * 2, {"a": [timedelta(hours=1), None]}, [timedelta(hours=2), None]),
    (a / timedelta(minutes=30), {"a": [timedelta(hours=1), None]}, [2.0, None]),
    (a.dt.total_seconds(), {"a": [timedelta(milliseconds=-1500), None]}, [-1, None]),
    (a.dt.total_milliseconds(), {"a": [timedelta(milliseconds=-1500)]}, [-1500]),
    (a.dt.total_microseconds(), {"a": pa.array([2], pa.duration("s"))}, [2_000_000]),
    (from_epoch("a", "us"), {"a": [-1, None]}, [BEFORE_1970, None]),
    (from_epoch("a"), {"a": [1_709_164_800.25]}, [MIDNIGHT + timedelta(milliseconds=250)]),
    # structs, lists, literals
    (a.struct.field("city"), {"a": [{"city": "x"}, None, {"city": None}]}, ["x", None, None]),
    (a.list.len(), {"a": [[1, 2], [], None]}, [2, 0, None]),
    (a.list.get(0), {"a": [[1, 2], [], None]}, [1, None, None]),
    (a.list.get(-1), {"a": [["x", "y"], [], None, [None]]}, ["y", None, None, None]),
    (a.list.get(2), {"a": [[1, 2], [], None]}, [None, None, None]),
    (a.list.get(1), {"a": pa.array([[1, 2], None], pa.list_(pa.int64(), 2))}, [2, None]),
    (lit("x"), {"a": INTS}, ["x"] * 4),
    (lit(None), {"a": INTS}, [None] * 4),
    (lit(2) + 3, {"a": INTS}, [5] * 4),
]  # fmt: skip
IDS = [str(expr) for expr, _, _ in VALUES]


@pytest.mark.parametrize(("expr", "columns", "expected"), VALUES, ids=IDS)
def test_value(expr: Expr, columns: dict[str, Any], expected: list[Any]) -> None:
    rows = batch(**columns)
    result = evaluate(expr, rows)
    assert result.to_pylist() == expected
    assert result.type == output_type(expr, rows.schema, "select")
    result.validate(full=True)


@pytest.mark.parametrize(("expr", "columns", "expected"), VALUES, ids=IDS)
def test_value_does_not_depend_on_where_a_batch_is_cut(
    expr: Expr, columns: dict[str, Any], expected: list[Any]
) -> None:
    rows = batch(**columns)
    dtype = output_type(expr, rows.schema, "select")
    for start in range(rows.num_rows + 1):
        part = evaluate(pickle.loads(pickle.dumps(expr)), rows.slice(start))
        assert part.to_pylist() == expected[start:]
        assert part.type == dtype


@pytest.mark.parametrize("encode", [pa.Array.dictionary_encode, lambda v: v.cast(pa.large_string()),
                                    lambda v: v.cast(pa.string_view())])  # fmt: skip
def test_every_encoding_of_strings_gives_the_same_values(encode: Callable[[pa.Array[Any]], pa.Array[Any]]) -> None:
    plain, encoded = batch(a=TEXT), batch(a=encode(TEXT))
    for expr in (a.str.to_uppercase(), a == "Ünï", a + "!", a.is_in(["", "x"]), a.fill_null("?"), a.is_null(),
                 coalesce("a", lit("?")), when(a == "").then(a), a.str.split(","), a.cast("binary")):  # fmt: skip
        assert evaluate(expr, encoded).to_pylist() == evaluate(expr, plain).to_pylist(), str(expr)


def test_field_alone_is_passed_on_as_it_is() -> None:
    column = TEXT.dictionary_encode()
    assert evaluate(col("a").alias("b"), batch(a=column)).type == column.type


def test_column_of_nothing_but_nulls_takes_any_operation() -> None:
    rows = batch(a=pa.nulls(2))
    for expr in (a + 1, a > "x", a & True, a.str.to_uppercase(), a.dt.hour(), a.dt.total_seconds(), -a, a / a, a + a):
        assert evaluate(expr, rows).to_pylist() == [None, None], str(expr)


def test_shared_part_is_computed_once() -> None:
    parts = col("a").str.split(",")
    left, right = evaluate_all([parts.list.get(0), parts.list.get(1)], batch(a=["x,y", None]))
    assert (left.to_pylist(), right.to_pylist()) == (["x", None], ["y", None])


FIELDS: list[tuple[str, pa.DataType]] = [
    ("price", pa.float64()), ("n", pa.int64()), ("s", pa.string()), ("t", UTC_US), ("l", pa.list_(pa.int64())),
    ("d", pa.duration("us")), ("r", pa.struct([("city", pa.string())])), ("m", pa.decimal128(38, 2)),
]  # fmt: skip
SCHEMA = pa.schema(FIELDS)


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        (col("price") > "5", 'filter: col("price") > "5": cannot compare double with string; use .cast(...)'),
        (col("prize") > 5, "filter: no field 'prize'; did you mean 'price'?"),
        (
            col("t") > "2020",
            'filter: col("t") > "2020": cannot compare timestamp[us, tz=UTC] with string; use .str.to_datetime()',
        ),
        (col("t") > 5, "use from_epoch(...) or .dt.epoch()"),
        (
            col("n") & (col("price") > 2),
            "expected bool, found int64; put comparisons in parentheses, (a > 1) & (b < 2)",
        ),
        (~col("n"), "expected bool, found int64"),
        (col("s") * 2, "cannot multiply string and int64"),
        (col("s") + 2, "cannot add string and int64"),
        (col("t") + col("t"), "cannot add timestamp[us, tz=UTC] and timestamp[us, tz=UTC]"),
        (col("m") % 2, "with a remainder"),
        (col("s").dt.hour(), "expected a time, found string; use .str.to_datetime()"),
        (col("n").dt.hour(), "expected a time, found int64; use from_epoch(...)"),
        (col("t").dt.total_seconds(), "expected a duration"),
        (col("d").dt.year(), "expected a time, found duration[us]"),
        (col("n").str.len_chars(), 'expected string, found int64; use .cast("string")'),
        (col("s").list.len(), "expected a list, found string; .str.split(...)"),
        (col("s").struct.field("x"), "expected a struct, found string"),
        (col("r").struct.field("citty"), "no field 'citty'; did you mean 'city'?"),
        (col("r").cast("int64"), "cannot cast struct<city: string> to int64"),
        (col("l") == col("l"), "cannot compare values of type list<item: int64>"),
        (col("n").is_in(["a"]), "cannot compare int64 with string"),
        (coalesce("n", "s"), "int64 and string have no type in common"),
        (when(col("n")).then(1), "expected bool, found int64"),
        (when(col("n")).then(col("s").str.extract("(a)")), "expected bool, found int64"),
        (when(col("n") > 1).then(1).otherwise("a"), "int64 and string have no type in common"),
        (max_horizontal("l"), "have no order"),
        (col("s").str.extract("(a)", 2), "the pattern has no group 2; there are 1"),
        (lit("x").cast("int64") + 1, 'filter: lit("x").cast("int64"): Failed to parse string: \'x\''),
        (lit(2**62) * 4, "integer overflow"),
    ],
    ids=str,
)
def test_wrong_types_are_told_with_place_expression_and_remedy(expr: Expr, message: str) -> None:
    with pytest.raises(SchemaError) as caught:
        output_type(expr, SCHEMA, "filter")
    assert str(caught.value).startswith("filter: ")
    assert message in str(caught.value)


def test_every_operation_on_every_type_gives_a_type_or_a_schema_error() -> None:
    # ruff: noqa: PLR0124 - a field compared with itself is an expression like any other
    operations: list[Callable[[Expr], Expr]] = [
        lambda x: x + 1, lambda x: x - datetime(2020, 1, 1), lambda x: x * 1.5, lambda x: x / x, lambda x: x // x,
        lambda x: x % 2, lambda x: -x, abs, round, lambda x: x == x, lambda x: x < "a", lambda x: x & x, lambda x: ~x,
        lambda x: x.is_null(), lambda x: x.is_nan(), lambda x: x.fill_null(0), lambda x: x.is_in([1, 2]),
        lambda x: x.is_in(["a"]), lambda x: x.is_between(0, 1), lambda x: x.cast("int64"), lambda x: x.cast("datetime"),
        lambda x: x.cast("string"), lambda x: x.cast("bool"), lambda x: x.str.split(","), lambda x: x.str.to_datetime(),
        lambda x: x.dt.truncate("1h"), lambda x: x.dt.hour(), lambda x: x.dt.strftime("%Y"), lambda x: x.dt.total_seconds(),
        lambda x: x.list.get(0), lambda x: x.struct.field("a"), lambda x: concat_str([x, lit("a")]), lambda x: coalesce(x, x),
        lambda x: max_horizontal(x, lit(1)), lambda x: from_epoch(x), lambda x: when(x == x).then(x).otherwise(None),
        lambda x: when(x.is_null()).then(x), lambda x: x + timedelta(1), lambda x: x * x, lambda x: x - x,
        lambda x: max_horizontal(x, x), lambda x: x.dt.microsecond(), lambda x: x.dt.weekday(), lambda x: x.dt.epoch("s"),
    ]  # fmt: skip
    types: list[Any] = [
        pa.null(), pa.bool_(), pa.int8(), pa.int32(), pa.uint64(), pa.float16(), pa.float32(), pa.decimal128(10, 2),
        pa.decimal256(50, 2), pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view(), pa.date32(),
        pa.date64(), pa.time32("s"), pa.time64("ns"), pa.timestamp("s"), pa.timestamp("ns", "Europe/Berlin"),
        pa.duration("ms"), pa.list_(pa.int8()), pa.large_list(pa.string()), pa.list_(pa.int64(), 2), pa.map_(pa.string(), pa.int64()),
        pa.struct([("a", pa.int64())]), pa.struct([]), pa.dictionary(pa.int8(), pa.string()), pa.uuid(),
        pa.month_day_nano_interval(), pa.run_end_encoded(pa.int32(), pa.int64()), pa.list_view(pa.int64()), pa.binary(3),
    ]  # fmt: skip
    for dtype in types:
        schema = pa.schema({"x": dtype})
        nulls = pa.RecordBatch.from_arrays([pa.nulls(2, dtype)], schema=schema)
        for operation in operations:
            expr = operation(col("x"))
            try:
                expected = output_type(expr, schema, "select")
            except SchemaError:
                continue
            assert evaluate(expr, nulls).type == expected, f"{expr} on {dtype}"


def test_duplicate_field_is_told_as_such() -> None:
    schema = pa.schema([("a", pa.int64()), ("a", pa.int64())])
    with pytest.raises(SchemaError, match="more than once"):
        output_type(a + 1, schema, "filter")


@pytest.mark.parametrize(
    ("expr", "values"),
    [(a + 1, [1, MAX]), (a * 2, [1, MIN]), (-a, [0, MIN]), (abs(a), [0, MIN]), (a // -1, [0, MIN]), (a // b, [0, MIN]),
     (a - 1, [0, MIN]), (a.cast("int8"), [1, 128])],
    ids=str,
)  # fmt: skip
def test_integer_overflow_is_an_error_that_names_the_expression(expr: Expr, values: list[int]) -> None:
    with pytest.raises(EvaluationError) as caught:
        evaluate(expr, batch(a=values, b=[-1, -1]))
    assert str(caught.value).startswith(str(expr))
    array, failed = evaluate_rows(expr, batch(a=values, b=[-1, -1]))
    assert [row for row, _ in failed] == [1]
    assert array[0].is_valid and not array[1].is_valid


def test_failing_rows_are_null_and_reported_and_the_others_keep_their_values() -> None:
    values = [str(n) if n % 7 else f"bad {n}" for n in range(50)]
    array, failed = evaluate_rows(a.cast("int64") + 1, batch(a=values, unused=[{"x": 1}] * 50))
    assert array.to_pylist() == [n + 1 if n % 7 else None for n in range(50)]
    assert [row for row, _ in failed] == list(range(0, 50, 7))
    assert failed[1][1] == 'col("a").cast("int64"): Failed to parse string: \'bad 7\' as a scalar of type int64'


def test_batch_that_fails_in_every_row_keeps_its_type() -> None:
    array, failed = evaluate_rows(a.str.to_datetime(), batch(a=["x"]))
    assert (array.type, array.to_pylist(), len(failed)) == (UTC_US, [None], 1)


def test_wrong_types_and_missing_fields_are_not_blamed_on_rows() -> None:
    for expr in (a + 1, a.cast("int64") + col("missing")):
        with pytest.raises(SchemaError) as caught:
            evaluate_rows(expr, batch(a=["x"]))
        assert not isinstance(caught.value, EvaluationError)


def test_choice_does_not_fail_for_rows_that_do_not_take_the_value() -> None:
    expr = when(a.str.contains(r"^\d+$")).then(a.cast("int64")).when(a == "none").then(None).otherwise(-1)
    assert evaluate(expr, batch(a=["12", "none", "x", None, "3"])).to_pylist() == [12, None, -1, -1, 3]


def test_evaluation_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(EvaluationError("a", "b")))
    assert (str(error), error.expression, error.reason) == ("a: b", "a", "b")


INTEGERS = st.one_of(st.none(), st.integers(-50, 50), st.integers(MIN, MAX))
REALS = st.one_of(st.none(), st.integers(-9, 9).map(float), st.floats(-1e12, 1e12))
PAIRS = st.lists(st.tuples(INTEGERS, INTEGERS), max_size=20)
REAL_PAIRS = st.lists(st.tuples(REALS, REALS), max_size=20)


def columns_of(pairs: list[tuple[Any, Any]], dtype: pa.DataType) -> pa.RecordBatch:
    return batch(a=pa.array([x for x, _ in pairs], dtype), b=pa.array([y for _, y in pairs], dtype))


def python(operation: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    """What Python computes, with Millstream's rules for null and for a divisor of zero."""
    divides = operation in (operator.floordiv, operator.mod)
    return None if x is None or y is None or (divides and not y) else operation(x, y)


ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod}
COMPARISON = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(sorted(ARITHMETIC)))
def test_integer_arithmetic_is_pythons_and_overflow_is_reported_per_row(
    pairs: list[tuple[Any, Any]], name: str
) -> None:
    operation = ARITHMETIC[name]
    exact = [python(operation, x, y) for x, y in pairs]
    overflows = [n for n, value in enumerate(exact) if value is not None and not MIN <= value <= MAX]
    values, failed = evaluate_rows(operation(a, b), columns_of(pairs, pa.int64()))
    assert [row for row, _ in failed] == overflows
    assert values.to_pylist() == [None if n in overflows else value for n, value in enumerate(exact)]
    for x, y in pairs[:3]:  # a literal on one side takes other paths
        expected = python(operation, x, y)
        if y is not None and (expected is None or MIN <= expected <= MAX):
            assert evaluate(operation(a, y), columns_of([(x, y)], pa.int64())).to_pylist() == [expected]
        if x is not None and (expected is None or MIN <= expected <= MAX):
            assert evaluate(operation(lit(x), b), columns_of([(x, y)], pa.int64())).to_pylist() == [expected]


@settings(max_examples=60, deadline=None)
@given(REAL_PAIRS, st.sampled_from(sorted(ARITHMETIC)))
def test_float_arithmetic_is_pythons(pairs: list[tuple[Any, Any]], name: str) -> None:
    operation = ARITHMETIC[name]
    expected = [python(operation, x, y) for x, y in pairs]
    assert evaluate(operation(a, b), columns_of(pairs, pa.float64())).to_pylist() == expected
    for x, y in pairs[:3]:
        if y is not None:
            assert evaluate(operation(a, y), columns_of([(x, y)], pa.float64())).to_pylist() == [
                python(operation, x, y)
            ]


@settings(max_examples=60, deadline=None)
@given(st.one_of(PAIRS, REAL_PAIRS), st.sampled_from(COMPARISON))
def test_comparison_is_pythons(pairs: list[tuple[Any, Any]], operation: Callable[[Any, Any], Any]) -> None:
    dtype = pa.float64() if any(isinstance(v, float) for pair in pairs for v in pair) else pa.int64()
    expected = [python(operation, x, y) for x, y in pairs]
    assert evaluate(operation(a, b), columns_of(pairs, dtype)).to_pylist() == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([True, False, None])] * 2), min_size=1, max_size=20))
def test_logic_is_kleenes(pairs: list[tuple[Any, Any]]) -> None:
    rows = columns_of(pairs, pa.bool_())
    both = [False if False in pair else None if None in pair else True for pair in pairs]
    either = [True if True in pair else None if None in pair else False for pair in pairs]
    assert evaluate(a & b, rows).to_pylist() == both
    assert evaluate(a | b, rows).to_pylist() == either
    assert evaluate(~(~a | ~b), rows).to_pylist() == both


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-(2**55), 2**55)), max_size=20), st.integers(1, 10**7))
def test_truncate_finds_the_multiple_at_or_before_the_time(times: list[int | None], every_us: int) -> None:
    result = evaluate(a.dt.truncate(timedelta(microseconds=every_us)).dt.epoch(), batch(a=pa.array(times, UTC_US)))
    assert result.to_pylist() == [None if t is None else t - t % every_us for t in times]
