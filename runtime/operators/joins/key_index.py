"""Numbers for keys: the same key has the same number on both sides of a join and in every batch.

A hash table with open addressing, looked up and filled a column at a time: every step of the probing is one
NumPy operation over all keys that have not found their place. A place holds a key's number; the 64-bit hash
and then the key itself are compared, so keys that share a hash are still two keys.

A key with a null in it has no number: as in SQL, null equals nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, BoolArray, IntArray, Keys, index_array, make_columns
from millstream.keys import HashArray, hash_keys
from millstream.operators.joins.arrays import GrowingArray
from millstream.operators.joins.growing import GrowingColumns, plain

NO_KEY: Final = -1
"""The number of a key with a null in it."""

_FREE: Final = -1
_LEAST_PLACES: Final = 1_024
_FULL: Final = 0.5


class KeyIndex:
    """Numbers from 0 without gaps, in the order in which keys were first seen."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._names: list[str] = []
        self._kinds: list[pa.DataType] = []
        self._keys = GrowingColumns(where)
        self._hashes = GrowingArray(np.uint64)
        self._places: IntArray = np.full(_LEAST_PLACES, _FREE, np.int64)
        self._exact = False

    def __len__(self) -> int:
        return len(self._hashes)

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
        self._hashes.keep(numbers)
        self._resize(_LEAST_PLACES)

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._hashes.nbytes + self._places.nbytes

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
            found[new] = np.arange(len(self), len(self) + len(new))
            rows = index_array(new)
            self._keys.extend(self._names, [c.take(rows) for c in columns], len(new))
            self._hashes.extend(hashes[new])
            if len(self) > _FULL * len(self._places):
                self._resize(len(self._places))
            else:
                self._insert(found[new])
        return found

    def _looked_up(self, columns: list[Array]) -> tuple[IntArray, HashArray, BoolArray | None]:
        hashes = hash_keys(columns)
        usable = _without_null(columns)
        found = np.full(len(hashes), NO_KEY, np.int64)
        if len(self):
            pending = np.arange(len(hashes)) if usable is None else np.flatnonzero(usable)
            self._probe(pending, hashes, columns, found)
        return found, hashes, usable

    def _probe(self, pending: IntArray, hashes: HashArray, columns: list[Array], found: IntArray) -> None:
        mask = len(self._places) - 1
        known = self._hashes.values
        place = (hashes[pending] & np.uint64(mask)).view(np.int64)
        while len(pending):
            number = self._places[place]
            taken = number != _FREE
            if not taken.all():
                pending, place, number = pending[taken], place[taken], number[taken]
            same = known[number] == hashes[pending]
            if not self._exact and same.any():
                candidates = np.flatnonzero(same)
                same[candidates] = self._equal(number[candidates], pending[candidates], columns)
            found[pending[same]] = number[same]
            on = ~same
            pending, place = pending[on], (place[on] + 1) & mask

    def _equal(self, numbers: IntArray, rows: IntArray, columns: list[Array]) -> BoolArray:
        index = index_array(rows)
        result = np.ones(len(numbers), np.bool_)
        for name, column in zip(self._names, columns, strict=True):
            mine, theirs = self._keys.take(name, numbers), column.take(index)
            equal = pc.equal(mine, theirs)
            if pa.types.is_floating(mine.type):
                equal = pc.or_(equal, pc.and_(pc.is_nan(mine), pc.is_nan(theirs)))
            result &= equal.to_numpy(zero_copy_only=False)
        return result

    # --- filling ---

    def _resize(self, places: int) -> None:
        while len(self) > _FULL * places:
            places *= 4
        self._places = np.full(places, _FREE, np.int64)
        self._insert(np.arange(len(self)))

    def _insert(self, numbers: IntArray) -> None:
        """Give numbers that are not in the table a place: of those that want the same one, the last to write has it."""
        mask = len(self._places) - 1
        place = (self._hashes.values[numbers] & np.uint64(mask)).view(np.int64)
        while len(numbers):
            free = self._places[place] == _FREE
            self._places[place[free]] = numbers[free]
            on = self._places[place] != numbers
            numbers, place = numbers[on], (place[on] + 1) & mask


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
