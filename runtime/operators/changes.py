"""Making changelogs: rows that are taken back, then rows that stand, in one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, BoolArray, IntArray, concat
from millstream.keys import hash_keys
from millstream.operators.base import Output
from millstream.specs.base import MAIN
from millstream.state.key_table import equal_values

CHANGE_ROWS: Final = 65_536
"""How many rows leave at once where all that stands is put out."""


def changes(gone: Batch | None, new: Batch) -> Iterator[Output]:
    """Rows that are taken back, just as they were said, and rows that stand from now on."""
    parts = [(gone, -1), (new, 1)]
    signed = [replace(b, sign=np.full(b.num_rows, s, np.int8)) for b, s in parts if b is not None and b.num_rows]
    if signed:
        yield MAIN, concat(signed)


def key_position(keys: pa.RecordBatch) -> IntArray:
    """Positions for results by key, so that ties of time are broken alike for any number of workers."""
    return (hash_keys(keys.columns) >> np.uint64(1)).view(np.int64)


def unchanged(before: list[Array], after: list[Array]) -> BoolArray:
    """Which rows of results say what they said before; of lists and structs that is not known."""
    same = np.ones(len(before[0]), np.bool_)
    for old, new in zip(before, after, strict=True):
        if pa.types.is_nested(new.type):
            return np.zeros(len(same), np.bool_)
        same &= equal_values(old, new)
    return same
