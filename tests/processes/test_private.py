"""The sockets of a run are for its own user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

import millstream as ms

pytestmark = pytest.mark.slow


def sockets(row: Any) -> dict[str, Any]:
    """What a worker finds in the folder for temporary files while the run goes on."""
    (folder,) = Path(os.environ["TMPDIR"]).glob("millstream-*")
    return {"mode": stat.S_IMODE(folder.stat().st_mode), "names": " ".join(sorted(os.listdir(folder)))}


def test_processes_speak_over_ipc_in_a_folder_that_only_their_user_may_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = os.umask(0)
    try:
        flow = ms.Flow("private")
        flow.read_iterable([{"n": 1}]).map(sockets, schema={"mode": int, "names": str}).collect("found")
        (found,) = flow.run(workers=1, state=tmp_path / "state").tables["found"].to_pylist()
    finally:
        os.umask(before)
        monkeypatch.setattr("tempfile.tempdir", None)
    assert found["mode"] == 0o700
    assert {"caller.sock", "coordinator.sock", "worker-0.sock"} <= set(found["names"].split())
    assert list(tmp_path.glob("millstream-*")) == []


def test_a_temporary_directory_with_a_long_name_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    flow = ms.Flow("f")
    flow.read_iterable([{"a": 1}]).collect("rows")
    assert flow.run(workers=1, state=tmp_path).tables["rows"].to_pylist() == [{"a": 1}]
    assert list(long.iterdir()) == []
