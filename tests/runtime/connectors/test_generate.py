"""Made-up events: the same for a seed, whatever is asked for at a time."""

from __future__ import annotations

import pickle
import time
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from millstream.connectors.generate import (
    CHUNK_ROWS,
    FIRST_EVENT,
    Choice,
    Counter,
    EventTime,
    GeneratorSource,
    Uniform,
    Zipf,
)
from millstream.errors import FlowError

COLUMNS: dict[str, Any] = {
    "id": Counter(),
    "user": Zipf(1000, prefix="user-"),
    "price": (0.0, 100.0),
    "size": (1, 10),
    "kind": ["a", "b", "c"],
    "rare": Choice([True, False], weights=[0.1, 0.9]),
    "at": EventTime(jitter="1s"),
    "const": "x",
}


def table(source: GeneratorSource, max_rows: int = 65_536, max_bytes: int = 1 << 20) -> pa.Table:
    reader = source.open("generated")
    batches: list[pa.RecordBatch] = []
    while (block := reader.read(max_rows, max_bytes)) is not None:
        assert isinstance(block.payload, pa.RecordBatch)
        assert block.offset == sum(b.num_rows for b in batches)
        assert block.payload.num_rows <= max_rows
        batches.append(block.payload)
    assert reader.ended
    return pa.Table.from_batches(batches, source.schema())


def test_events_do_not_depend_on_blocks_or_on_which_columns_are_read() -> None:
    source = GeneratorSource(COLUMNS, count=CHUNK_ROWS + 100, seed=7)
    whole = table(source)
    assert whole.num_rows == CHUNK_ROWS + 100
    assert table(pickle.loads(pickle.dumps(source)), 999, 10_000).equals(whole)
    assert table(source.with_fields(["price", "user"])).equals(whole.select(["user", "price"]))
    assert not table(GeneratorSource(COLUMNS, count=CHUNK_ROWS + 100, seed=8)).equals(whole)


def test_columns_hold_what_their_rules_say() -> None:
    made = table(GeneratorSource(COLUMNS, count=20_000)).to_pydict()
    assert made["id"] == list(range(20_000))
    assert 0 <= min(made["price"]) < 1 and 99 < max(made["price"]) < 100
    assert set(made["size"]) == set(range(1, 10))
    assert set(made["kind"]) == {"a", "b", "c"}
    assert 1_800 < sum(made["rare"]) < 2_200
    assert made["user"].count("user-0") > 2 * made["user"].count("user-3") > 0
    assert set(made["const"]) == {"x"}
    for i, at in enumerate(made["at"]):
        assert timedelta(0) <= FIRST_EVENT + timedelta(milliseconds=i) - at < timedelta(seconds=1)


def test_event_time_goes_on_by_the_rate() -> None:
    source = GeneratorSource({"at": EventTime()}, rate=4.0, count=3)
    assert source.live
    assert source.chunk(0, 3).column("at").to_pylist() == [FIRST_EVENT + timedelta(seconds=i / 4) for i in range(3)]


def test_a_rate_is_never_exceeded_and_the_reader_says_when_to_ask_again() -> None:
    reader = GeneratorSource({"id": Counter()}, rate=2_000.0).open("generated")
    started_s = time.monotonic()
    rows = 0
    while time.monotonic() - started_s < 0.1:
        block = reader.read(65_536, 1 << 20)
        if block is None:
            due_s = reader.due_s()
            assert due_s is not None
            time.sleep(max(0.0, due_s - time.monotonic()))
            continue
        rows += block.payload.num_rows  # type: ignore[union-attr]
        assert rows <= (time.monotonic() - started_s) * 2_000 + 1
    assert rows >= 100


@pytest.mark.parametrize(
    "make", [lambda: Uniform(2, 2), lambda: Choice([]), lambda: Choice([1], weights=[1, 2]), lambda: Zipf(0),
             lambda: GeneratorSource({}), lambda: GeneratorSource({"a": 1}, rate=0)],
)  # fmt: skip
def test_rules_that_cannot_be_followed_are_refused(make: Any) -> None:
    with pytest.raises(FlowError, match="generate"):
        make()
