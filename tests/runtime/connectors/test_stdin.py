"""Standard input through a pipe: what is there is read, and nothing waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from millstream.connectors.stdin import StdinSource
from millstream.schema import to_schema


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def test_lines_come_as_they_are_written_and_the_last_at_the_end(pipe: tuple[int, int]) -> None:
    source = StdinSource(format="text")
    source.descriptor = pipe[0]
    reader = source.open("stdin")
    assert reader.wait_on() == pipe[0]
    assert reader.read(10, 1000) is None
    os.write(pipe[1], b"a\nb")
    block = reader.read(10, 1000)
    assert block is not None
    assert (bytes(block.payload), block.offset, block.line) == (b"a\n", 0, 1)  # type: ignore[arg-type]
    assert reader.read(10, 1000) is None
    assert not reader.ended
    os.close(pipe[1])
    block = reader.read(10, 1000)
    assert block is not None
    assert (bytes(block.payload), block.offset, block.line) == (b"b", 2, 2)  # type: ignore[arg-type]
    assert reader.read(10, 1000) is None
    assert reader.ended


@pytest.mark.parametrize(
    ("form", "text"),
    [("jsonl", b'{"n":1,"s":"x"}\n{"n":2,"s":"y"}\n{"n":3,"s":"z"}\n'), ("csv", b"n,s\n1,x\n2,y\n3,z\n")],
)
@pytest.mark.parametrize("declared", [None, to_schema({"n": pa.float64(), "s": pa.string()})])
@pytest.mark.parametrize("max_rows", [1, 100])
def test_records_are_decoded_with_a_schema_or_by_the_first_block(
    pipe: tuple[int, int], form: Any, text: bytes, declared: pa.Schema | None, max_rows: int
) -> None:
    source = StdinSource(format=form, schema=declared, descriptor=pipe[0])
    assert source.schema() == declared
    reader, decoder = source.open("stdin"), source.decoder(["n"])
    os.write(pipe[1], text)
    os.close(pipe[1])
    rows = []
    while (block := reader.read(max_rows, 1000)) is not None:
        decoded = decoder.decode(block.payload)  # type: ignore[arg-type]
        assert decoded.bad == []
        rows += decoded.columns.to_pylist()
    assert rows == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_first_block_of_bad_records_does_not_settle_the_schema(pipe: tuple[int, int]) -> None:
    decoder = StdinSource().decoder(None)
    columns, bad = decoder.decode(b"oops\n")
    assert (columns.num_rows, len(bad)) == (0, 1)
    assert decoder.decode(b'{"n":1}\n').columns.to_pylist() == [{"n": 1}]
    os.close(pipe[1])
