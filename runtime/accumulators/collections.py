"""Accumulators that keep values: the distinct ones, or all of them in order.

Both are one column of lists, flattened to merge: the values of all lists with the group of their list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.accumulators.columns import Column, retype, to_arrow
from millstream.accumulators.part import GroupedRows, Part
from millstream.batch import Array, index_array
from millstream.grouping import Groups, factorize, group_codes, raw_values


@dataclass(frozen=True)
class Distinct(Part):
    """Each different value of a group once."""

    at: int
    type: pa.DataType

    def partial(self, rows: GroupedRows) -> list[Column]:
        values = rows.inputs[self.at]
        return [self._distinct(values.array, values.groups)]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        return [self._distinct(*flatten(columns[0], groups))]

    def _distinct(self, values: Array, groups: Groups) -> Column:
        values = retype(values, self.type)
        codes, first = factorize([values])
        _, pairs = group_codes([(groups.codes, groups.count), (codes, len(first))])
        return lists_of(values.take(index_array(pairs)), Groups(groups.codes[pairs], groups.count))


@dataclass(frozen=True)
class Collected(Part):
    """Every value of a group, null or not, with what orders it; put in order when the result is made."""

    at: int
    type: pa.DataType

    def partial(self, rows: GroupedRows) -> list[Column]:
        values = retype(to_arrow(rows.inputs[self.at].column), self.type)
        parts = [pa.array(rows.order.time_us), pa.array(rows.order.position), values]
        return [lists_of(pa.StructArray.from_arrays(parts, ["time_us", "position", "value"]), rows.groups)]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        return [lists_of(*flatten(columns[0], groups))]


def list_lengths(column: Column) -> Array:
    return pc.list_value_length(to_arrow(column)).cast(pa.int64())


def in_order(column: Column, kind: pa.DataType) -> Array:
    """The collected values of each group as a list of ``kind``, by event time and then position."""
    lists = to_arrow(column)
    rows, groups = flatten(lists, Groups(np.arange(len(lists)), len(lists)))
    assert isinstance(rows, pa.StructArray)
    time_us, position, value = rows.flatten()
    order = np.lexsort((raw_values(position), raw_values(time_us), groups.codes))
    return pa.ListArray.from_arrays(pa.array(groups.starts, pa.int32()), retype(value.take(index_array(order)), kind))


def flatten(column: Column, groups: Groups) -> tuple[Array, Groups]:
    """The items of all lists, and the groups of their lists."""
    lists = to_arrow(column)
    assert isinstance(lists, pa.LargeListArray)
    return lists.flatten(), Groups(np.repeat(groups.codes, raw_values(pc.list_value_length(lists))), groups.count)


def lists_of(values: Array, groups: Groups) -> Array:
    """One list for each group. Offsets are 64 bits wide: a run may hold more than 2^31 values."""
    items = values.take(index_array(groups.order))
    lists: Array = pa.LargeListArray.from_arrays(pa.array(groups.starts, pa.int64()), items)
    return lists
