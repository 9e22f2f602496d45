"""The generated streams: what makes figures over them comparable."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bench import data


@pytest.fixture(autouse=True)
def small_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(data, "DIRECTORY", tmp_path)
    monkeypatch.setattr(data, "BASE_ROWS", {"zipf": 3_000, "uuid": 3_000})
    monkeypatch.setattr(data, "FILE_ROWS", 4_000)
    data._base.cache_clear()
    yield
    data._base.cache_clear()


def read(paths: list[Path]) -> pa.Table:
    return pa.concat_tables([pa.ipc.open_file(str(path)).read_all() for path in paths])


@pytest.mark.parametrize("stream", ["zipf", "uuid"])
def test_a_short_stream_is_a_prefix_of_a_long_one(stream: str) -> None:
    short, long = read(data.arrow_files(stream, 500)), read(data.arrow_files(stream, 9_000))
    assert len(data.arrow_files(stream, 9_000)) == 3
    assert short.equals(long.slice(0, 500).combine_chunks())


def test_a_stream_beyond_its_base_is_the_same_events_later() -> None:
    table = read(data.arrow_files("zipf", 6_000))
    first, second = table.slice(0, 3_000), table.slice(3_000)
    assert first["key"].to_pylist() == second["key"].to_pylist()
    later = second["ts"].cast(pa.int64()).to_numpy() - first["ts"].cast(pa.int64()).to_numpy()
    assert set(later.tolist()) == {3_000_000}


def test_no_event_is_more_than_the_out_of_orderness_behind() -> None:
    ts = read(data.arrow_files("zipf", 6_000))["ts"].cast(pa.int64()).to_numpy()
    behind_us = np.maximum.accumulate(ts) - ts
    assert 0 < behind_us.max() < data.OUT_OF_ORDERNESS_MS * 1_000


def test_values_are_eighths_so_that_sums_are_exact_in_any_order() -> None:
    value = read(data.arrow_files("zipf", 3_000))["value"].to_numpy()
    assert np.array_equal(value * 8, np.round(value * 8))


def test_json_lines_and_the_dump_hold_what_the_arrow_files_hold() -> None:
    import json

    table = read(data.arrow_files("uuid", 700))
    rows = [json.loads(line) for line in data.json_file("uuid", 700).read_text().splitlines()]
    millis = (table["ts"].cast(pa.int64()).to_numpy() // 1_000).tolist()
    assert [(r["key"], r["ts"], r["value"]) for r in rows] == list(
        zip(table["key"].to_pylist(), millis, table["value"].to_pylist(), strict=True)
    )
    dump = data.dump_file("uuid", 700).read_bytes()
    count, text_bytes = np.frombuffer(dump, "<i8", 2)
    ends = np.frombuffer(dump, "<i4", 700, 16)
    assert np.frombuffer(dump, "<i8", 700, 16 + 4 * 700).tolist() == millis
    text = dump[-int(text_bytes) :].decode()
    assert count == 700
    assert [text[a:b] for a, b in pairwise([0, *ends.tolist()])] == table["key"].to_pylist()


def test_lines_are_dealt_out_in_blocks_and_none_is_lost() -> None:
    path = data.text_file(2_500)
    first, second = sorted(data.dealt(path, 2).iterdir())
    lines = path.read_text().splitlines()
    assert first.read_text().splitlines() == lines[:1_000] + lines[2_000:]
    assert second.read_text().splitlines() == lines[1_000:2_000]
