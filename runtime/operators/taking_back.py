"""Finding the rows that are taken back: those that say the same, and of these rather one of the same time and place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.accumulators.sorting import Codes
from millstream.batch import Array, BoolArray, IntArray
from millstream.grouping import Groups, IndexArray, factorize, group_codes


def cancelled(
    minus: BoolArray, groups: Groups, by: Sequence[Codes], time_us: IntArray, position: IntArray,
    content: Callable[[IndexArray], Sequence[Array]],
) -> BoolArray:  # fmt: skip
    """Which rows go: those that take another back, and the rows that they take back.

    Args:
        minus: the rows that take back; groups, by: only rows of one group that are equal in ``by`` are alike.
        content: what these rows say.
    """
    # Only rows that are as one of the minus rows are looked into, which are few of those that stand.
    alike = _numbered([groups.codes, *(k for c in by for k in c.columns())])
    wanted = np.zeros(int(alike.max(initial=-1)) + 1, np.bool_)
    wanted[alike[minus]] = True
    rows = np.flatnonzero(wanted[alike])
    same = _numbered([alike[rows], *map(_content_codes, content(rows))])
    gone = np.zeros(len(rows), np.bool_)
    sign = minus[rows]
    _match(_numbered([same, time_us[rows], position[rows]]), sign, gone)
    if not gone[sign].all():
        _match(same, sign, gone)
    result = np.zeros(len(minus), np.bool_)
    result[rows[gone]] = True
    return result


def _match(alike: IntArray, minus: BoolArray, gone: BoolArray) -> None:
    """Pair off the rows of each kind that are left, as many as there are of both signs."""
    left = np.flatnonzero(~gone)
    alike, minus = alike[left], minus[left]
    count = int(alike.max(initial=-1)) + 1
    pairs = np.minimum(np.bincount(alike[minus], minlength=count), np.bincount(alike[~minus], minlength=count))
    for rows in (np.flatnonzero(minus), np.flatnonzero(~minus)):
        kinds = Groups(alike[rows], count)
        nth = np.empty(len(rows), np.int64)
        nth[kinds.order] = np.arange(len(rows)) - np.repeat(kinds.starts[:-1], kinds.sizes)
        gone[left[rows[nth < pairs[kinds.codes]]]] = True


def _numbered(columns: Sequence[npt.NDArray[np.integer]]) -> IntArray:
    """A number for each different row of integer columns, from 0."""
    coded = []
    for values in columns:
        codes, first = factorize([pa.array(values)])
        coded.append((codes, max(1, len(first))))
    return group_codes(coded)[0].codes


def _content_codes(column: Array) -> npt.NDArray[np.integer]:
    if pa.types.is_nested(column.type):
        column = pa.array([repr(v) for v in column.to_pylist()], pa.string())
    return factorize([column])[0]
