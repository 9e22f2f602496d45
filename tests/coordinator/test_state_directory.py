"""The state directory: what a full disk does to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millstream.coordinator.state_directory import locked
from millstream.errors import ProcessError


def full(descriptor: int, data: Any) -> int:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_said_and_no_attempt_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path) as directory:
        assert directory.next_attempt() == 1
        write: Callable[..., int] = os.write
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ProcessError, match="cannot be written: No space left on device; mend that, and run"):
            directory.next_attempt()
        monkeypatch.setattr(os, "write", write)
        assert directory.next_attempt() == 2
