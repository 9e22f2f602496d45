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
    texts[40], texts[14_000] = texts[14_900], texts[14_900]

    def one_hash(columns: list[Array]) -> npt.NDArray[np.uint64]:
        return np.full(len(columns[0]), 1 << 60, np.uint64)

    monkeypatch.setattr(few_repeats, "hash_keys", one_hash)
    assert_numbered(texts)


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


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(0, 5))
def test_rows_that_are_like_no_other_need_not_be_looked_at(values: list[int], alone: int) -> None:
    of_each = [value if value > alone else 100 + row for row, value in enumerate(values)]
    among = np.array([row for row, value in enumerate(values) if value > alone], np.intp)
    shared = [of_each[row] for row in among]
    first = np.array([shared.index(value) for value in shared], np.intp)
    number, first_rows = numbered(len(values), among, first)
    expected = list(dict.fromkeys(of_each))
    assert [expected[n] for n in number] == of_each
    assert [of_each[row] for row in first_rows] == expected
