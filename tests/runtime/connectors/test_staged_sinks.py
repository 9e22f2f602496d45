"""File sinks under checkpoints: whatever life of a run fails where, readers see each row once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millstream.connectors import CsvSink, JsonLinesSink, ParquetSink
from millstream.connectors.base import Prepared, Sink, Writer
from millstream.errors import SinkError


def rows(*numbers: int) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array(numbers, pa.int64())})


def put(writer: Writer, sink: Sink, batch: pa.RecordBatch) -> None:
    encoder = sink.encoder()
    if encoder is None:
        writer.write(batch)
    else:
        writer.append(encoder.encode(batch), batch.num_rows)


def checkpoint(writer: Writer, *, last: bool = False) -> Prepared:
    """What comes back from the manifest."""
    prepared = writer.prepare(last=last)
    return Prepared(json.loads(json.dumps(prepared.state)), json.loads(json.dumps(prepared.commits)))


def commit(sink: Sink, prepared: Prepared) -> None:
    for action in prepared.commits * 2:  # a restart repeats them
        sink.commit(action)


def seen(path: Path) -> list[int]:
    """What a reader finds, files in the order of their names."""
    found: list[int] = []
    files = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else [path]
    for file in files:
        data = file.read_bytes()
        if file.suffix == ".parquet":
            found += pq.read_table(file)["n"].to_pylist()
            continue
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
        found += [json.loads(x)["n"] if x.startswith("{") else int(x) for x in text.splitlines() if x != "n"]
    return found


def sink_of(kind: type[Any], folder: Path, place: str) -> tuple[Sink, Path]:
    path = folder / (f"x.{kind('x').suffix}{'.gz' if place == 'gzip' else ''}" if place != "parts" else "out")
    return kind(f"{path}/" if place == "parts" else str(path)), path


PLACES = [
    (JsonLinesSink, "file"), (JsonLinesSink, "gzip"), (JsonLinesSink, "parts"), (CsvSink, "file"), (CsvSink, "parts"),
    (ParquetSink, "parts"), (ParquetSink, "file"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "place"), PLACES)
def test_a_run_that_fails_and_goes_on_leaves_each_row_once(tmp_path: Path, kind: type[Any], place: str) -> None:
    sink, path = sink_of(kind, tmp_path, place)
    writer = sink.open_staged(0, 1, None)
    put(writer, sink, rows(1, 2))
    first = checkpoint(writer)
    commit(sink, first)
    put(writer, sink, rows(3))  # lost with the process
    writer.flush()
    del writer

    sink, path = sink_of(kind, tmp_path, place)
    writer = sink.open_staged(0, 1, [first.state])
    put(writer, sink, rows(3, 4))
    second = checkpoint(writer)  # its manifest is written, its commits are not done
    del writer

    sink, path = sink_of(kind, tmp_path, place)
    commit(sink, second)
    writer = sink.open_staged(0, 1, [second.state])
    put(writer, sink, rows(5))
    last = checkpoint(writer, last=True)
    commit(sink, last)
    writer.close()
    assert seen(path) == [1, 2, 3, 4, 5]
    assert [p.name for p in (path if place == "parts" else tmp_path).iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("kind", [JsonLinesSink, CsvSink, ParquetSink])
def test_parts_appear_with_the_checkpoint_that_counts_them_and_not_before(tmp_path: Path, kind: type[Any]) -> None:
    sink, path = sink_of(kind, tmp_path, "parts")
    writer = sink.open_staged(0, 1, None)
    put(writer, sink, rows(1, 2))
    prepared = checkpoint(writer)
    assert seen(path) == []
    commit(sink, prepared)
    assert seen(path) == [1, 2]


def test_no_part_takes_the_name_of_another_whatever_the_number_of_workers(tmp_path: Path) -> None:
    sink, path = sink_of(JsonLinesSink, tmp_path, "parts")
    states: list[dict[str, Any]] | None = None
    written: list[int] = []
    for life, workers in enumerate((4, 2, 4, 1)):
        prepared = []
        for worker in range(workers):
            writer = sink.open_staged(worker, workers, states)
            put(writer, sink, rows(10 * life + worker))
            written.append(10 * life + worker)
            prepared.append(checkpoint(writer))
        for each in prepared:
            commit(sink, each)
        states = [each.state for each in prepared]
    assert sorted(seen(path)) == written


def test_a_run_that_starts_anew_replaces_what_there_was(tmp_path: Path) -> None:
    for kind, place in PLACES:
        sink, path = sink_of(kind, tmp_path, place)
        for number in (1, 2):
            writer = sink.open_staged(0, 1, None)
            put(writer, sink, rows(number))
            commit(sink, checkpoint(writer, last=True))
            writer.close()
        assert seen(path) == [2]


def test_a_file_that_was_cut_short_meanwhile_is_refused(tmp_path: Path) -> None:
    sink, path = sink_of(JsonLinesSink, tmp_path, "file")
    writer = sink.open_staged(0, 1, None)
    put(writer, sink, rows(1, 2))
    state = checkpoint(writer).state
    path.write_text("")
    with pytest.raises(SinkError, match=r"has 0 bytes, and the checkpoint counts on 16"):
        sink.open_staged(0, 1, [state])


def test_a_part_that_is_gone_before_it_was_committed_is_an_error(tmp_path: Path) -> None:
    sink, path = sink_of(JsonLinesSink, tmp_path, "parts")
    writer = sink.open_staged(0, 1, None)
    put(writer, sink, rows(1))
    prepared = checkpoint(writer)
    Path(prepared.commits[0][0]).unlink()
    with pytest.raises(SinkError, match=r"which is not there any more"):
        commit(sink, prepared)
    assert seen(path) == []


def test_parts_that_a_later_and_damaged_checkpoint_had_shown_are_taken_back(tmp_path: Path) -> None:
    sink, path = sink_of(JsonLinesSink, tmp_path, "parts")
    writers = [sink.open_staged(worker, 2, None) for worker in range(2)]
    put(writers[0], sink, rows(1))
    put(writers[1], sink, rows(2))
    counted = [checkpoint(writer) for writer in writers]
    for prepared in counted:
        commit(sink, prepared)
    for worker, writer in enumerate(writers):
        put(writer, sink, rows(3 + worker))
        commit(sink, checkpoint(writer))
    assert seen(path) == [1, 3, 2, 4]
    # The checkpoint that counted 3 and 4 cannot be read: the run goes on from the one before, and they come again.
    writers = [sink.open_staged(worker, 3, [prepared.state for prepared in counted]) for worker in range(3)]
    assert seen(path) == [1, 2]
    put(writers[2], sink, rows(3, 4))
    again = [checkpoint(writer) for writer in writers]
    commit(sink, again[2])
    assert seen(path) == [1, 2, 3, 4]
    sink.open_staged(0, 1, [p.state for p in again])  # fewer workers: what the others had written stays
    assert seen(path) == [1, 2, 3, 4]


def test_what_is_written_behind_the_barrier_is_not_in_what_the_writer_said_at_it(tmp_path: Path) -> None:
    sink, _ = sink_of(ParquetSink, tmp_path, "file")
    writer = sink.open_staged(0, 1, None)
    put(writer, sink, rows(1))
    prepared = writer.prepare(last=False)
    said = json.dumps(prepared.state)
    put(writer, sink, rows(2))  # the checkpoint is still being written
    assert json.dumps(prepared.state) == said
