"""Latency histograms add up, and a sketch finds the keys with the most rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Keys
from millstream.meters import KeySketch, LatencyHistogram, add_counts, quantile_us


def keys(values: list[str], codes: list[int]) -> Keys:
    return Keys(pa.RecordBatch.from_pydict({"k": values}), np.array(codes, np.int32))


@given(st.lists(st.integers(1, 10**9), min_size=1), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_within_five_percent_of_the_value_at_its_rank(values: list[int], share: float) -> None:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value, 1)
    exact = sorted(values)[max(0, int(np.ceil(share * len(values))) - 1)]
    assert quantile_us(histogram.buckets, share) == pytest.approx(exact, rel=0.05)


def test_histograms_of_two_processes_add_up_to_that_of_both() -> None:
    both, one, other = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    for part, value in ((one, 10), (one, 1_000), (other, 1_000), (other, 70_000)):
        part.add(value, 3)
        both.add(value, 3)
    total: dict[int, int] = {}
    add_counts(total, one.buckets)
    add_counts(total, other.buckets)
    assert total == both.buckets


def test_without_rows_there_is_no_quantile() -> None:
    assert quantile_us({}, 0.5) is None


def test_a_time_of_nothing_counts_as_a_microsecond() -> None:
    histogram = LatencyHistogram()
    histogram.add(-5, 1)  # the wall clock was set back
    assert quantile_us(histogram.buckets, 0.5) == pytest.approx(1, rel=0.05)


def test_the_key_with_most_rows_comes_first_with_what_is_certainly_its() -> None:
    sketch = KeySketch()
    sketch.offer(keys(["a", "b", "c"], [0] * 5 + [1] * 3 + [2]))
    assert sketch.figures() == [9, [["a", 5], ["b", 3], ["c", 1]]]


def test_one_batch_in_eight_is_looked_at() -> None:
    sketch = KeySketch()
    for _ in range(16):
        sketch.offer(keys(["a"], [0, 0]))
    assert sketch.figures() == [4, [["a", 4]]]


def test_a_hot_key_stands_out_among_many_that_come_once() -> None:
    sketch = KeySketch()
    rng = np.random.default_rng(7)
    for batch in range(0, 4_000, 8):
        others = [f"{batch}-{i}" for i in range(20)]
        codes = np.concatenate([np.arange(20), np.full(20, 20)])
        sketch.offer(keys([*others, "hot"], rng.permutation(codes).tolist()))
        for _ in range(7):
            sketch.offer(keys(["skipped"], [0]))
    rows, hottest = sketch.figures()
    assert hottest[0][0] == "hot"
    assert hottest[0][1] / rows == pytest.approx(0.5, abs=0.05)


def test_a_key_of_several_fields_is_shown_with_all_of_them() -> None:
    sketch = KeySketch()
    sketch.offer(Keys(pa.RecordBatch.from_pydict({"a": [1], "b": [None]}), np.zeros(2, np.int32)))
    assert sketch.figures() == [2, [["1, None", 2]]]
