"""How many different values a group has, where the values themselves are kept elsewhere.

An aggregation without windows keeps every value for ever. Were they in its columns, every batch would cost as much as
all values of the keys that it touches; so they are in a table of their own, which says how much the number changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.accumulators.collections import flatten
from millstream.accumulators.columns import Column, Input
from millstream.accumulators.part import GroupedRows, Part
from millstream.grouping import Groups


@dataclass(frozen=True)
class DistinctCount(Part):
    """A number that grows by what whoever keeps the values finds new.

    Attributes:
        type: what the values are brought to.
    """

    at: int
    type: pa.DataType

    def partial(self, rows: GroupedRows) -> list[Column]:
        """Zeros, in place of which the change of each group is put."""
        return [np.zeros(rows.groups.count, np.int64)]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        counts = np.zeros(groups.count, np.int64)
        np.add.at(counts, groups.codes, Input(columns[0], groups).values)
        return [counts]


def values_in(lists: Column, groups: Groups) -> Input:
    """The values in a column that was made where they are not kept apart: lists of them (collections.py)."""
    return Input(*flatten(lists, groups))
