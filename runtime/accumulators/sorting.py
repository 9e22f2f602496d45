"""Putting the rows of many groups in order at once: by the values a ranking goes by, then time, place and content.

Values become int64 codes that sort as they do, so that the bulk of the work is one sort of numbers and one radix
pass by group; only rows that are equal by the first value are looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.accumulators.ordered import sort_codes
from millstream.batch import Array, BoolArray, IntArray
from millstream.grouping import Groups, IndexArray, raw_values
from millstream.schema import plain_type

Content = Callable[[IndexArray], Sequence[Array]]


@dataclass(frozen=True, slots=True)
class Codes:
    """Numbers that sort as values do.

    Attributes:
        code: int64[n], ascending from the best.
        last: uint8[n], 1 for NaN and 2 for null, which come behind all values; None: there are none.
    """

    code: IntArray
    last: npt.NDArray[np.uint8] | None

    def columns(self) -> list[npt.NDArray[Any]]:
        """For a sort: the most significant first."""
        return [self.code] if self.last is None else [self.last, self.code]

    def differ(self, a: IndexArray, b: IndexArray) -> BoolArray:
        """Whether the values of rows ``a`` are others than those of rows ``b``."""
        different: BoolArray = self.code[a] != self.code[b]
        return different if self.last is None else different | (self.last[a] != self.last[b])


def has_fixed_codes(kind: pa.DataType) -> bool:
    """Whether the code of a value is the same in every batch; that of text is its rank among those it is sorted with."""
    kind = plain_type(kind)
    types = pa.types
    return bool(types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind) or types.is_temporal(kind))


def codes_of(values: Array, descending: bool) -> Codes:
    """The codes of a column, which compare with each other; with other columns where `has_fixed_codes`."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()  # type: ignore[attr-defined]
    last: npt.NDArray[np.uint8] | None = None
    if values.null_count:
        there = values.is_valid().to_numpy(zero_copy_only=False)
        last = np.where(there, 0, 2).astype(np.uint8)
        code = np.zeros(len(values), np.int64)
        code[there] = sort_codes(values.drop_null(), descending)
    else:
        code = sort_codes(values, descending)
    if descending:
        code = ~code
    if pa.types.is_floating(values.type):
        nan = np.isnan(raw_values(values))
        nan &= True if last is None else last == 0
        if nan.any():
            last = np.zeros(len(values), np.uint8) if last is None else last
            last[nan] = 1
    if last is not None:
        code[last > 0] = 0
    return Codes(code, last)


def sorted_places(
    groups: Groups,
    by: Sequence[Codes],
    time_us: IntArray,
    position: IntArray,
    content: Content,
    rows: IndexArray | None = None,
) -> IndexArray:
    """Rows by group, then best first: by ``by``, event time, position, and what is in them.

    Args:
        content: gives columns of rows, which break the ties that are left; only asked where there are any.
        rows: which; None: all.
    """
    rows = np.arange(len(groups)) if rows is None else rows
    code, last = by[0].code[rows], None if by[0].last is None else by[0].last[rows]
    order = rows[np.argsort(code) if last is None else np.lexsort((code, last))]
    order = order[Groups(groups.codes[order], groups.count).order]
    order = _resolved(order, groups, by[:1], [k for c in by[1:] for k in c.columns()] + [time_us, position])
    return _by_content(order, groups, by, time_us, position, content)


def begins_anew(order: IndexArray, groups: Groups, by: Sequence[Codes]) -> BoolArray:
    """Along an order, where the group or the values of ``by`` are others than those of the row before."""
    new = np.ones(len(order), np.bool_)
    a, b = order[1:], order[:-1]
    new[1:] = groups.codes[a] != groups.codes[b]
    for codes in by:
        new[1:] |= codes.differ(a, b)
    return new


def ranks_of(order: IndexArray, groups: Groups, by: Sequence[Codes], all_ties: bool) -> IntArray:
    """The rank in its group of each row along an order, from 0.

    Args:
        all_ties: rows that are equal in ``by`` have the rank of the first of them.
    """
    if len(order) == 0:
        return np.zeros(0, np.int64)
    place = np.arange(len(order))
    first = np.maximum.accumulate(np.where(begins_anew(order, groups, []), place, 0))
    if not all_ties:
        return place - first
    return np.maximum.accumulate(np.where(begins_anew(order, groups, by), place, 0)) - first


def _resolved(order: IndexArray, groups: Groups, by: Sequence[Codes], keys: Sequence[npt.NDArray[Any]]) -> IndexArray:
    """The order with rows that are equal so far put in the order of further keys, the most significant first."""
    tied, block = _tied(begins_anew(order, groups, by))
    if len(tied) == 0:
        return order
    rows = order[tied]
    order[tied] = rows[np.lexsort((*(k[rows] for k in reversed(keys)), block))]
    return order


def _by_content(
    order: IndexArray, groups: Groups, by: Sequence[Codes], time_us: IntArray, position: IntArray, content: Content
) -> IndexArray:
    exact = [*by, Codes(time_us, None), Codes(position, None)]
    tied, block = _tied(begins_anew(order, groups, exact))
    if len(tied) == 0:
        return order
    rows = order[tied]
    columns = [c for c in content(rows) if not pa.types.is_nested(c.type)]
    table = pa.table([pa.array(block), *columns], [str(i) for i in range(len(columns) + 1)])
    order[tied] = rows[
        pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.schema.names]).to_numpy()
    ]
    return order


def _tied(new: BoolArray) -> tuple[IndexArray, IntArray]:
    """The places of rows that are not alone between two beginnings, and the number of their block."""
    with_next = np.append(~new[1:], False)
    tied = np.flatnonzero(with_next | ~new)
    block: IntArray = np.cumsum(new)
    return tied, block[tied]
