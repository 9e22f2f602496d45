"""Which keys a question means: text and plain values as the key fields of an operator."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millstream.control import RunningFlow
from millstream.errors import CommandError, QueryError
from millstream.queries import MOST_BYTES, Question, answer_of, as_text


def asked(*keys: Any) -> Question:
    return Question("agg", keys, None, 100)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("7", pa.int8(), 7), ("-7", pa.int64(), -7), ("7", pa.uint64(), 7), ("1.5", pa.float64(), 1.5),
        ("true", pa.bool_(), True), ("a, b", pa.string(), "a, b"), ("a", pa.large_string(), "a"), ("a", pa.binary(), b"a"),
        ("2026-01-31", pa.date32(), date(2026, 1, 31)), ("1.50", pa.decimal128(9, 2), Decimal("1.50")),
        ("2026-01-31T12:00", pa.timestamp("us", "UTC"), datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T13:00+01:00", pa.timestamp("ms"), datetime(2026, 1, 31, 12)),
    ],
)  # fmt: skip
def test_text_is_taken_for_a_key_of_any_type(text: str, kind: pa.DataType, value: Any) -> None:
    assert asked(text).of(pa.schema([("k", kind)])).to_pylist() == [{"k": value}]


def test_several_key_fields_are_divided_by_commas_or_a_json_list() -> None:
    schema = pa.schema([("carrier", pa.string()), ("flight", pa.int64())])
    keys = asked("AA, 3", '["A,A", 4]', ["BB", 5], "[null, null]")
    assert keys.of(schema).to_pylist() == [
        {"carrier": "AA", "flight": 3}, {"carrier": "A,A", "flight": 4}, {"carrier": "BB", "flight": 5},
        {"carrier": None, "flight": None},
    ]  # fmt: skip


def test_a_text_that_only_looks_like_a_list_is_a_key() -> None:
    assert asked("[draft] a, b").of(pa.schema([("k", pa.string())])).to_pylist() == [{"k": "[draft] a, b"}]


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("AA", r"agg: a key is 2 fields: 'carrier' \(string\), 'flight' \(int64\), and 'AA' is 1 value;"),
        ("AA,x", "agg: the key field 'flight' is int64, and 'x' is not"),
        (["AA", 1.5], "agg: the key field 'flight' is int64, and 1.5 is not"),
        (["AA", 2**70], "the key field 'flight' is int64"),
    ],
)
def test_a_key_that_does_not_fit_is_told_with_what_the_key_is(key: Any, told: str) -> None:
    schema = pa.schema([("carrier", pa.string()), ("flight", pa.int64())])
    with pytest.raises(QueryError, match=told):
        asked(key).of(schema)


def test_null_and_nan_are_keys_like_others() -> None:
    keys = pa.record_batch({"k": pa.array([1.0, None, math.nan, 0.0])})
    assert asked([None]).among(keys).tolist() == [False, True, False, False]
    assert asked("nan").among(keys).tolist() == [False, False, True, False]
    assert asked("-0.0", "1").among(keys).tolist() == [True, False, False, True]
    assert asked("1").among(pa.record_batch({"k": pa.nulls(2)}).cast(pa.schema([("k", pa.float64())]))).tolist() == [
        False,
        False,
    ]


def test_an_answer_has_no_more_rows_than_asked_for_and_says_so() -> None:
    batches = [pa.record_batch({"n": list(range(4))}), pa.record_batch({"n": [4]})]
    assert answer_of(batches, 5)[0].num_rows == 5 and not answer_of(batches, 5)[1]
    rows, more = answer_of(batches, 4)
    assert rows.num_rows == 4 and more
    assert answer_of([batches[0].slice(0, 0)], 4) == (None, False)


def test_an_answer_stays_small_and_a_row_that_cannot_is_told() -> None:
    large = pa.record_batch({"x": ["a" * (MOST_BYTES // 4)] * 8})
    rows, more = answer_of([large], 100)
    assert rows.nbytes <= MOST_BYTES and more
    with pytest.raises(QueryError, match="a row has"):
        answer_of([pa.record_batch({"x": ["a" * (MOST_BYTES + 1)]})], 100)


def test_python_state_is_told_as_json_and_what_has_no_such_form_as_it_is_shown() -> None:
    assert as_text([{"n": 1, "who": "ä"}, {1, 2}, (1, "a")]).to_pylist() == [
        '{"n": 1, "who": "ä"}',
        '"{1, 2}"',
        '[1, "a"]',
    ]


@pytest.mark.parametrize("text", ["nonsense", "", "2026-13-01", "12:00"])
def test_a_moment_that_is_none_is_told_as_a_question_that_cannot_be_asked(text: str, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=f"{text!r} is not a moment; write it as in '2026-01-31T12:00'"):
        RunningFlow(tmp_path).query("agg", at=text)
    assert issubclass(QueryError, CommandError), "whoever handles what a run refuses handles this"
