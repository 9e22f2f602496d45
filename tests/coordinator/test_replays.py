"""The logs of dead letters that are to be replayed, as the coordinator reads them: whole lines, in blocks that fit."""

from __future__ import annotations

from millstream.coordinator.replays import Replays


class Log:
    """The log of one source."""

    def __init__(self, data: bytes, begun: int = 0) -> None:
        self.data = data
        self.replays = Replays(self._read, {"lines": begun})

    def _read(self, source: str, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size] if source == "lines" else b""

    def taken(self, max_rows: int = 100, max_bytes: int = 1_000) -> list[bytes]:
        self.replays.look(("lines",))
        found: list[bytes] = []
        while (block := self.replays.take("lines", max_rows, max_bytes)) is not None:
            assert block.replayed and isinstance(block.payload, bytes)
            found.append(block.payload)
        return found


def test_blocks_hold_whole_letters_of_no_more_bytes_and_letters_than_there_is_room_for() -> None:
    assert Log(b"aa\nbb\ncc\n").taken(max_bytes=7) == [b"aa\nbb\n", b"cc\n"]
    assert Log(b"aa\nbb\ncc\n").taken(max_rows=1) == [b"aa\n", b"bb\n", b"cc\n"]


def test_a_letter_larger_than_the_room_there_is_goes_alone() -> None:
    long = b"x" * 200_000 + b"\n"
    assert Log(b"a\n" + long + b"b\n").taken(max_bytes=10) == [b"a\n", long, b"b\n"]


def test_a_line_that_is_being_written_waits_for_its_end() -> None:
    log = Log(b"aa\nb")
    assert log.taken() == [b"aa\n"]
    log.data += b"b\n"
    assert log.taken() == [b"bb\n"]
    assert log.replays.offsets() == {"lines": 6}


def test_a_long_line_without_an_end_is_not_taken_for_a_letter() -> None:
    assert Log(b"x" * 70_000).taken(max_bytes=1) == []


def test_reading_goes_on_where_a_checkpoint_was_and_new_letters_are_seen_when_somebody_looks() -> None:
    log = Log(b"aa\nbb\n", begun=3)
    assert log.taken() == [b"bb\n"]
    log.data += b"cc\n"
    assert not log.replays.is_pending("lines") and log.replays.take("lines", 1, 1) is None
    log.replays.look(("lines", "others"))
    assert log.replays.is_pending("lines") and not log.replays.is_pending("others")
