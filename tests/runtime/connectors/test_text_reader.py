"""Text files in blocks: whatever is asked for, the same records at the same places."""

from __future__ import annotations

import csv as python_csv
import gzip
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.connectors import blocks
from millstream.connectors.base import Block, Reader
from millstream.connectors.file_sources import CsvSource, JsonLinesSource, TextSource
from millstream.connectors.text import csv_records
from millstream.errors import FlowError, SourceError


def read_all(reader: Reader, max_rows: int = 65_536, max_bytes: int = 1 << 20) -> list[Block]:
    found = []
    while (block := reader.read(max_rows, max_bytes)) is not None:
        found.append(block)
    return found


def texts(found: list[Block]) -> list[bytes]:
    return [bytes(block.payload) for block in found]  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text("ab\r ", max_size=30), max_size=30),
    ended=st.booleans(),
    max_rows=st.integers(1, 9),
    max_bytes=st.integers(1, 90),
    packed=st.booleans(),
)
def test_any_cut_gives_every_byte_once_with_its_offset_and_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], ended: bool, max_rows: int, max_bytes: int, packed: bool
) -> None:
    data = ("\n".join(lines) + ("\n" if ended else "")).encode()
    path = tmp_path_factory.mktemp("cut") / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(data) if packed else data)
    found = read_all(TextSource([path]).open(""), max_rows, max_bytes)
    assert b"".join(texts(found)) == data
    for block in found:
        text = bytes(block.payload)  # type: ignore[arg-type]
        assert data[block.offset :].startswith(text)
        assert block.line == 1 + data.count(b"\n", 0, block.offset)
        assert block.origin == str(path)
        assert len(text.split(b"\n")) - text.endswith(b"\n") <= max_rows
        assert text.endswith(b"\n") or block is found[-1]
        assert len(text) <= max_bytes or text.count(b"\n") <= 1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.text('ab",\n', max_size=6), min_size=2, max_size=2), max_size=20),
    max_rows=st.integers(1, 5),
    max_bytes=st.integers(1, 60),
)
def test_csv_records_are_never_torn(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], max_rows: int, max_bytes: int
) -> None:
    text = io.StringIO()
    python_csv.writer(text, lineterminator="\n", quoting=python_csv.QUOTE_ALL).writerows([["a\nb", "c"], *rows])
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_text(text.getvalue(), newline="")
    found = read_all(CsvSource(path).open(""), max_rows, max_bytes)
    read = [row for piece in texts(found) for row in python_csv.reader(io.StringIO(piece.decode(), newline=""))]
    assert read == rows
    assert all(len(csv_records(piece, at_end=True).ends) <= max_rows for piece in texts(found))
    assert [block.line for block in found] == [1 + text.getvalue().encode().count(b"\n", 0, b.offset) for b in found]


def test_files_follow_one_another_each_with_offsets_and_lines_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "p-10").write_text("c")
    (tmp_path / "p-9").write_text("\ufeffa\nb")
    found = read_all(TextSource(f"{tmp_path}/p-*").open(""))
    assert texts(found) == [b"a\n", b"b", b"c"]
    assert [(b.origin[-4:], b.offset, b.line) for b in found] == [("/p-9", 3, 1), ("/p-9", 5, 2), ("p-10", 0, 1)]


def test_every_file_is_a_partition_when_asked_for(tmp_path: Path) -> None:
    for name in ("b2", "b10"):
        (tmp_path / name).write_text(name)
    one, files = TextSource(f"{tmp_path}/b*"), TextSource(f"{tmp_path}/b*", partitions="files")
    assert one.partitions() == [f"{tmp_path}/b*"]
    assert files.partitions() == [f"{tmp_path}/b2", f"{tmp_path}/b10"]
    assert texts(read_all(files.open(f"{tmp_path}/b10"))) == [b"b10"]


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 9])
def test_a_limit_counts_records_but_no_blank_lines(tmp_path: Path, limit: int) -> None:
    (tmp_path / "a").write_text('{"n":1}\n\n \n{"n":2}\n')
    (tmp_path / "b").write_text('\r\n{"n":3}\n{"n":4}')
    source = JsonLinesSource([tmp_path / "a", tmp_path / "b"], limit=limit)
    reader = source.open("")
    decoder = source.decoder(None)
    numbers = [n for b in read_all(reader, 2) for n in decoder.decode(b.payload).columns.column("n").to_pylist()]  # type: ignore[arg-type]
    assert numbers == [1, 2, 3, 4][:limit]
    assert reader.ended


def test_a_line_without_end_is_refused_instead_of_filling_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 1 << 20)
    (tmp_path / "x").write_bytes(b"a\n" + b"x" * (4 << 20))
    with pytest.raises(SourceError, match="line 2 is longer than 1 MiB"):
        read_all(TextSource(tmp_path / "x").open(""), max_bytes=1000)


# ---------------------------------------------------------------- following


def test_a_followed_file_gives_whole_lines_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\nb")
    source = TextSource(path, follow=True)
    reader = source.open("")
    assert source.live
    assert texts(read_all(reader)) == [b"a\n"]
    assert reader.due_s() is not None
    with path.open("a") as file:
        file.write("b")
        file.flush()
        assert reader.read(9, 9) is None
        file.write("\nc\n")
    (block,) = read_all(reader)
    assert (block.payload, block.offset, block.line) == (b"bb\nc\n", 2, 2)
    assert not reader.ended
    reader.close()


def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\n")
    reader = TextSource(path, follow=True).open("")
    assert texts(read_all(reader)) == [b"a\n"]
    with path.open("a") as file:
        file.write("late\nopen")
    path.rename(tmp_path / "log.1")
    assert texts(read_all(reader)) == [b"late\n"]
    path.write_text("new\n")
    found = read_all(reader)
    assert texts(found) == [b"open", b"new\n"]
    assert (found[1].offset, found[1].line) == (0, 1)


def test_a_truncated_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    reader = TextSource(path, follow=True).open("")
    assert len(read_all(reader)) == 1
    os.truncate(path, 0)
    with path.open("a") as file:
        file.write("3\n")
    found = read_all(reader)
    assert [(b.payload, b.offset, b.line) for b in found] == [(b"3\n", 0, 1)]


def test_a_file_that_begins_to_match_comes_next(tmp_path: Path) -> None:
    (tmp_path / "l1").write_text("a\n")
    reader = TextSource(f"{tmp_path}/l*", follow=True).open("")
    assert texts(read_all(reader)) == [b"a\n"]
    (tmp_path / "l2").write_text("b\n")
    assert texts(read_all(reader)) == [b"b\n"]


def test_a_followed_csv_file_may_be_empty_at_first(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("")
    source = CsvSource(path, follow=True)
    assert source.schema() is None
    reader, decoder = source.open(source.partitions()[0]), source.decoder(["b"])
    assert reader.read(10, 1000) is None
    path.write_text("a,b\n1,2\n")
    (block,) = read_all(reader)
    assert decoder.decode(block.payload).columns.to_pylist() == [{"b": 2}]  # type: ignore[arg-type]


def test_a_compressed_file_cannot_be_followed() -> None:
    with pytest.raises(FlowError, match="compressed"):
        TextSource("x.gz", follow=True)
