"""Numbering texts of which hardly any is there twice, such as ids that are drawn at random.

Arrow's hash table costs 80 ns a row for texts that are all new to it, most of it cache misses. Here a row claims a place by
the hash of its text in a table of numbers alone. A row whose hash no other has is the only one with its text, and
the few others are compared; where two texts have one hash, which is next to never, all is left to Arrow.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from millstream.batch import Array, index_array
from millstream.keys import HashArray, of_one_length, rough_hashes

IndexArray = npt.NDArray[np.intp]

_LEAST_ROWS: Final = 4_096
_PLACES_PER_ROW: Final = 8
_OTHER_PLACES: Final = np.uint64(0x9E3779B97F4A7C15)
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
    again, first = _with_one_hash(rough_hashes(column))
    if not column.take(index_array(again)).equals(column.take(index_array(first))):
        return None
    return numbered(rows, again, first)


def numbered(rows: int, again: IndexArray, first: IndexArray) -> tuple[IndexArray, IndexArray]:
    """Number rows by first occurrence.

    Args:
        again: the rows that are like an earlier one.
        first: for each of these, the first that is like it.
    Returns:
        The number of each row, and the first row of each number.
    """
    if not len(again):
        return np.arange(rows), np.arange(rows)
    is_first = np.ones(rows, np.bool_)
    is_first[again] = False
    number = np.cumsum(is_first) - 1
    number[again] = number[first]
    return number, np.flatnonzero(is_first)


def _few_repeats(column: Array) -> bool:
    rows = len(column)
    apart = column.take(index_array((_SAMPLE_PLACES * rows).astype(np.intp)))
    beside = column.slice(rows // 2, _SAMPLE_PIECE_ROWS)
    return all(len(sample.unique()) >= len(sample) - _SAMPLE_REPEATS for sample in (apart, beside))


def _with_one_hash(hashes: HashArray) -> tuple[IndexArray, IndexArray]:
    """The rows with the hash of an earlier row, and the first row that each of them has it from."""
    again: list[IndexArray] = []
    first: list[IndexArray] = []
    left = np.arange(len(hashes))
    while len(left):
        bits = (_PLACES_PER_ROW * len(left)).bit_length()
        at = (hashes >> np.uint64(64 - bits)).view(np.intp)
        places, rows = np.empty(1 << bits, np.int32), np.arange(len(left), dtype=np.int32)
        places[at[::-1]] = rows[::-1]  # of several rows for one place, what comes last stays: the first row
        owner = places[at]
        lost = np.flatnonzero(owner != rows)
        alike = hashes[lost] == hashes[owner[lost]]
        again.append(left[lost[alike]])
        first.append(left[owner[lost[alike]]])
        # Rows of another hash try again elsewhere; those of one hash stay together.
        lost = lost[~alike]
        left, hashes = left[lost], (hashes[lost] ^ (hashes[lost] >> np.uint64(32))) * _OTHER_PLACES
    return np.concatenate(again), np.concatenate(first)
