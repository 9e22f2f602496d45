"""The state directory: what a full disk does to it."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from millstream.coordinator.state_directory import locked
from millstream.deadletters import DeadLetterFile
from millstream.errors import ProcessError
from millstream.operators.base import DeadLetter


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_said_and_no_attempt_is_counted(tmp_path: Path) -> None:
    with locked(tmp_path) as directory:
        assert directory.next_attempt() == 1
        with full_disk(), pytest.raises(ProcessError, match="cannot be written: File too large; mend that, and run"):
            directory.next_attempt()
        assert directory.next_attempt() == 2


def test_a_directory_is_held_also_where_the_disk_has_no_room_for_the_holder(tmp_path: Path) -> None:
    with full_disk(), locked(tmp_path), pytest.raises(ProcessError, match="the flow runs already"), locked(tmp_path):
        pass


def test_dead_letters_from_after_a_checkpoint_are_taken_out(tmp_path: Path) -> None:
    with locked(tmp_path) as directory:
        path = tmp_path / "dead-letters" / "worker-0.jsonl"
        letters = DeadLetterFile(path)
        for record, after in (("early", 0), ("first", 1), ("second", 2)):
            letters(DeadLetter("map", "", 0, -1, "no", record, after))
        letters.close()
        with path.open("a") as file:
            file.write('{"operator": "map", "rea')
        directory.cut_back_letters(2)
        assert [json.loads(line)["record"] for line in path.read_text().splitlines()] == ["early", "first"]
        directory.cut_back_letters(0)
        assert path.read_text() == ""
