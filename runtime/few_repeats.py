"""Numbering texts of which hardly any is there twice, such as ids that are drawn at random.

Arrow's hash table costs 80 ns a row for texts that are all new to it, most of it cache misses. Here a row claims a place by
the hash of its text in a table of numbers alone. Rows that have a place to themselves have a text to themselves, and
only the few others are compared, so that two texts with one hash are still two.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from millstream.batch import Array, index_array
from millstream.keys import HashArray, hash_keys, of_one_length

IndexArray = npt.NDArray[np.intp]

_LEAST_ROWS: Final = 4_096
_PLACES_PER_ROW: Final = 8
_SAMPLE_REPEATS: Final = 2
# Repeats are looked for far apart, one in each part of so many and without a period, and side by side.
_SAMPLE_ROWS: Final = 1_024
_SAMPLE_PLACES: Final = (np.arange(_SAMPLE_ROWS) + np.random.default_rng(7).random(_SAMPLE_ROWS)) / _SAMPLE_ROWS
_SAMPLE_PIECE_ROWS: Final = 256


def number_few_repeats(column: Array) -> tuple[IndexArray, IndexArray] | None:
    """Number texts by first occurrence, if it seems that few occur more than once and if they are of one length, which
    makes them cheap to hash.

    Returns:
        The number of each row, and the first row of each number; None: this way would be the longer one.
    """
    rows = len(column)
    if rows < _LEAST_ROWS or column.null_count or not of_one_length(column) or not _few_repeats(column):
        return None
    among = _sharing_a_place(hash_keys([column]))
    codes = column.take(index_array(among)).dictionary_encode().indices.to_numpy()
    first = np.empty(len(among), np.intp)
    first[codes[::-1]] = np.arange(len(among) - 1, -1, -1)  # of several rows for one place, the last stays
    return numbered(rows, among, first[codes])


def numbered(rows: int, among: IndexArray, first: IndexArray) -> tuple[IndexArray, IndexArray]:
    """Number rows by first occurrence, where only some may be like others.

    Args:
        among: those rows, ascending.
        first: for each of these, the first that is like it, by its place in ``among``.
    Returns:
        The number of each row, and the first row of each number.
    """
    first_row = among[first]
    again = first_row != among
    if not again.any():
        return np.arange(rows), np.arange(rows)
    is_first = np.ones(rows, np.bool_)
    is_first[among[again]] = False
    number = np.cumsum(is_first) - 1
    number[among[again]] = number[first_row[again]]
    return number, np.flatnonzero(is_first)


def _few_repeats(column: Array) -> bool:
    rows = len(column)
    apart = column.take(index_array((_SAMPLE_PLACES * rows).astype(np.intp)))
    beside = column.slice(rows // 2, _SAMPLE_PIECE_ROWS)
    return all(len(sample.unique()) >= len(sample) - _SAMPLE_REPEATS for sample in (apart, beside))


def _sharing_a_place(hashes: HashArray) -> IndexArray:
    """The rows with a place that another row has, too."""
    rows = len(hashes)
    bits = (_PLACES_PER_ROW * rows - 1).bit_length()
    at = (hashes >> np.uint64(64 - bits)).view(np.intp)
    owner = np.empty(1 << bits, np.int32)
    numbers = np.arange(rows, dtype=np.int32)
    owner[at] = numbers  # of several rows for one place, one stays
    owner = owner[at]
    others = np.flatnonzero(owner != numbers)
    sharing = np.zeros(rows, np.bool_)
    sharing[others] = True
    sharing[owner[others]] = True
    return np.flatnonzero(sharing)
