"""Rows that say the same: which of the rows that are kept is the one that a row takes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, IntArray
from millstream.keys import HashArray, hash_keys
from millstream.operators.joins.rows import KeptRows, RowNumbers
from millstream.operators.joins.sorted_rows import SortedRows

_MIX = np.uint64(0xBF58476D1CE4E5B9)
_ODD = np.uint64(0x9E3779B97F4A7C15)
_LIST = np.uint64(0x6A09E667F3BCC909)


def content_hash(columns: Sequence[Array], count: int) -> IntArray:
    """A number for what each row says, int64[n] from 0 up: the same for rows that are equal in all fields."""
    hashes = np.zeros(count, np.uint64)
    for column in columns:
        hashes = (hashes * _ODD) ^ _hash(column)
        hashes = (hashes ^ (hashes >> np.uint64(31))) * _MIX
    return (hashes >> np.uint64(1)).view(np.int64)


def _hash(column: Array) -> HashArray:
    """A hash of each value, of lists and structs, too."""
    kind = column.type
    if pa.types.is_struct(kind):
        assert isinstance(column, pa.StructArray)
        hashes = content_hash(column.flatten(), len(column)).view(np.uint64)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lists: Any = column
        # The place of a list's value decides by what its hash is multiplied, so that order counts.
        parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        values = _hash(lists.flatten())
        starts = np.searchsorted(parents, np.arange(len(column)))
        place = (np.arange(len(parents)) - starts[parents]).astype(np.uint64)
        hashes = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint64) * _ODD
        np.add.at(hashes, parents, values * (place * np.uint64(2) + np.uint64(1)))
        hashes = (hashes ^ _LIST ^ (hashes >> np.uint64(31))) * _MIX
    else:
        return hash_keys([column])
    if column.null_count:
        hashes[pc.is_null(column).to_numpy(zero_copy_only=False)] = _ODD
    return hashes


def rows_to_take_back(key: IntArray, content: IntArray, where: SortedRows, kept: KeptRows) -> RowNumbers:
    """For each row that takes one back, the number of that one; -1 where there is none (any more).

    Of several that say the same, those that came first go first, and no row is taken back twice.

    Args:
        key, content: the key number and content of each row.
        where: the rows that are kept, by key and content.
    """
    order = np.lexsort((content, key))
    key, content = key[order], content[order]
    first = np.ones(len(key), np.bool_)
    first[1:] = (key[1:] != key[:-1]) | (content[1:] != content[:-1])
    starts = np.flatnonzero(first)
    group = np.cumsum(first) - 1
    rank = np.arange(len(key)) - starts[group]
    groups: list[IntArray] = []
    rows: list[IntArray] = []
    for found in where.find(key[starts], content[starts], content[starts]):
        for query, row in found.pairs():
            there = ~kept.gone.values[row]
            groups.append(query[there])
            rows.append(row[there])
    result = np.full(len(key), -1, np.int64)
    if rows:
        candidate_group, candidate = np.concatenate(groups), np.concatenate(rows)
        by_group = np.lexsort((candidate, candidate_group))
        candidate_group, candidate = candidate_group[by_group], candidate[by_group]
        at = np.searchsorted(candidate_group, group) + rank
        there = at < np.searchsorted(candidate_group, group, "right")
        result[order[there]] = candidate[at[there]]
    return result
