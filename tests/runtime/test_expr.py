"""The expression language as data: text, names, fields, what is refused while an expression is built."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from millstream.errors import FlowError, MillstreamError, SchemaError
from millstream.evaluate import evaluate
from millstream.expr import (
    Call,
    Expr,
    Literal,
    coalesce,
    col,
    concat_str,
    data_type,
    field_expr,
    from_epoch,
    lit,
    max_horizontal,
    to_expr,
    when,
)
from millstream.kernels import KERNELS

TEXTS = [
    (col("price") * 0.9, 'col("price") * 0.9'),
    ((col("a") + 1) * 2 - (3 - col("b")), '(col("a") + 1) * 2 - (3 - col("b"))'),
    ((col("a") > 1) & ~(col("b") == "x"), '(col("a") > 1) & ~(col("b") == "x")'),
    ((col("a") == 1) == (col("b") == 2), '(col("a") == 1) == (col("b") == 2)'),
    (-(col("a") + 1), '-(col("a") + 1)'),
    (5 - col("a"), '5 - col("a")'),
    (lit(-1).abs(), "abs(lit(-1))"),
    (lit("a").str.len_chars(), 'lit("a").str.len_chars()'),
    (col("s").str.contains("a", literal=True), 'col("s").str.contains("a", literal=True)'),
    (col("s").str.slice(1, 2), 'col("s").str.slice(1, 2)'),
    (col("a").cast("int64").alias("b"), 'col("a").cast("int64").alias("b")'),
    (col("a").is_in([1, 2, 3, 4, 5, 6]), 'col("a").is_in([1, 2, 3, 4, 5, ...])'),
    (concat_str(["a", lit("-")], ","), 'concat_str([col("a"), lit("-")], separator=",")'),
    (when(col("a") > 0).then("x").otherwise(None), 'when(col("a") > 0).then("x").otherwise(None)'),
    (col("t") > datetime(2020, 1, 1), 'col("t") > datetime(2020, 1, 1, 0, 0)'),
    (col('quo"te').dt.truncate("1h"), 'col("quo\\"te").dt.truncate("1h")'),
]


@pytest.mark.parametrize(("expr", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_text_reads_like_the_source_that_made_it(expr: Expr, text: str) -> None:
    assert str(expr) == text


@pytest.mark.parametrize("expr", [expr for expr, _ in TEXTS], ids=[text for _, text in TEXTS])
def test_pickle_keeps_text_fields_and_nodes(expr: Expr) -> None:
    again = pickle.loads(pickle.dumps(expr))
    assert type(again) is type(expr)
    assert str(again) == str(expr)
    assert again.fields() == expr.fields()


def test_pickled_expression_computes_the_same() -> None:
    batch = pa.record_batch({"a": [1, None, 3], "s": ["x", "y", None]})
    expr = when(col("a").is_in([1, 2])).then(col("s") + "!").otherwise(concat_str(["a"], "-"))
    assert evaluate(pickle.loads(pickle.dumps(expr)), batch).equals(evaluate(expr, batch))


def test_fields_are_the_root_columns() -> None:
    expr = when(col("a") > 0).then(col("b").str.len_chars()).otherwise(lit(1)).alias("c")
    assert expr.fields() == {"a", "b"}
    assert lit(1).fields() == frozenset()


def test_name_is_the_alias_or_the_leftmost_root_column() -> None:
    assert (1 + col("a") * col("b")).name() == "a"
    assert (col("a") + 1).alias("c").name() == "c"
    assert coalesce("x", "y").name() == "x"


def test_name_of_a_choice_comes_from_its_values_not_from_its_conditions() -> None:
    assert when(col("a") > 0).then(col("b")).otherwise(0).name() == "b"
    with pytest.raises(FlowError, match=r"name it with \.alias"):
        when(col("a") > 0).then("x").otherwise("y").name()


def test_name_without_a_field_asks_for_an_alias() -> None:
    with pytest.raises(FlowError, match=r"1 \+ 2: no field to take a name from; name it with \.alias"):
        (lit(1) + 2).name()


def test_strings_are_literals_in_operators_and_fields_in_functions() -> None:
    assert isinstance(to_expr("a"), Literal)
    assert field_expr("a").fields() == {"a"}
    assert max_horizontal("a", lit("a")).fields() == {"a"}
    assert (col("a") == "b").fields() == {"a"}


@pytest.mark.parametrize(
    "use", [lambda: bool(col("a") > 1), lambda: 1 < col("a") < 3, lambda: col("a") and col("b"), lambda: not col("a")]
)
def test_truth_of_an_expression_is_refused(use: object) -> None:
    with pytest.raises(FlowError, match=r"use & \| ~ instead of and, or, not"):
        use()  # type: ignore[operator]


def test_numpy_scalars_on_the_left_build_an_expression() -> None:
    assert str(np.int64(2) * col("a")) == '2 * col("a")'
    assert str(np.float64(0.5) < col("a")) == 'col("a") > 0.5'


def test_expressions_are_hashable_by_identity() -> None:
    a, b = col("a"), col("a")
    assert len({a, b, a}) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lit(object()), "not a value that a column can hold"),
        (lambda: lit(2**64), "not a value that a column can hold"),
        (lambda: lit([1, "a"]), "not a value that a column can hold"),
        (lambda: col("a") + object(), "not a value that a column can hold"),
        (lambda: col(1), "a field name is a string"),  # type: ignore[arg-type]
        (lambda: col("a").str.contains("("), "missing \\).*use literal=True"),
        (lambda: col("a").str.replace("(a)", r"\2"), "use literal=True"),
        (lambda: col("a").str.extract("["), "missing \\]"),
        (lambda: col("a").str.split(""), "the separator is empty"),
        (lambda: col("a").str.slice(0, -1), "length is -1, expected 0 or more"),
        (lambda: col("a").dt.truncate("1 fortnight"), "is not a duration"),
        (lambda: col("a").dt.truncate(timedelta(0)), "is not a positive duration"),
        (lambda: col("a").dt.epoch("ns"), "use 's', 'ms' or 'us'"),  # type: ignore[arg-type]
        (lambda: col("a").dt.strftime("%f"), "only understood in '%S.%f'"),
        (lambda: col("a").cast("int63"), "'int63' is not a type; use one of 'int64'"),
        (lambda: col("a").cast(object), "is not a type"),
        (lambda: col("a").is_in([1, None]), "None equals nothing"),
        (lambda: col("a").is_in("abc"), "takes a list of values"),
        (lambda: col("a").is_between(1, 2, closed="open"), "use 'both'"),  # type: ignore[arg-type]
        (lambda: coalesce(), "at least one"),
        (lambda: when(col("a")).then(1).otherwise(2).otherwise(3), "otherwise"),  # type: ignore[attr-defined]
    ],
)
def test_what_needs_no_data_is_refused_when_built(build: object, message: str) -> None:
    with pytest.raises(MillstreamError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1, pa.int64()),
        (2**63, pa.uint64()),
        (1.5, pa.float64()),
        (True, pa.bool_()),
        ("a", pa.string()),
        (None, pa.null()),
        (datetime(2020, 1, 1), pa.timestamp("us", "UTC")),
        (timedelta(seconds=1), pa.duration("us")),
        (Decimal("1.50"), pa.decimal128(3, 2)),
        (np.float32(1), pa.float64()),
        (np.datetime64("2020-01-01T00:00:00"), pa.timestamp("us", "UTC")),
        ([datetime(2020, 1, 1)], pa.list_(pa.timestamp("us", "UTC"))),
    ],
)
def test_literals_have_the_type_that_computation_has(value: object, dtype: pa.DataType) -> None:
    expr = lit(value)
    assert isinstance(expr, Literal)
    assert expr.scalar.type == dtype


def test_literal_times_are_utc_whatever_their_zone() -> None:
    naive, aware = lit(datetime(2020, 1, 1, 12)), lit(datetime(2020, 1, 1, 12, tzinfo=UTC))
    assert isinstance(naive, Literal) and isinstance(aware, Literal)
    assert naive.scalar.equals(aware.scalar)


def test_types_have_the_names_that_users_use() -> None:
    assert data_type("datetime") == data_type(datetime) == pa.timestamp("us", "UTC")
    assert data_type("timestamp[ms, tz=Europe/Berlin]") == pa.timestamp("ms", "Europe/Berlin")
    assert data_type("decimal(10, 2)") == pa.decimal128(10, 2)
    assert data_type("Float") == data_type(float) == pa.float64()


def test_every_method_has_a_kernel() -> None:
    x = col("a")
    made = [getattr(x.dt, name)() for name in vars(type(x.dt)) if name.startswith(("total", "year", "week", "date"))]
    made += [x.str.to_uppercase(), x.str.strip_chars(), x.list.len(), x.struct.field("b"), from_epoch(x), abs(x)]
    assert all(isinstance(call, Call) and call.operation in KERNELS for call in made)


def test_errors_of_types_are_schema_errors() -> None:
    with pytest.raises(SchemaError):
        col("a").cast("nothing")
