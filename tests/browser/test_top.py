"""``millstream top`` beside a real run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from browser.conftest import Running
from click.testing import CliRunner

from millstream.coordinator.cli import main
from millstream.coordinator.ui.top import PageClient
from millstream.errors import CommandError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_top_shows_operators_and_processes_of_a_running_flow(running: Running) -> None:
    client = PageClient(running.state)
    deadline_s = time.monotonic() + 60
    while "worker-1" not in ((client.get("now") or {}).get("processes", ())):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    result = CliRunner().invoke(main, ["top", str(running.state), "--once"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("orders")
    shown = {line.split()[0] for line in lines if line.strip()}
    assert {"generate", "event_time", "map", "agg", "write_jsonl", "coordinator", "worker-0", "worker-1"} <= shown


def test_where_nothing_runs_top_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no flow with a page runs there; start it with millstream run"):
        PageClient(tmp_path)
