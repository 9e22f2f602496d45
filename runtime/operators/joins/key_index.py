"""Numbers for keys: the same key has the same number on both sides of a join and in every batch.

Keys are found by their 64-bit hashes (runtime/keys.py, state/hash_table.py) and compared themselves, so keys that share
a hash are still two keys. Other than the slots of a `KeyTable`, numbers have no gaps and columns of keys lie in the order
of the numbers, which is how a join slices its rows for the result and for checkpoints without a copy.

A key with a null in it has no number: as in SQL, null equals nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, BoolArray, IntArray, Keys, index_array, make_columns
from millstream.grouping import IndexArray
from millstream.keys import HashArray, hash_keys
from millstream.operators.joins.growing import GrowingColumns, plain
from millstream.state.columns import grown
from millstream.state.hash_table import HashTable

NO_KEY: Final = -1
"""The number of a key with a null in it."""

_LEAST: Final = 2
"""See `HashTable`."""


class KeyIndex:
    """Numbers from 0 without gaps, in the order in which keys were first seen."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._names: list[str] = []
        self._kinds: list[pa.DataType] = []
        self._keys = GrowingColumns(where)
        self._hashes: HashArray = np.zeros(0, np.uint64)
        self._table = HashTable()
        self._exact = False

    def __len__(self) -> int:
        return self._keys.count

    def numbers(self, keys: Keys) -> IntArray:
        """The number of each row's key, int64[n]; keys that have none get one, those with a null `NO_KEY`."""
        if keys.distinct.num_rows <= len(keys.codes):
            return self._numbers(self._fitted(keys.distinct.columns))[keys.codes]
        # Most are keys of rows that went elsewhere.
        used, codes = np.unique(keys.codes, return_inverse=True)
        return self._numbers(self._fitted(keys.distinct.take(index_array(used)).columns))[codes]

    def known(self, keys: Keys) -> IntArray:
        """The number of each row's key, `NO_KEY` where it has none."""
        return self.find(keys.distinct.columns)[keys.codes]

    def find(self, columns: Sequence[Array]) -> IntArray:
        """The number of each key, `NO_KEY` where it has none."""
        return self._looked_up(self._fitted(columns))[0]

    def columns(self, numbers: npt.NDArray[np.integer]) -> list[Array]:
        """The key fields of these numbers."""
        return [self._keys.take(name, numbers) for name in self._names]

    def all(self, names: Sequence[str]) -> pa.RecordBatch:
        """All keys by number, their fields under these names; not copied."""
        return make_columns(names, [self._keys.slice(n, 0, len(self)) for n in self._names])

    def keep(self, numbers: IntArray) -> None:
        """Forget all keys but these (ascending), which are numbered anew from 0 in the same order."""
        self._keys.keep(numbers)
        self._hashes = grown(self._hashes[numbers], _LEAST)
        self._table.rebuild(self._hashes, np.arange(len(self)))

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._hashes.nbytes + self._table.nbytes

    # --- looking up ---

    def _fitted(self, columns: Sequence[Array]) -> list[Array]:
        """The columns in the types of the keys that are here; those widen where they must."""
        arrays = [plain(c) for c in columns]
        if not self._names:
            self._names = [str(i) for i in range(len(arrays))]
        kinds = [a.type for a in arrays]
        if kinds != self._kinds:
            self._kinds = [f.type for f in self._keys.extend(self._names, [a.slice(0, 0) for a in arrays], 0)]
            self._exact = len(arrays) == 1 and _hashes_exactly(self._kinds[0])
            arrays = [a.cast(k) for a, k in zip(arrays, self._kinds, strict=True)]
        return arrays

    def _numbers(self, columns: list[Array]) -> IntArray:
        found, hashes, usable = self._looked_up(columns)
        new = np.flatnonzero(found == NO_KEY) if usable is None else np.flatnonzero((found == NO_KEY) & usable)
        if len(new):
            found[new] = given = np.arange(len(self), len(self) + len(new))
            rows = index_array(new)
            self._keys.extend(self._names, [c.take(rows) for c in columns], len(new))
            self._hashes = grown(self._hashes, len(self))
            self._hashes[given] = hashes[new]
            if self._table.has_room(len(new)):
                self._table.insert(self._hashes, given)
            else:
                self._table.rebuild(self._hashes, np.arange(len(self)))  # with the new ones
        return found

    def _looked_up(self, columns: list[Array]) -> tuple[IntArray, HashArray, BoolArray | None]:
        hashes = hash_keys(columns)
        usable = _without_null(columns)
        if not len(self):
            return np.full(len(hashes), NO_KEY, np.int64), hashes, usable
        rows = np.arange(len(hashes)) if usable is None else np.flatnonzero(usable)
        equal = None if self._exact else partial(self._equal, columns)
        return self._table.find(self._hashes, hashes, rows, equal), hashes, usable

    def _equal(self, columns: list[Array], numbers: IntArray, rows: IndexArray) -> BoolArray:
        index = index_array(rows)
        result = np.ones(len(numbers), np.bool_)
        for name, column in zip(self._names, columns, strict=True):
            mine, theirs = self._keys.take(name, numbers), column.take(index)
            equal = pc.equal(mine, theirs)
            if pa.types.is_floating(mine.type):
                equal = pc.or_(equal, pc.and_(pc.is_nan(mine), pc.is_nan(theirs)))
            result &= equal.to_numpy(zero_copy_only=False)
        return result


def _hashes_exactly(kind: pa.DataType) -> bool:
    """Whether two keys of this type never share a hash: the mixing of one 64-bit number can be undone."""
    return pa.types.is_integer(kind) or pa.types.is_date(kind) or pa.types.is_boolean(kind)


def _without_null(columns: Sequence[Array]) -> BoolArray | None:
    """The rows without a null, or None where that is all of them."""
    usable: BoolArray | None = None
    for column in columns:
        if column.null_count or pa.types.is_null(column.type):
            valid: BoolArray = pc.is_valid(column).to_numpy(zero_copy_only=False)
            usable = valid if usable is None else usable & valid
    return usable
