"""What can be read only once is kept: nothing of it is lost or doubled, wherever a life of the run ends."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from millstream.connectors.base import Block, Offset, Reader
from millstream.connectors.blocks import split_mark
from millstream.connectors.journal import Journal
from millstream.connectors.messages import split_messages
from millstream.connectors.stdin import StdinSource
from millstream.connectors.zeromq import ZeroMQSource
from millstream.errors import SourceError

RECORDS = [b"one", b"", b"three" * 10, b"4"]


def filled(folder: Path, records: list[bytes] = RECORDS, **bounds: int) -> Journal:
    journal = Journal(folder, **bounds)
    for record in records:
        journal.append(record)
    return journal


def segments(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_what_was_kept_is_there_for_the_next_life(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = Journal(tmp_path)
    assert list(journal.records()) == [r for r in RECORDS if r]
    journal.append(b"five")
    assert b"".join(journal.records(3)) == b"".join(RECORDS[1:]) + b"five"
    assert b"".join(Journal(tmp_path).records(5)) == (b"".join(RECORDS) + b"five")[5:]


@pytest.mark.parametrize("segment_bytes", [1, 60, 1 << 20])
@pytest.mark.parametrize("behind", [0, 20, 50])
def test_segments_go_while_later_ones_are_still_read(tmp_path: Path, segment_bytes: int, behind: int) -> None:
    records = [bytes([65 + i]) * 20 for i in range(20)]
    journal = filled(tmp_path, records, segment_bytes=segment_bytes)
    found: list[bytes] = []
    for record in journal.go_on_from(30):
        found.append(record)
        journal.trim(max(30, 30 + len(b"".join(found)) - behind))  # a checkpoint counts what was read so far
    assert b"".join(found) == b"".join(records)[30:]


@pytest.mark.parametrize("segment_bytes", [1, 60, 1 << 20])
def test_segments_go_when_nothing_in_them_is_needed(tmp_path: Path, segment_bytes: int) -> None:
    records = [bytes([65 + i]) * 20 for i in range(20)]
    journal = filled(tmp_path, records, segment_bytes=segment_bytes)
    everything = b"".join(records)
    for position in range(0, 400, 30):
        journal.trim(position)
        assert journal.begin <= position
        assert position - journal.begin < segment_bytes + 80
        for again in (journal, Journal(tmp_path, segment_bytes=segment_bytes)):
            assert (again.begin, again.end) == (journal.begin, 400)
            assert b"".join(again.records(position)) == everything[position:]
    if segment_bytes < 100:
        with pytest.raises(SourceError, match=r"the journal begins at \d+, and the checkpoint goes on from 0"):
            list(journal.records(0))


@given(cut=st.integers(0, 200), flipped=st.booleans())
def test_a_record_that_was_cut_short_at_the_end_goes_and_all_before_it_stay(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flipped: bool
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    filled(folder).close()
    (path,) = segments(folder)
    whole = path.read_bytes()
    cut = min(cut, len(whole) - 1)
    damaged = whole[:cut] + (bytes([whole[cut] ^ 0xFF]) if flipped else b"")
    path.write_bytes(damaged)
    journal = Journal(folder)
    kept = b"".join(journal.records())
    assert b"".join(RECORDS).startswith(kept)
    assert journal.end == len(kept)
    journal.append(b"more")
    assert b"".join(Journal(folder).records()) == kept + b"more"


def test_damage_before_the_last_segment_is_told_and_not_passed_over(tmp_path: Path) -> None:
    filled(tmp_path, [b"x" * 50] * 3, segment_bytes=10).close()
    first = segments(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"0.journal: damaged behind position 0: what follows cannot be read"):
        list(Journal(tmp_path).records())


def test_what_a_power_cut_took_and_a_checkpoint_counts_is_not_missed(tmp_path: Path) -> None:
    filled(tmp_path).close()
    journal = Journal(tmp_path)
    assert list(journal.go_on_from(1_000)) == []
    journal.append(b"next")
    assert list(Journal(tmp_path).records(1_000)) == [b"next"]


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = filled(tmp_path)
    end = journal.end

    def half(descriptor: int, pieces: Any) -> int:
        return os.write(descriptor, b"".join(pieces)[:7])

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", half)
        write = os.write
        patched.setattr(os, "write", lambda d, data: write(d, data) if len(data) == 7 else full(d, data))
        with pytest.raises(SourceError, match=r"the journal of a source: .*the disk is full"):
            journal.append(b"y" * 100)
    assert journal.end == end
    journal.append(b"after")
    assert b"".join(Journal(tmp_path).records()) == b"".join(RECORDS) + b"after"


# ---------------------------------------------------------------- standard input


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)


def blocks(reader: Reader, max_rows: int = 100) -> list[Block]:
    return list(iter(lambda: reader.read(max_rows, 1_000), None))


def text(found: list[Block]) -> bytes:
    return b"".join(split_mark(bytes(b.payload))[1] for b in found)  # type: ignore[arg-type]


def saved(offset: Offset | None) -> Offset:
    """As it comes back from a manifest."""
    back: Offset = json.loads(json.dumps(offset))
    return back


@pytest.mark.parametrize("form", ["jsonl", "csv", "text"])
def test_standard_input_goes_on_in_the_middle_of_a_line(tmp_path: Path, pipe: tuple[int, int], form: Any) -> None:
    source = StdinSource(format=form, descriptor=pipe[0])
    os.write(pipe[1], b"a,b\n1,2\n3,4\n5,")
    reader = source.open_journaled("stdin", Journal(tmp_path), None)
    first = reader.read(1, 1_000)
    assert first is not None
    counted = saved(reader.offset())
    lost = blocks(reader)  # read, and not in a checkpoint; half a line is in the reader's hands
    assert text(lost) == (b"3,4\n" if form == "csv" else b"1,2\n3,4\n")
    del reader

    os.write(pipe[1], b"6\n7,8")
    os.close(pipe[1])
    journal = Journal(tmp_path)
    reader = source.open_journaled("stdin", journal, counted)
    found = blocks(reader, 1)
    assert text([first]) + text(found) == (b"" if form == "csv" else b"a,b\n") + b"1,2\n3,4\n5,6\n7,8"
    assert reader.ended
    assert [b.line for b in found] == [first.line + 1 + i for i in range(len(found))]
    if form == "csv":
        assert {split_mark(bytes(b.payload))[0] for b in found} == {b"a,b\n"}  # type: ignore[arg-type]
    assert saved(reader.offset())["position"] == journal.end


def test_before_the_first_checkpoint_everything_comes_again(tmp_path: Path, pipe: tuple[int, int]) -> None:
    source = StdinSource(format="text", descriptor=pipe[0])
    os.write(pipe[1], b"a\nb\nc")
    for _ in range(3):
        assert text(blocks(source.open_journaled("stdin", Journal(tmp_path), None))) == b"a\nb\n"
    os.close(pipe[1])


def test_a_source_whose_journal_is_full_waits_for_a_checkpoint(tmp_path: Path, pipe: tuple[int, int]) -> None:
    source = StdinSource(format="text", descriptor=pipe[0])
    journal = Journal(tmp_path, most_bytes=4, segment_bytes=1)
    reader = source.open_journaled("stdin", journal, None)
    os.write(pipe[1], b"aa\nbb\n")
    assert text(blocks(reader)) == b"aa\nbb\n"
    os.write(pipe[1], b"cc\n")
    assert blocks(reader) == []
    assert reader.wait_on() is None  # or it would be asked again and again
    os.write(pipe[1], b"dd\n")
    journal.trim(journal.end)
    assert segments(tmp_path) == []
    assert text(blocks(reader)) == b"cc\ndd\n"
    os.close(pipe[1])


# ---------------------------------------------------------------- ZeroMQ


def messages(reader: Reader, count: int, timeout_s: float = 5.0) -> list[bytes]:
    found: list[bytes] = []
    until_s = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < until_s:
        block = reader.read(2, 1 << 20)
        if block is None:
            time.sleep(0.001)
        else:
            found += split_messages(bytes(block.payload)).data  # type: ignore[arg-type]
    return found


def test_messages_that_were_read_come_again_and_those_in_the_socket_are_put_aside(tmp_path: Path) -> None:
    source = ZeroMQSource(f"ipc://{tmp_path}/events")
    sent = [b"%d" % n for n in range(20)]
    with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
        reader = source.open_journaled("", Journal(tmp_path / "journal"), None)
        peer.connect(source.endpoint)
        for message in sent[:10]:
            peer.send(message)
        assert messages(reader, 4)[:4] == sent[:4]
        counted, after = saved(reader.offset()), reader._offset  # type: ignore[attr-defined]
        assert counted == {"position": after}
        seen = len(split_all(tmp_path / "journal"))
        messages(reader, 2)
        for message in sent[10:]:
            peer.send(message)
        deadline_s = time.monotonic() + 5
        while len(split_all(tmp_path / "journal")) < len(sent) and time.monotonic() < deadline_s:
            reader.read(2, 1 << 20)
        reader.close()
        journal = Journal(tmp_path / "journal")
        reader = source.open_journaled("", journal, counted)
        assert messages(reader, len(sent) - seen) == sent[seen:]
        reader.close()


def split_all(folder: Path) -> list[bytes]:
    return [m for record in Journal(folder).records() for m in split_messages(record).data]


def test_closing_puts_aside_what_lies_in_the_socket(tmp_path: Path) -> None:
    source = ZeroMQSource(f"ipc://{tmp_path}/events")
    with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
        reader = source.open_journaled("", Journal(tmp_path / "journal"), None)
        peer.connect(source.endpoint)
        peer.send(b"first")
        assert reader._socket.poll(5_000)  # type: ignore[attr-defined]
        reader.close()
    assert split_all(tmp_path / "journal") == [b"first"]


def test_messages_that_could_not_be_kept_are_kept_at_the_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ZeroMQSource(f"ipc://{tmp_path}/events")

    def full(descriptor: int, pieces: Any) -> int:
        raise OSError(28, "No space left on device")

    with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
        reader = source.open_journaled("", Journal(tmp_path / "journal"), None)
        peer.connect(source.endpoint)
        peer.send(b"first")
        assert reader._socket.poll(5_000)  # type: ignore[attr-defined]
        with monkeypatch.context() as patched:
            patched.setattr(os, "writev", full)
            with pytest.raises(SourceError, match="the disk is full"):
                reader.read(10, 1 << 20)
        peer.send(b"second")
        assert reader._socket.poll(5_000)  # type: ignore[attr-defined]
        reader.close()
    assert split_all(tmp_path / "journal") == [b"first", b"second"]
