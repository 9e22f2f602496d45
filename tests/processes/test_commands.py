"""Commands to a run in real processes, as people give them: checkpoint, savepoint, pause, resume, stop."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from millstream.control import RunningFlow
from millstream.errors import CommandError

from .conftest import Run, Start

pytestmark = pytest.mark.slow

FLOW = """
import millstream as ms
from millstream.connectors import Counter
flow = ms.Flow("counted")
numbers = flow.generate({"n": Counter(), "key": list("abcdefgh")}, rate=20_000)
numbers.key_by("key").agg(n=ms.count(), last=ms.last("n")).write_jsonl("out.jsonl")
"""


def millstream(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "millstream"), *arguments],
        cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def under_way(start: Start, *arguments: str) -> Run:
    run = start(FLOW, "--workers", "2", "--checkpoint-interval", "1h", *arguments)
    run.wait_until_working(2)
    return run


def test_a_run_does_what_it_is_told_and_says_so(start: Start, tmp_path: Path) -> None:
    run = under_way(start)
    assert millstream(tmp_path, "checkpoint", "counted")[1].startswith("checkpoint 1, after ")
    status, told, _ = millstream(tmp_path, "savepoint", "flow.py", "--to", "saved")
    assert status == 0 and told.startswith(f"savepoint {tmp_path / 'saved'}, after ")
    assert (tmp_path / "saved" / "manifest-00000002.json").exists()
    assert millstream(tmp_path, "pause", ".millstream/counted")[0] == 0
    RunningFlow(tmp_path / ".millstream" / "counted").checkpoint()  # everything that was read has been worked on
    paused_at = (tmp_path / "out.jsonl").stat().st_size
    RunningFlow(tmp_path / ".millstream" / "counted").checkpoint()
    assert (tmp_path / "out.jsonl").stat().st_size == paused_at
    assert millstream(tmp_path, "resume", "counted")[0] == 0
    run.wait_for(lambda: (tmp_path / "out.jsonl").stat().st_size > paused_at, "output")
    assert millstream(tmp_path, "stop", "counted") == (0, "stopped at checkpoint 5\n", "")
    status, _, errors = run.finish()
    assert status == 130 and "stopped at checkpoint 5" in errors
    assert "no flow runs" in millstream(tmp_path, "pause", "counted")[2]


def test_a_pause_outlasts_the_loss_of_a_worker(start: Start, tmp_path: Path) -> None:
    run = under_way(start)
    running = RunningFlow(tmp_path / ".millstream" / "counted")
    running.pause()
    running.checkpoint()
    lost = run.roles["worker-0"]
    lost.kill()
    run.wait_for(lambda: (now := run.roles.get("worker-0")) is not None and now.pid != lost.pid, "a new worker")
    running.checkpoint()
    size = (tmp_path / "out.jsonl").stat().st_size
    running.checkpoint()
    assert (tmp_path / "out.jsonl").stat().st_size == size
    running.stop()
    run.finish()


def test_a_savepoint_where_something_is_already_is_refused_before_anything_is_done(
    start: Start, tmp_path: Path
) -> None:
    under_way(start)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("of somebody")
    running = RunningFlow(tmp_path / ".millstream" / "counted")
    with pytest.raises(CommandError, match="is there already, and not empty"):
        running.savepoint(tmp_path / "taken")
    with pytest.raises(CommandError, match="is there already, and not empty"):
        running.stop(to=tmp_path / "taken")
    assert running.checkpoint().epoch == 1


NUMBERED = """
import millstream as ms
from millstream.connectors import Counter
flow = ms.Flow("counted")
numbers = flow.generate({"n": Counter(), "key": list("abcdefgh")}, rate=20_000, count=160_000)
numbers.key_by("key").scan(0, lambda seen, row: (seen + 1, {"key": row.key, "n": row.n, "seen": seen + 1})).write_jsonl("out/")
"""


def rows_in(folder: Path) -> Counter[str]:
    return Counter(line for part in folder.glob("*.jsonl") for line in part.read_text().splitlines())


def test_a_run_goes_on_from_a_savepoint_with_more_workers_and_elsewhere(start: Start, tmp_path: Path) -> None:
    calm = start(NUMBERED.replace("rate=20_000, ", ""), "--workers", "1", "--state", "calm")
    assert calm.finish()[0] == 0
    expected = rows_in(tmp_path / "out")
    assert sum(expected.values()) == 160_000
    for part in (tmp_path / "out").iterdir():
        part.unlink()
    first = start(NUMBERED, "--workers", "2", "--checkpoint-interval", "1s")
    first.wait_for(lambda: bool(rows_in(tmp_path / "out")), "output")
    saved = RunningFlow(tmp_path / ".millstream" / "counted").savepoint(tmp_path / "saved")
    assert saved.path == str(tmp_path / "saved")
    first.wait_for(lambda: len(list((tmp_path / ".millstream/counted/checkpoints").glob("manifest-*"))) > 1, "more")
    RunningFlow(tmp_path / ".millstream" / "counted").stop()
    first.finish()
    assert "sound" in millstream(tmp_path, "checkpoints", "verify", "saved")[1]
    refused = start(NUMBERED, "--from", "saved")
    status, _, errors = refused.finish()
    assert status == 1 and "leave out --from to go on with that, or add --fresh" in errors
    (tmp_path / "saved").rename(tmp_path / "moved")
    second = start(NUMBERED, "--workers", "3", "--from", "moved", "--state", "elsewhere")
    status, _, errors = second.finish()
    assert status == 0, errors
    assert "going on from the savepoint moved" in errors
    assert rows_in(tmp_path / "out") == expected


def test_what_is_no_savepoint_is_refused_by_name(start: Start, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, _, errors = start(NUMBERED, "--from", "empty").finish()
    assert status == 1 and "empty: no savepoint is there" in errors
