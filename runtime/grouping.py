"""Which rows belong together: from key columns to small integers, without a Python step per row or key.

Grouping has two halves. `factorize` gives every row of one or several key columns a dense code;
`group_codes` combines codes that already exist (window index, key code) into `Groups`, which is what
the accumulators take. Both number through a table indexed by the code itself while that table stays
small next to the batch (3 to 5 ns/row), and through Arrow's hash table otherwise (about 20 ns/row).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, index_array
from millstream.errors import SchemaError
from millstream.few_repeats import number_few_repeats

CodeArray = npt.NDArray[np.signedinteger]
IndexArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]

_SPAN_LIMIT: Final = 1 << 62
# A table of up to this many entries a row beats hashing; beyond, its cache misses cost more.
_TABLE_PER_ROW: Final = 8
_TABLE_LEAST: Final = 1024
# 0 to 65,535, a full batch: shared because the page faults of making it anew cost as much as its use.
_ROW_NUMBERS: Final = np.arange(1 << 16)


class Groups:
    """The group of each row, and what several accumulators want to know of it, each computed once.

    Attributes:
        codes: intp[n], 0 to count - 1. Always intp: `ufunc.at` is ten times slower with any other type.
        count: the number of groups; a group may have no rows.
    """

    def __init__(self, codes: CodeArray, count: int) -> None:
        self.codes: IndexArray = codes.astype(np.intp, copy=False)
        self.count = count

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The number of rows of each group, int64[count]."""
        return np.bincount(self.codes, minlength=self.count).astype(np.int64, copy=False)

    @cached_property
    def has_empty(self) -> bool:
        return bool(self.count) and not self.sizes.all()

    @cached_property
    def order(self) -> IndexArray:
        """The rows sorted by group, intp[n]; rows of one group keep their order."""
        # NumPy sorts stably by radix only up to 16 bits, eight times faster than by timsort.
        order = np.argsort((self.codes & 0xFFFF).astype(np.uint16), kind="stable")
        if self.count > 1 << 16:
            high = self.codes >> 16
            high = high.astype(np.uint16) if self.count <= 1 << 32 else high
            order = order[np.argsort(high[order], kind="stable")]
        return order

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where in `order` each group starts, and the end of the last, int64[count + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes)])

    def where(self, mask: BoolArray) -> Groups:
        """The same groups, with only the rows for which ``mask`` is true."""
        return Groups(self.codes[mask], self.count)


def group_codes(parts: Sequence[tuple[CodeArray, int]]) -> tuple[Groups, IndexArray]:
    """Group rows by several columns of codes at once.

    Args:
        parts: (codes, cardinality) pairs of equal length, the most significant first; codes are
            from 0 to cardinality - 1.
    Returns:
        The groups, each with at least one row, and the first row of each. They are numbered by
        ascending combined code when the product of the cardinalities is small (at most 8 n + 1024),
        else by first occurrence.
    """
    combined, span = parts[0]
    for codes, cardinality in parts[1:]:
        if span * cardinality > _SPAN_LIMIT:
            combined, first = _densify(combined, span)
            span = len(first)
        if span * cardinality <= np.iinfo(np.int32).max and combined.dtype == codes.dtype == np.int32:
            combined = combined * np.int32(cardinality) + codes
        else:
            combined = combined.astype(np.int64, copy=False) * cardinality + codes
        span *= cardinality
    dense, first = _densify(combined, span)
    return Groups(dense, len(first)), first


def factorize(columns: Sequence[Array]) -> tuple[CodeArray, IndexArray]:
    """Give each row a code that equals that of another row when all key columns are equal.

    Null equals null, NaN equals NaN and -0.0 equals 0.0, as for the hash that assigns key groups.

    Args:
        columns: the key columns, at least one, of equal length.
    Returns:
        Dense codes, int32[n] or int64[n], and the first row of each code, in code order.
    Raises:
        SchemaError: a type that cannot be a key, such as a list or a struct.
    """
    codes, first = _factorize_column(columns[0])
    for column in columns[1:]:
        more, more_first = _factorize_column(column)
        groups, first = group_codes([(codes, len(first)), (more, len(more_first))])
        codes = groups.codes
    return codes, first


def distinct_keys(columns: Sequence[Array]) -> tuple[CodeArray, list[Array]]:
    """Like `factorize`, with the distinct keys themselves, in the order of their codes and neither as dictionaries
    nor as views, which Arrow's ``take`` does not know."""
    columns = [_without_views(column) for column in columns]
    if len(columns) == 1 and _is_binary_like(columns[0].type):
        (column,) = columns
        few = number_few_repeats(column)
        if few is not None:
            codes, first = few
            return codes, [column if len(first) == len(column) else column.take(index_array(first))]
        # Arrow's hash table has them; finding the first row of each would cost 3 ns a row more.
        encoded = _encoded(column)
        return encoded.indices.to_numpy(), [encoded.dictionary]
    codes, first = factorize(columns)
    # Codes may be numbered by value: also where all keys are distinct they need not be in row order.
    if len(first) < len(codes) or not (first[1:] > first[:-1]).all():
        rows = index_array(first)
        columns = [column.take(rows) for column in columns]
    return codes, [c.dictionary_decode() if isinstance(c, pa.DictionaryArray) else c for c in columns]


