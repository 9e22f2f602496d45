"""What a join puts out: rows of both sides together, or of one side alone, filled up with nulls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import Array, Batch, IntArray, SignArray, index_array, make_columns
from millstream.operators.joins.growing import GrowingColumns
from millstream.operators.joins.key_index import KeyIndex
from millstream.specs.joins import FieldOrigin, JoinField
from millstream.times import MIN_US

_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX_AGAIN = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True, slots=True)
class Picked:
    """Rows of one side, in the order in which they go into the result."""

    source: pa.RecordBatch | GrowingColumns
    rows: npt.NDArray[np.integer]

    def column(self, name: str) -> Array:
        if isinstance(self.source, GrowingColumns):
            return self.source.take(name, self.rows)
        return self.source.column(name).take(index_array(self.rows))


@dataclass(frozen=True, slots=True)
class Beside:
    """What the result's rows have beside their columns."""

    time_us: IntArray | None = None
    before_us: IntArray | None = None
    position: IntArray | None = None
    sign: SignArray | None = None


class Output:
    """Builds the result's columns.

    Args:
        fields: what comes out.
        on: the key fields, by their names on the left.
    """

    def __init__(self, fields: Sequence[JoinField], on: Sequence[str], index: KeyIndex) -> None:
        self.fields = fields
        self.index = index
        self._on = list(on)
        self._names = [f.name for f in fields]
        self._reads_key = any(f.origin is FieldOrigin.KEY for f in fields)

    def keys(self, numbers: npt.NDArray[np.integer]) -> list[Array]:
        """The key fields of these key numbers, where any comes out."""
        return self.index.columns(numbers) if self._reads_key else []

    def batch(
        self,
        keys: Sequence[Array],
        left: Picked | None,
        right: Picked | None,
        beside: Beside,
        window: Mapping[str, Array] | None = None,
    ) -> Batch:
        """Rows of the result.

        Args:
            keys: the key fields of each row.
            left, right: the rows of either side; None: nulls.
        """
        some = left or right
        assert some is not None
        count = len(some.rows)
        arrays: list[Array] = []
        for field in self.fields:
            match field.origin:
                case FieldOrigin.KEY:
                    array = keys[self._on.index(field.source)]
                case FieldOrigin.LEFT:
                    array = _nulls(count, field) if left is None else left.column(field.source)
                case FieldOrigin.RIGHT:
                    array = _nulls(count, field) if right is None else right.column(field.source)
                case FieldOrigin.WINDOW:
                    assert window is not None
                    array = window[field.name]
            arrays.append(array)
        return Batch(
            make_columns(self._names, arrays), beside.time_us, beside.before_us, beside.position, sign=beside.sign
        )


def _nulls(count: int, field: JoinField) -> Array:
    assert field.kind is not None, "a side that may be filled up has shown its fields when the flow was planned"
    kind: Any = field.kind
    array: Array = pa.nulls(count, kind)
    return array


def mixed(left: IntArray | None, right: IntArray | None) -> IntArray | None:
    """A position for pairs, from those of both rows: the same wherever and whenever they met."""
    if left is None or right is None:
        return None
    mixture = (left.view(np.uint64) * _MIX) ^ right.view(np.uint64)
    mixture = (mixture ^ (mixture >> np.uint64(30))) * _MIX_AGAIN
    return ((mixture ^ (mixture >> np.uint64(27))) >> np.uint64(1)).view(np.int64)


def latest(left: IntArray | None, right: IntArray | None) -> IntArray | None:
    return None if left is None or right is None else np.maximum(left, right)


def watermark_of(left: IntArray | None, right: IntArray | None) -> IntArray | None:
    """The watermark before each pair: the higher of both rows'; None when no row was behind its own."""
    if left is None or right is None:
        known = right if left is None else left
    else:
        known = np.maximum(left, right)
    return None if known is None or bool((known == MIN_US).all()) else known
