"""Sinks of files: what is on disk, when it appears, and what is said when it cannot be written."""

from __future__ import annotations

import gzip
import os
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millstream.connectors import file_sinks
from millstream.connectors.base import Placement
from millstream.connectors.file_sinks import CsvSink, FileSink, JsonLinesSink, ParquetSink, remove_parts
from millstream.errors import SinkError

BATCH = pa.record_batch({"a": [1, 2], "b": ["x", None]})
SINKS = [JsonLinesSink, CsvSink, ParquetSink]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def write(sink: FileSink, *batches: pa.RecordBatch) -> None:
    writer = sink.open(0, 1)
    encoder = sink.encoder()
    for batch in batches:
        if encoder is None:
            writer.write(batch)
        else:
            writer.append(encoder.encode(batch), batch.num_rows)
    writer.close()


def test_one_file_is_written_by_one_worker_and_a_directory_by_each(tmp_path: Path) -> None:
    assert JsonLinesSink(tmp_path / "x").placement is Placement.GATHER
    assert JsonLinesSink(f"{tmp_path}/x/").placement is Placement.PARALLEL
    assert JsonLinesSink(tmp_path).placement is Placement.PARALLEL


def test_lines_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.jsonl"
    writer = JsonLinesSink(path).open(0, 1)
    assert path.read_bytes() == b""
    writer.write(BATCH)
    assert path.read_text() == '{"a":1,"b":"x"}\n{"a":2,"b":null}\n'
    writer.close()


def test_a_csv_file_has_one_header(tmp_path: Path) -> None:
    write(CsvSink(tmp_path / "x.csv", delimiter=";"), BATCH, BATCH)
    assert (tmp_path / "x.csv").read_text() == "a;b\n1;x\n2;\n1;x\n2;\n"


def test_a_parquet_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    writer = ParquetSink(tmp_path / "x.parquet").open(0, 1)
    writer.write(BATCH)
    writer.write(BATCH)
    assert not (tmp_path / "x.parquet").exists()
    writer.close()
    assert names(tmp_path) == ["x.parquet"]
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == BATCH.to_pylist() * 2
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 1


@pytest.mark.parametrize("kind", SINKS)
def test_the_output_of_an_earlier_run_is_replaced_also_by_no_rows(tmp_path: Path, kind: type[Any]) -> None:
    path = tmp_path / "x"
    write(kind(path), pa.record_batch({"a": range(1000)}))
    large = path.stat().st_size
    write(kind(path), BATCH)
    assert path.stat().st_size < large
    write(kind(path))
    assert path.read_bytes() == b"" or pq.read_table(path).num_rows == 0


@pytest.mark.parametrize("kind", SINKS)
def test_parts_appear_under_their_names_when_they_are_whole(tmp_path: Path, kind: type[Any]) -> None:
    out = tmp_path / "out"
    sink = kind(f"{out}/")
    writers = [sink.open(worker, 2) for worker in range(2)]
    for writer in writers:
        writer.write(BATCH)
    assert [n for n in names(out) if not n.startswith(".")] == []
    for writer in writers:
        writer.close()
    assert names(out) == [f"part-0-0.{sink.suffix}", f"part-1-0.{sink.suffix}"]


def test_a_part_ends_when_it_is_large_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_sinks, "PART_BYTES", 40)
    writer = JsonLinesSink(f"{tmp_path}/").open(3, 4)
    for _ in range(3):
        writer.write(BATCH)
    assert names(tmp_path) == [".part-3-1.jsonl", "part-3-0.jsonl"]
    monkeypatch.setattr(file_sinks, "PART_S", 0.0)
    writer.flush()
    assert names(tmp_path) == ["part-3-0.jsonl", "part-3-1.jsonl"]
    writer.close()
    assert b"".join((tmp_path / n).read_bytes() for n in names(tmp_path)).count(b"\n") == 6


