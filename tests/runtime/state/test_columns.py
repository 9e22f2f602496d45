"""Columns of state, against plain lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from millstream.accumulators import Column, to_arrow
from millstream.state.columns import ColumnLog, SlotColumn
from millstream.state.lists import SlotLists


def column(values: list[Any]) -> Column:
    return pa.array(values, pa.int64()) if None in values else np.array(values, np.int64)


@given(
    st.lists(st.dictionaries(st.integers(0, 2_000), st.one_of(st.none(), st.integers(0, 9)), max_size=9), max_size=9)
)
def test_a_slot_holds_what_was_put_last(puts: list[dict[int, Any]]) -> None:
    state, model = SlotColumn(), dict[int, Any]()
    for some in puts:
        state.put(np.array(list(some), np.int64), column(list(some.values())))
        model |= some
        asked = np.array(list(model), np.int64)
        if len(asked):
            assert to_arrow(state.take(asked)).to_pylist() == list(model.values())


def test_a_log_of_text_follows_what_is_live() -> None:
    state = SlotColumn()
    slots = np.arange(100)
    for round_ in range(2_000):
        state.put(slots, pa.array([f"round {round_} of slot {s}" for s in range(100)]))
    assert to_arrow(state.take(slots)).to_pylist() == [f"round 1999 of slot {s}" for s in range(100)]
    assert state.nbytes < 500_000


@given(st.lists(st.lists(st.text("ab", max_size=3), max_size=5), min_size=1, max_size=12), st.data())
def test_a_log_keeps_numbers_whatever_its_parts(batches: list[list[str]], data: st.DataObject) -> None:
    log, model = ColumnLog(), list[str]()
    for batch in batches:
        log.append(pa.array(batch, pa.string()))
        model += batch
    asked = data.draw(st.lists(st.integers(0, len(model) - 1), max_size=20)) if model else []
    assert to_arrow(log.take(np.array(asked, np.int64))).to_pylist() == [model[i] for i in asked]
    log.keep(np.array(asked, np.int64))
    log.append(pa.array(["new"]))
    numbers = np.arange(len(log))
    assert to_arrow(log.take(numbers)).to_pylist() == [*(model[i] for i in asked), "new"]


@given(
    st.lists(st.dictionaries(st.integers(0, 30), st.lists(st.integers(0, 99), max_size=40), max_size=6), max_size=20)
)
def test_lists_grow_and_move_and_stay_what_they_are(puts: list[dict[int, list[int]]]) -> None:
    lists, model = SlotLists(), dict[int, list[int]]()
    for some in puts:
        numbers = [n for values in some.values() for n in values]
        lists.put(
            np.array(list(some), np.int64), np.array([len(v) for v in some.values()], np.int64), np.array(numbers)
        )
        model |= some
        asked = np.array(list(model), np.int64)
        counts, found = lists.take(asked)
        assert counts.tolist() == [len(v) for v in model.values()]
        assert found.tolist() == [n for values in model.values() for n in values]
        assert lists.numbers == len(found)


def test_lists_that_come_and_go_return_their_memory() -> None:
    lists = SlotLists()
    for start in range(0, 100_000, 100):
        slots = np.arange(start, start + 100) % 1_000
        lists.put(slots, np.full(100, 37), np.arange(3_700))
        lists.put(slots, np.zeros(100, np.int64), np.zeros(0, np.int64))
    assert lists.numbers == 0
    assert lists.nbytes < 500_000
