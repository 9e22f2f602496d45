"""Runs of groups: merged in any way, they hold what one grouping of all rows holds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from millstream import aggregates as ms
from millstream.accumulators import AccumulatorSet
from millstream.batch import Keys, make_columns
from millstream.runs import Run, RunStore, group_run, merge_overlaps, merge_runs, sort_run, unify_keys

Row = tuple[int, str | None, int]
Totals = dict[tuple[int, str | None], tuple[Any, ...]]

rows = st.lists(
    st.tuples(st.integers(-3, 6), st.sampled_from(["a", "b", "c", None]), st.integers(-9, 9)), min_size=1, max_size=15
)


def accumulators() -> AccumulatorSet:
    return AccumulatorSet({"n": ms.count(), "s": ms.sum("v"), "most": ms.max("v")}, [pa.int64()])


def run_of(part: list[Row]) -> Run:
    """One batch's run, its keys in a numbering of its own that also holds a key of no row."""
    distinct = ["unused", *dict.fromkeys(k for _, k, _ in part)]
    codes = np.array([distinct.index(k) for _, k, _ in part], np.int32)
    keys = Keys(make_columns(["k"], [pa.array(distinct, pa.string())]), codes)
    groups, index, keys = group_run(np.array([i for i, _, _ in part], np.int64), keys)
    return sort_run(Run(index, keys, accumulators().partial([pa.array([v for _, _, v in part])], groups)))


def totals(runs: list[Run]) -> Totals:
    if not runs:
        return {}
    merged = merge_runs(runs, accumulators())
    assert (np.diff(merged.index) >= 0).all()
    keys = merged.keys.columns()[0].to_pylist()
    results = [r.to_pylist() for r in accumulators().results(merged.columns)]
    found = list(zip(merged.index.tolist(), keys, zip(*results, strict=True), strict=True))
    assert len({(i, k) for i, k, _ in found}) == len(found), "each group at most once"
    return {(i, k): values for i, k, values in found}


def expected(all_rows: list[Row]) -> Totals:
    grouped: dict[tuple[int, str | None], list[int]] = {}
    for index, key, value in all_rows:
        grouped.setdefault((index, key), []).append(value)
    return {at: (len(values), sum(values), max(values)) for at, values in grouped.items()}


@given(st.lists(rows, min_size=1, max_size=6))
def test_merged_runs_hold_what_one_run_of_all_rows_holds(parts: list[list[Row]]) -> None:
    assert totals([run_of(p) for p in parts]) == expected([r for p in parts for r in p])


@given(st.lists(rows, max_size=6), st.integers(1, 5))
def test_runs_merged_where_they_overlap_follow_one_another_and_hold_the_same(
    parts: list[list[Row]], apart: int
) -> None:
    merged = merge_overlaps([run_of(p) for p in parts], accumulators(), apart)
    assert all(before.index[-1] < after.index[0] for before, after in pairwise(merged))
    of_each = [totals([run]) for run in merged]
    assert {at: v for each in of_each for at, v in each.items()} == expected([r for p in parts for r in p])


def test_a_part_that_only_one_run_has_keeps_its_keys() -> None:
    runs = [run_of([(0, "a", 1), (1, "a", 1)]), run_of([(1, "a", 2), (2, "b", 1), (3, "c", 1)])]
    alone, shared, rest = merge_overlaps(runs, accumulators(), 1)[:3]
    assert alone.keys.distinct is runs[0].keys.distinct and rest.keys.distinct is runs[1].keys.distinct
    assert totals([shared]) == {(1, "a"): (2, 3, 2)}


@given(rows, st.integers(-4, 8))
def test_a_split_has_every_group_on_one_side(part: list[Row], limit: int) -> None:
    below, above = run_of(part).split(limit)
    assert totals([below]) == expected([r for r in part if r[0] < limit])
    assert totals([above]) == expected([r for r in part if r[0] >= limit])


@given(st.lists(rows, min_size=1, max_size=80), st.data())
def test_a_store_gives_each_group_once_whenever_it_is_asked(parts: list[list[Row]], data: st.DataObject) -> None:
    store = RunStore(accumulators())
    held: list[Row] = []
    for part in parts:
        store.add(run_of(part))
        held += part
        assert len(store.runs) <= 49
        if data.draw(st.integers(0, 9)) == 0:
            limit = data.draw(st.integers(-4, 8))
            assert totals(store.take_below(limit)) == expected([r for r in held if r[0] < limit])
            held = [r for r in held if r[0] >= limit]
            assert store.lowest() == min((i for i, _, _ in held), default=None)
    assert totals(store.take_below(100)) == expected(held)
    assert (store.rows, store.nbytes, store.lowest()) == (0, 0, None)


def test_keys_of_different_numberings_and_types_become_one() -> None:
    def keys(values: pa.Array[Any], codes: list[int]) -> Keys:
        return Keys(make_columns(["k"], [values]), np.array(codes, np.int32))

    together = unify_keys(
        [keys(pa.array([1, 2]), [0, 1, 1]), keys(pa.array([2.0, 0.5]), [1, 0]), keys(pa.nulls(1), [0])]
    )
    assert together.columns()[0].to_pylist() == [1.0, 2.0, 2.0, 0.5, 2.0, None]
    assert together.distinct.num_rows == 4
