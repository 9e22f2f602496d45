"""The accumulator of a ranking: the best rows of each group, whole, with what they are ordered by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.accumulators.collections import flatten, lists_of
from millstream.accumulators.columns import Column, retype, to_arrow
from millstream.accumulators.part import GroupedRows, Part
from millstream.accumulators.sorting import Codes, codes_of, ranks_of, sorted_places
from millstream.batch import Array, IntArray, index_array
from millstream.grouping import Groups, IndexArray, raw_values


@dataclass(frozen=True)
class Ranked(Part):
    """One column of lists: of each group no more rows than are among the best ``n``, the best first.

    Attributes:
        at: the whole row; by: what rows are ordered by, descending where ``descending`` says so.
        all_ties: rows that are equal by ``by`` have one rank.
    """

    at: int
    by: tuple[int, ...]
    type: pa.DataType
    by_types: tuple[pa.DataType, ...]
    descending: tuple[bool, ...]
    n: int
    all_ties: bool

    def partial(self, rows: GroupedRows) -> list[Column]:
        values = retype(to_arrow(rows.inputs[self.at].column), self.type)
        by = [retype(to_arrow(rows.inputs[i].column), t) for i, t in zip(self.by, self.by_types, strict=True)]
        parts = [values, pa.array(rows.order.time_us), pa.array(rows.order.position), *by]
        items: Array = pa.StructArray.from_arrays(parts, [str(i) for i in range(len(parts))])
        return [self._best(items, rows.groups)]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        return [self._best(*flatten(columns[0], groups))]

    def result(self, column: Column, kind: pa.DataType) -> Array:
        """For each group the list of its best rows, each with its rank from 1, as ``kind``."""
        lists = to_arrow(column)
        items, groups = flatten(column, Groups(np.arange(len(lists)), len(lists)))
        values, _, _, by = self._opened(items)
        ranks = ranks_of(np.arange(len(items)), groups, by, self.all_ties) + 1
        assert isinstance(kind, pa.ListType)
        rows = pa.StructArray.from_arrays(
            [retype(values, kind.value_type.field(0).type), pa.array(ranks)], ["event", "rank"]
        )
        return pa.ListArray.from_arrays(pa.array(groups.starts, pa.int32()), rows)

    def _best(self, items: Array, groups: Groups) -> Array:
        values, time_us, position, by = self._opened(items)
        assert isinstance(values, pa.StructArray)
        fields = values.flatten()
        order = sorted_places(groups, by, time_us, position, lambda rows: [f.take(index_array(rows)) for f in fields])
        best: IndexArray = order[ranks_of(order, groups, by, self.all_ties) < self.n]
        return lists_of(items.take(index_array(best)), Groups(groups.codes[best], groups.count))

    def _opened(self, items: Array) -> tuple[Array, IntArray, IntArray, list[Codes]]:
        assert isinstance(items, pa.StructArray)
        values, time_us, position, *by = items.flatten()
        codes = [codes_of(b, d) for b, d in zip(by, self.descending, strict=True)]
        return values, raw_values(time_us), raw_values(position), codes
