"""Blocks of files that workers read for themselves."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from millstream.connectors.base import Block
from millstream.connectors.file_range import LEAST_BYTES, FileRange
from millstream.connectors.text_reader import TextReader
from millstream.errors import SourceError
from millstream.times import MIN_US
from millstream.watermarks import InputStatus
from millstream.wire import Data, decode

LINES = b"".join(b'{"n":%d}\n' % n for n in range(100_000))


def blocks(path: Path, follow: bool = False) -> list[Block]:
    reader = TextReader([str(path)], "infer", follow=[str(path)] if follow else None)
    found: list[Block] = []
    while (block := reader.read(65_536, 256 << 10)) is not None:
        found.append(block)
    reader.close()
    return found


def sent(block: Block) -> Block:
    """The block as the receiver of a message has it."""
    data = Data(0, "coordinator", (-1, 0), 0, False, MIN_US, InputStatus.ACTIVE, block)
    frames = data.encode(1)
    received = decode(frames, 1)
    assert isinstance(received, Data) and isinstance(received.payload, Block)
    assert received.size_bytes == data.size_bytes >= block.nbytes, "it counts in credit as if it had been sent"
    assert sum(len(bytes(frame)) for frame in frames) < LEAST_BYTES
    return received.payload


def test_large_blocks_of_a_plain_file_are_read_where_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINES)
    found = blocks(path)
    large = [block for block in found if block.nbytes >= LEAST_BYTES]
    assert len(large) > 3
    assert b"".join(bytes(sent(b).text()) if b in large else bytes(b.text()) for b in found) == LINES
    assert [sent(b).nbytes for b in large] == [b.nbytes for b in large]


def test_a_relative_path_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.jsonl").write_bytes(LINES)
    monkeypatch.chdir(tmp_path)
    block = sent(blocks(Path("events.jsonl"))[0])
    monkeypatch.chdir("/")
    assert LINES.startswith(bytes(block.text()))


def test_what_is_not_as_it_is_in_the_file_or_does_not_stay_is_sent(tmp_path: Path) -> None:
    packed, plain, small = tmp_path / "events.jsonl.gz", tmp_path / "events.jsonl", tmp_path / "few.jsonl"
    packed.write_bytes(gzip.compress(LINES))
    plain.write_bytes(LINES)
    small.write_bytes(LINES[:1000])
    found = [*blocks(packed), *blocks(plain, follow=True), *blocks(small)]
    assert found and all(block.found_at is None for block in found)


def test_a_file_that_changes_under_a_run_ends_it_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(LINES)
    last = blocks(path)[2].found_at
    assert last is not None
    os.truncate(path, last.start + 10)
    with pytest.raises(SourceError, match="events.jsonl: was cut short while it was read; leave files as they are"):
        last.read()
    path.rename(tmp_path / "events.jsonl.1")
    path.write_bytes(LINES)
    with pytest.raises(SourceError, match="was replaced by another file while it was read"):
        last.read()
    path.unlink()
    with pytest.raises(SourceError, match="there is no such file"):
        last.read()


def test_a_range_says_how_long_it_is() -> None:
    assert Block(FileRange("/x", 1, 2, 3, 70_000), 3, 1, "x").nbytes == 70_000
