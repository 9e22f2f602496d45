"""Deduplication by itself: what it keeps, and when it lets go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, Keys
from millstream.operators.base import Context, Operator
from millstream.operators.dedupe import Dedupe, FirstInOrder
from millstream.specs.ranking import DedupeSpec, FirstSpec


def context() -> Context:
    return Context("dedupe", 0, 1, lambda: 0, lambda letter: None)


def batch(keys: Sequence[str], times: Sequence[int], at: int = 0) -> Batch:
    names = sorted(set(keys))
    return Batch(
        pa.RecordBatch.from_arrays([pa.array([f"{k}{t}" for k, t in zip(keys, times, strict=True)])], names=["row"]),
        np.array(times, np.int64), position=np.arange(at, at + len(keys)),
        keys=Keys(
            pa.RecordBatch.from_arrays([pa.array(names)], names=["k"]), np.array([names.index(k) for k in keys], np.int32)
        ),
    )  # fmt: skip


def push(operator: Operator, one: Batch, watermark_us: int | None = None) -> list[str]:
    """The rows that come out, "-" before those that are taken back."""
    outputs = list(operator.on_batch(one, 0))
    if watermark_us is not None:
        outputs += operator.on_watermark(watermark_us)
    rows: list[str] = []
    for output in outputs:
        assert isinstance(output, tuple)
        made = output[1]
        sign = [1] * made.num_rows if made.sign is None else made.sign.tolist()
        rows += [
            ("-" if s < 0 else "") + str(r) for s, r in zip(sign, made.columns.column("row").to_pylist(), strict=True)
        ]
    return rows


def test_the_last_row_replaces_the_one_before_and_an_older_one_does_not() -> None:
    operator = Dedupe(DedupeSpec(last=True, retracts=True), context())
    assert push(operator, batch(["a", "b", "a"], [3, 4, 2])) == ["a3", "b4"]
    assert push(operator, batch(["a", "b"], [1, 5], at=9)) == ["-b4", "b5"]


def test_of_rows_of_one_time_the_last_in_its_source_is_the_last() -> None:
    operator = Dedupe(DedupeSpec(last=True), context())
    early, late = batch(["a"], [3], at=1), batch(["a"], [3], at=2)
    assert push(operator, late) == ["a3"]
    assert push(operator, early) == []


def test_only_where_rows_are_taken_back_are_they_kept() -> None:
    sizes = []
    for retracts in (False, True):
        operator = Dedupe(DedupeSpec(last=True, retracts=retracts), context())
        push(operator, batch(["x" * 40 + str(i) for i in range(3_000)], list(range(3_000))))
        sizes.append(operator.figures()["state_bytes"])
    assert sizes[1] - sizes[0] > 40 * 3_000


def test_keys_are_freed_when_the_span_has_passed() -> None:
    operator = FirstInOrder(FirstSpec(within_us=10), context())
    for start in range(0, 20_000, 100):
        keys = [f"key-{start + i}" for i in range(100)]
        assert len(push(operator, batch(keys, list(range(start, start + 100)), at=start), start + 100)) == 100
    assert operator.figures()["keys"] == 9
    assert operator.figures()["state_bytes"] < 500_000


def test_a_long_row_of_duplicates_is_counted_off_from_the_one_that_was_accepted() -> None:
    operator = FirstInOrder(FirstSpec(within_us=7), context())
    accepted = push(operator, batch(["a"] * 1_000, list(range(1_000))), 1_000)
    assert accepted == [f"a{t}" for t in range(0, 1_000, 7)]
    assert push(operator, batch(["a"] * 5, list(range(1_000, 1_005)), at=1_000), 2_000) == ["a1001"]