def test_workers_that_remove_earlier_parts_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    for _ in range(20):
        for worker in range(4):
            for number in range(50):
                (tmp_path / f"part-{worker}-{number}.jsonl").touch()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda worker: remove_parts(str(tmp_path), worker, 4), range(4)))
        assert list(tmp_path.iterdir()) == []


def test_parts_of_an_earlier_run_with_more_workers_go_and_other_files_stay(tmp_path: Path) -> None:
    for name in ("part-0-0.jsonl", "part-1-5.jsonl", ".part-7-0.jsonl", "part-8-1.jsonl", "notes.txt", "part-x"):
        (tmp_path / name).write_text("old")
    JsonLinesSink(f"{tmp_path}/").open(1, 2).close()
    assert "part-0-0.jsonl" in names(tmp_path)
    JsonLinesSink(f"{tmp_path}/").open(0, 2).close()
    assert names(tmp_path) == ["notes.txt", "part-x"]


@pytest.mark.parametrize("kind", SINKS)
def test_an_aborted_run_leaves_nothing_that_looks_finished(tmp_path: Path, kind: type[Any]) -> None:
    out = tmp_path / "out"
    writer = kind(f"{out}/").open(0, 1)
    writer.write(BATCH)
    writer.abort()
    assert names(out) == []
    if kind is ParquetSink:
        writer = kind(tmp_path / "x").open(0, 1)
        writer.write(BATCH)
        writer.abort()
        assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", [CsvSink, ParquetSink])
@pytest.mark.parametrize(
    ("later", "says"),
    [
        ({"a": [1.5], "b": ["x"]}, "field 'a' was int64 in the first rows and is double now"),
        ({"a": [1], "b": ["x"], "c": [1]}, "field 'c' is new"),
        ({"a": [1]}, "field 'b' is missing"),
        ({"b": ["x"], "a": [1]}, "a, b and are b, a now"),
    ],
)
def test_fields_that_change_on_the_way_are_named(
    tmp_path: Path, kind: type[Any], later: dict[str, Any], says: str
) -> None:
    with pytest.raises(SinkError, match=says):
        write(kind(tmp_path / "x"), BATCH, pa.record_batch(later))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_text_is_compressed_by_the_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.csv.{suffix}"
    writer = CsvSink(path).open(0, 1)
    writer.write(BATCH)
    writer.flush()
    writer.write(BATCH)
    writer.close()
    packed = path.read_bytes()
    stream = pa.CompressedInputStream(pa.BufferReader(packed), "zstd")
    text = gzip.decompress(packed) if suffix == "gz" else stream.read()
    assert text == b"a,b\n1,x\n2,\n1,x\n2,\n"


def test_a_full_disk_is_a_sentence() -> None:
    writer = JsonLinesSink("/dev/full").open(0, 1)
    with pytest.raises(SinkError, match=r"/dev/full: the disk is full; free some space"):
        writer.write(BATCH)


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_torn_line_is_left_where_a_write_fails_half_way(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    writer = JsonLinesSink(path).open(0, 1)
    writer.write(BATCH)
    whole = path.read_bytes()
    with files_of_at_most(len(whole) + 5), pytest.raises(SinkError, match=r"x\.jsonl: the file is larger"):
        writer.write(BATCH)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("kind", SINKS)
def test_places_that_cannot_be_written_are_found_before_the_run(tmp_path: Path, kind: type[Any]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"a part of the path is a file|in the place of the folder"):
        kind(tmp_path / "file" / "x").check()
    with pytest.raises(SinkError, match="a file is in the place of the folder"):
        kind(f"{tmp_path}/file/").check()
    sink = kind(tmp_path / "later")
    (tmp_path / "later").mkdir()
    with pytest.raises(SinkError, match=r"is a directory; end the path with '/'"):
        sink.check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(SinkError, match="no permission"):
        JsonLinesSink(tmp_path / "locked" / "x").check()
