"""Columns that grow at the end: state to which rows are appended, and from which any of them are taken.

Appending costs a copy of what is appended (memory doubles when it is full, so a row is moved once or twice
in all), and taking rows is one Arrow kernel over one piece of memory, however many batches the rows came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, BoolArray
from millstream.errors import SchemaError
from millstream.operators.joins.arrays import GrowingArray
from millstream.operators.joins.values import Text, values_of

PIECE_BYTES: Final = 1 << 30
"""The most text that a slice of a column should have."""


class GrowingColumn:
    """An Arrow column of one type to which values are appended.

    Args:
        kind: the type of what is taken from it; dictionaries are decoded before they come here.
    """

    def __init__(self, kind: pa.DataType) -> None:
        self.kind = kind
        self._values = values_of(kind)
        self._count = 0
        self._valid: GrowingArray[np.bool_] | None = None  # from the first null on

    def extend(self, array: Array) -> None:
        """Append values of the column's type."""
        if array.null_count and self._valid is None:
            self._valid = GrowingArray(np.bool_)
            self._valid.fill(self._count, True)
        if self._valid is not None:
            self._valid.extend(pc.is_valid(array).to_numpy(zero_copy_only=False))
        self._values.extend(array)
        self._count += len(array)

    def take(self, rows: npt.NDArray[np.integer]) -> Array:
        """The values in these rows."""
        taken = self._values.take(rows)
        if self._valid is not None:
            valid: BoolArray = self._valid.values[rows]
            if not valid.all():
                taken = pc.if_else(pa.array(valid), taken, pa.scalar(None, taken.type))
        return taken

    def slice(self, start: int, stop: int) -> Array:
        """The values of the rows from ``start`` to ``stop``, which stay as they are whatever is appended or forgotten.

        They are not copied, but for truth values, nested ones, and columns with nulls.
        """
        values = self._values.slice(start, stop)
        if self._valid is not None:
            valid: BoolArray = self._valid.values[start:stop]
            if not valid.all():
                values = pc.if_else(pa.array(valid), values, pa.scalar(None, values.type))
        return values

    def text_bytes(self, start: int, stop: int) -> int:
        """How long the text in these rows is; 0 where the column is none."""
        return self._values.text_bytes(start, stop) if isinstance(self._values, Text) else 0

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        self._values.keep(rows)
        self._count = len(rows)
        if self._valid is not None:
            self._valid.keep(rows)

    def widened(self, kind: pa.DataType) -> GrowingColumn:
        """The same values as another type."""
        wider = GrowingColumn(kind)
        wider.extend(self.take(np.arange(self._count)).cast(kind))
        return wider

    @property
    def nbytes(self) -> int:
        return self._values.nbytes + (0 if self._valid is None else self._valid.nbytes)


class GrowingColumns:
    """Several columns of the same length, by name; types widen where a later batch asks for it."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._columns: dict[str, GrowingColumn] = {}
        self.count = 0

    def extend(self, names: Sequence[str], arrays: Sequence[Array], count: int) -> list[Array]:
        """Append rows.

        Returns:
            The arrays in the types that the columns have now.
        Raises:
            SchemaError: a field has a type that does not go with the one it had before.
        """
        fitted: list[Array] = []
        for name, array in zip(names, arrays, strict=True):
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = GrowingColumn(array.type)
                if self.count:
                    column.extend(pa.nulls(self.count, array.type))
            if array.type != column.kind:
                kind = _wider(column.kind, array.type, f"{self._where}: field {name!r}")
                if kind != column.kind:
                    column = self._columns[name] = column.widened(kind)
                array = array.cast(kind)
            column.extend(array)
            fitted.append(array)
        self.count += count
        return fitted

    def take(self, name: str, rows: npt.NDArray[np.integer]) -> Array:
        return self._columns[name].take(rows)

    def slice(self, name: str, start: int, stop: int) -> Array:
        return self._columns[name].slice(start, stop)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """All rows as spans (start, stop) that can be sliced: text of one array has 32-bit offsets."""
        stop = self.count if stop is None else stop
        longest = max((c.text_bytes(start, stop) for c in self._columns.values()), default=0)
        if longest > PIECE_BYTES and stop - start > 1:
            middle = (start + stop) // 2
            yield from self.pieces(start, middle)
            yield from self.pieces(middle, stop)
        elif stop > start:
            yield start, stop

    def keep(self, rows: npt.NDArray[np.integer]) -> None:
        for column in self._columns.values():
            column.keep(rows)
        self.count = len(rows)

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    @property
    def nbytes(self) -> int:
        return sum(c.nbytes for c in self._columns.values())


def plain(array: Array) -> Array:
    """An array without a dictionary: state outlives the batch whose dictionary it was."""
    return array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array


def _wider(before: pa.DataType, now: pa.DataType, where: str) -> pa.DataType:
    try:
        parts = [pa.schema([("x", kind)]) for kind in (before, now)]
        wider: pa.DataType = pa.unify_schemas(parts, promote_options="permissive").field(0).type
        return wider
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise SchemaError(
            f"{where} was {before} and is now {now}; say schema= where the field is made, or cast it"
        ) from error
