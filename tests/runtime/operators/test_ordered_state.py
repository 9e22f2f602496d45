"""Operators over ordered rows, stopped in the middle: what they hold is written, split among workers, and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness.tables import as_file

import millstream as ms
from millstream.batch import Batch, Keys, make_columns
from millstream.checkpoints.tables import from_ipc, owned
from millstream.keys import group_owners, hash_keys, key_groups
from millstream.operators.base import Context, Operator, Output
from millstream.operators.counting import CountWindow
from millstream.operators.previous import WithPrevious
from millstream.operators.sliding import Sliding
from millstream.specs.base import MAIN
from millstream.specs.counting import CountWindowSpec
from millstream.specs.previous import WithPreviousSpec
from millstream.specs.sliding import SlidingSpec
from millstream.times import MAX_US

AGGREGATES = (("n", ms.count()), ("s", ms.sum("v")), ("all", ms.collect("v")), ("last", ms.last("v")))


def context() -> Context:
    return Context("test", 0, 1, lambda: 0, lambda letter: None, frozenset((MAIN, "late")))


MAKERS: dict[str, Callable[[], Operator]] = {
    "sliding": lambda: Sliding(SlidingSpec(ms.sliding("20s"), AGGREGATES), context()),
    "sliding rows": lambda: Sliding(SlidingSpec(ms.sliding(rows=4), AGGREGATES), context()),
    "count": lambda: CountWindow(CountWindowSpec(ms.count_window(5), AGGREGATES), context()),
    "count every": lambda: CountWindow(CountWindowSpec(ms.count_window(5, 3), AGGREGATES), context()),
    "lag": lambda: WithPrevious(WithPreviousSpec((("p", ms.lag("v", 2)), ("d", ms.delta("v")))), context()),
    "lead": lambda: WithPrevious(
        WithPreviousSpec((("p", ms.lag("v")), ("n", ms.lead("v", 2, within="15s")))), context()
    ),
}


def batches(count: int, rows: int) -> list[Batch]:
    dice = np.random.default_rng(3)
    made = []
    for number in range(count):
        position = np.arange(number * rows, (number + 1) * rows)
        time_us = (position - dice.integers(0, 12, rows)) * 1_000_000
        codes = dice.integers(0, 6, rows).astype(np.int32)
        keys = Keys(make_columns(["k"], [pa.array(list("abcdef"))]), codes)
        made.append(Batch(make_columns(["v"], [pa.array(position)]), time_us, position=position, keys=keys))
    return made


def rows_of(outputs: Iterable[Output]) -> list[dict[str, Any]]:
    return [row for output in outputs if isinstance(output, tuple) for row in output[1].all_columns().to_pylist()]


def fed(operators: list[Operator], some: list[Batch]) -> list[dict[str, Any]]:
    """What comes out when each operator gets the batches' rows of its own keys, and the watermark behind each."""
    out: list[dict[str, Any]] = []
    for batch in some:
        assert batch.keys is not None and batch.time_us is not None
        owner = group_owners(len(operators))[key_groups(hash_keys(batch.keys.distinct.columns))][batch.keys.codes]
        for number, operator in enumerate(operators):
            out += rows_of(operator.on_batch(batch.where(owner == number), 0))
            out += rows_of(operator.on_watermark(int(batch.time_us.max()) - 12_000_000))
    return out


def ended(operators: list[Operator]) -> list[dict[str, Any]]:
    return [row for o in operators for row in rows_of(o.on_watermark(MAX_US))]


@pytest.mark.parametrize("maker", MAKERS.values(), ids=list(MAKERS))
@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize("rows", [3, 40])
def test_an_operator_goes_on_from_its_state_with_any_number_of_workers(
    maker: Callable[[], Operator], before: int, after: int, rows: int
) -> None:
    some = batches(12, rows)
    whole = [maker()]
    expected = fed(whole, some) + ended(whole)

    first = [maker() for _ in range(before)]
    out = fed(first, some[:7])
    tables = [(t.name, as_file(t)) for o in first for t in o.snapshot()]
    second = [maker() for _ in range(after)]
    for number, operator in enumerate(second):
        operator.restore([owned(from_ipc(name, data), number, after) for name, data in tables])
    out += fed(second, some[7:]) + ended(second)
    assert sorted(map(str, out)) == sorted(map(str, expected))
    assert len(out) == len(expected) > 0