def raw_values(array: Array) -> npt.NDArray[Any]:
    """The values of a fixed-width column as NumPy sees its memory; those of nulls are arbitrary.

    Booleans come as uint8; dates, times, timestamps and durations as the integers that store them.
    No copy is made but for booleans.
    """
    kind = array.type
    if pa.types.is_boolean(kind):
        # Null has to be filled: NumPy knows no boolean without a value.
        return np.asarray(pc.fill_null(array, False)).view(np.uint8)  # type: ignore[type-var]
    dtype: np.dtype[Any]
    dtype = np.dtype(f"i{kind.bit_width // 8}" if pa.types.is_temporal(kind) else kind.to_pandas_dtype())
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.zeros(len(array), dtype)
    return np.frombuffer(memoryview(buffer), dtype, count=len(array), offset=array.offset * dtype.itemsize)


def valid_mask(array: Array) -> BoolArray | None:
    """True where the column has a value, bool[n]; None when it has no nulls."""
    if array.null_count == 0:
        return None
    mask: BoolArray = array.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _densify(codes: CodeArray, span: int) -> tuple[CodeArray, IndexArray]:
    """Renumber codes from 0 to span - 1 so that each one occurs; with the first row of each."""
    rows = len(codes)
    if span > _table_limit(rows):
        dense = pa.array(codes).dictionary_encode().indices.to_numpy()
        return dense, _first_rows(dense, int(dense.max()) + 1 if rows else 0)
    index = codes.astype(np.intp, copy=False)
    table = _first_rows(index, span)
    present = np.flatnonzero(table < rows)
    if len(present) == span:
        return index, table
    number = np.empty(span, np.intp)
    number[present] = np.arange(len(present))
    return number.take(index), table[present]


def _first_rows(codes: CodeArray, span: int) -> IndexArray:
    """The first row of each code, n for a code without rows, intp[span]."""
    table = np.full(span, len(codes), np.intp)
    np.minimum.at(table, codes.astype(np.intp, copy=False), _row_numbers(len(codes)))
    return table


def _table_limit(rows: int) -> int:
    return _TABLE_PER_ROW * rows + _TABLE_LEAST


def _row_numbers(rows: int) -> IndexArray:
    return _ROW_NUMBERS[:rows] if rows <= len(_ROW_NUMBERS) else np.arange(rows)


def _factorize_column(column: Array) -> tuple[CodeArray, IndexArray]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _factorize_dictionary(column)
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.int32), np.zeros(min(len(column), 1), np.intp)
    if pa.types.is_floating(kind):
        return _hash_values(pa.array(_canonical_bits(column), mask=_null_mask(column)))
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        if pa.types.is_interval(kind):
            raise _not_a_key(kind)
        return _factorize_integers(column)
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return _hash_values(column.cast(pa.decimal128(kind.precision, kind.scale)))
    if pa.types.is_decimal(kind) or _is_binary_like(kind):
        return number_few_repeats(column) or _hash_values(column)
    raise _not_a_key(kind)


def _factorize_integers(column: Array) -> tuple[CodeArray, IndexArray]:
    values, valid = raw_values(column), valid_mask(column)
    known = values if valid is None else values[valid]
    if len(known) == 0:
        return np.zeros(len(values), np.int32), np.zeros(min(len(values), 1), np.intp)
    low, span = int(known.min()), int(known.max()) - int(known.min()) + 1
    if span > _table_limit(len(values)):
        return _hash_values(pa.array(values, mask=_null_mask(column)))
    # A value minus the lowest may not fit its own type (int8: 127 - -128), and uint64 has no wider one.
    shifted = values - values.dtype.type(low) if values.dtype.kind == "u" else values.astype(np.int64, copy=False) - low
    codes = shifted.astype(np.int64, copy=False)
    if valid is None:
        return _densify(codes, span)
    return _densify(np.where(valid, codes, span), span + 1)


def _factorize_dictionary(column: Array) -> tuple[CodeArray, IndexArray]:
    assert isinstance(column, pa.DictionaryArray)
    # A dictionary may hold a value twice, and null can be an entry of it, a missing index, or both.
    values = pa.concat_arrays([column.dictionary, pa.nulls(1, column.dictionary.type)])
    value_codes, value_first = _factorize_column(values)
    indices, valid = raw_values(column.indices), valid_mask(column.indices)
    rows = indices if valid is None else np.where(valid, indices, len(values) - 1)
    return _densify(value_codes[rows], len(value_first))


def _hash_values(column: Array) -> tuple[CodeArray, IndexArray]:
    encoded = _encoded(column)
    codes = encoded.indices.to_numpy()
    return codes, _first_rows(codes, len(encoded.dictionary))


def _encoded(column: Array) -> pa.DictionaryArray[Any, Any]:
    """The values with a code for each; null is a value."""
    encoded: pa.DictionaryArray[Any, Any] = column.dictionary_encode(null_encoding="encode")
    return encoded


def _canonical_bits(column: Array) -> npt.NDArray[np.signedinteger]:
    """Floats as integers that are equal where the floats are one key."""
    values = raw_values(column)
    values = values + values.dtype.type(0)  # -0.0 + 0.0 is 0.0
    values[np.isnan(values)] = np.nan
    bits: npt.NDArray[np.signedinteger] = values.view(f"i{values.dtype.itemsize}")
    return bits


def _without_views(column: Array) -> Array:
    if pa.types.is_string_view(column.type):
        return column.cast(pa.string())
    return column.cast(pa.binary()) if pa.types.is_binary_view(column.type) else column


def _null_mask(column: Array) -> BoolArray | None:
    valid = valid_mask(column)
    return None if valid is None else ~valid


def _is_binary_like(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def _not_a_key(kind: pa.DataType) -> SchemaError:
    return SchemaError(f"key: a field of type {kind} cannot be a key; use a field of it, or .cast(...) to a plain type")
