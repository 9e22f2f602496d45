"""Bytes found in whole columns of text: the same answers as looking at one row after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.evaluate import evaluate
from millstream.expr import col
from millstream.kernels.scan import Parts, count_byte

TEXTS = st.lists(st.none() | st.text("a/é\U0001f600", max_size=90), max_size=40)
KINDS = [pa.string(), pa.large_string()]


def column_of(texts: Sequence[str | None], kind: pa.DataType, cut: int) -> pa.Array[Any]:
    """The texts as a column whose memory begins and ends with other rows."""
    whole = pa.array(["/x/", *texts, "//"], kind)
    assert whole.slice(1, len(texts)).to_pylist() == list(texts)
    return whole.slice(1, len(texts)) if cut else pa.array(texts, kind)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=TEXTS, cut=st.integers(0, 1))
def test_a_byte_is_counted_as_in_python(texts: list[str | None], cut: int, kind: pa.DataType) -> None:
    found = count_byte(column_of(texts, kind, cut), "/")
    assert found.to_pylist() == [None if text is None else text.count("/") for text in texts]
    assert found.type == pa.int64()


@pytest.mark.parametrize("kind", KINDS)
@given(texts=TEXTS, cut=st.integers(0, 1), index=st.integers(-4, 4))
def test_a_part_is_the_one_that_splitting_gives(
    texts: list[str | None], cut: int, index: int, kind: pa.DataType
) -> None:
    def part(text: str | None) -> str | None:
        parts = [] if text is None else text.split("/")
        return parts[index] if -len(parts) <= index < len(parts) else None

    found = Parts(column_of(texts, kind, cut), "/").get(index)
    assert found.to_pylist() == [part(text) for text in texts]
    assert found.type == kind


@given(rows=st.integers(1, 9), parts=st.lists(st.text("aé", max_size=9), min_size=1, max_size=5), cut=st.integers(0, 1))
def test_rows_of_one_form_give_the_same_parts(rows: int, parts: list[str], cut: int) -> None:
    column = column_of(["/".join(parts)] * rows, pa.string(), cut)
    for index in range(-6, 6):
        part = parts[index] if -len(parts) <= index < len(parts) else None
        assert Parts(column, "/").get(index).to_pylist() == [part] * rows


@given(texts=TEXTS, by=st.sampled_from(["/", "//", "é"]), index=st.integers(-2, 2))
def test_the_shape_of_an_expression_does_not_change_its_parts(texts: list[str | None], by: str, index: int) -> None:
    rows = pa.record_batch({"text": pa.array(texts, pa.string())})
    parts = col("text").str.split(by)
    lists = pa.record_batch({"parts": evaluate(parts, rows)})
    assert evaluate(parts.list.get(index), rows).equals(evaluate(col("parts").list.get(index), lists))
