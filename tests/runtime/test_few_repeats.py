"""Texts of which few are there twice get the numbers that a dictionary gives them, whatever their hashes are."""

from __future__ import annotations

from random import Random

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import few_repeats
from millstream.batch import Array
from millstream.few_repeats import number_few_repeats, numbered
from millstream.grouping import distinct_keys, factorize

ROWS = 20_000


def ids(count: int, seed: int = 7) -> list[str]:
    random = Random(seed)
    return [f"{random.getrandbits(128):032x}" for _ in range(count)]


def assert_numbered(texts: list[str]) -> None:
    expected: dict[str, int] = {}
    for text in texts:
        expected.setdefault(text, len(expected))
    column = pa.array(["before", *texts]).slice(1)
    found = number_few_repeats(column)
    assert found is not None
    assert found[0].tolist() == [expected[t] for t in texts]
    assert [texts[row] for row in found[1]] == list(expected)
    codes, (distinct,) = distinct_keys([column])
    assert distinct.to_pylist() == list(expected)
    assert codes.tolist() == found[0].tolist()
    assert factorize([column])[0].tolist() == found[0].tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("repeats", [0, 1, 2, 40])
def test_texts_are_numbered_by_first_occurrence(repeats: int, seed: int) -> None:
    texts, random = ids(ROWS, seed), Random(seed)
    for _ in range(repeats):
        texts[random.randrange(ROWS)] = texts[random.randrange(ROWS)]
    assert_numbered(texts)


def test_texts_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ids(ROWS)

    def one_hash(column: Array) -> npt.NDArray[np.uint64]:
        hashes = np.arange(len(column), dtype=np.uint64) << np.uint64(40)
        hashes[[50, 60]] = hashes[40]
        return hashes

    monkeypatch.setattr(few_repeats, "rough_hashes", one_hash)
    assert number_few_repeats(pa.array(texts)) is None
    codes, (distinct,) = distinct_keys([pa.array(texts)])
    assert [distinct[code].as_py() for code in codes] == texts


@given(st.lists(st.sampled_from([0, 1, 2, 3 << 40, 5 << 40, 6 << 40, 7 << 61, 2**64 - 1]), min_size=1, max_size=30))
def test_rows_with_the_hash_of_an_earlier_one_are_found_wherever_the_hashes_lie(values: list[int]) -> None:
    again, first = few_repeats._with_one_hash(np.array(values, np.uint64))
    expected = {row: values.index(value) for row, value in enumerate(values) if value in values[:row]}
    assert dict(zip(again.tolist(), first.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    "texts",
    [
        ids(100),
        [*ids(ROWS), "shorter"],
        [*ids(ROWS), None],
        ids(ROWS // 2) * 2,
        [text for text in ids(ROWS // 2) for _ in range(2)],
    ],
    ids=["few rows", "of several lengths", "with null", "all of them again", "each of them twice"],
)
def test_texts_that_are_not_of_this_kind_are_left_to_others(texts: list[str | None]) -> None:
    assert number_few_repeats(pa.array(texts)) is None
    codes, (distinct,) = distinct_keys([pa.array(texts)])
    assert [distinct[code].as_py() for code in codes] == texts


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_rows_are_numbered_by_first_occurrence(values: list[int]) -> None:
    again = np.array([row for row, value in enumerate(values) if value in values[:row]], np.intp)
    number, first_rows = numbered(len(values), again, np.array([values.index(values[r]) for r in again], np.intp))
    expected = list(dict.fromkeys(values))
    assert [expected[n] for n in number] == values
    assert [values[row] for row in first_rows] == expected
