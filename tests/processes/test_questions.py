"""Questions about state to a run in real processes, as people ask them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from millstream.control import RunningFlow
from millstream.errors import CommandError

from .conftest import Start
from .test_commands import millstream

pytestmark = pytest.mark.slow

FLOW = """
import millstream as ms
from millstream import col
from millstream.connectors import Counter
flow = ms.Flow("asked")
numbers = flow.generate({"n": Counter(), "key": list("abcdefgh")}, rate=200).event_time(col("n"), unit="s")
numbers.key_by("key").agg(n=ms.count()).write_jsonl("out.jsonl")
panes = numbers.key_by("key", odd=col("n") % 2).window(ms.tumbling("1000d"))
panes.agg(n=ms.count(), most=ms.max("n")).write_jsonl("panes.jsonl")
"""


def test_a_run_says_what_it_holds_also_after_a_loss(start: Start, tmp_path: Path) -> None:
    run = start(FLOW, "--workers", "2", "--checkpoint-interval", "1s")
    run.wait_until_working(2)
    running = RunningFlow(tmp_path / ".millstream" / "asked")
    run.wait_for(lambda: running.query("agg").num_rows == 8, "all keys")
    assert set(running.query("agg").column("key").to_pylist()) == set("abcdefgh")  # of both workers
    found = running.query("agg_2", [("a", 0), ("a", 1), ("nobody", 1)], at="1970-01-02")
    assert found.schema.names == ["window_start", "window_end", "key", "odd", "n", "most"]
    assert set(found.column("key").to_pylist()) == {"a"}
    assert running.query("agg_2", [("a", 0)], at="2026-01-01").num_rows == 0
    with pytest.raises(CommandError, match="there is no operator 'ag'; did you mean 'agg' or 'agg_2'"):
        running.query("ag")
    with pytest.raises(CommandError, match="'write_jsonl' keeps nothing by key; "):
        running.query("write_jsonl")
    with pytest.raises(CommandError, match="the key field 'odd' is int64, and 'x' is not"):
        running.query("agg_2", [("a", "x")])

    status, told, said = millstream(tmp_path, "query", "asked", "agg", "--key", "a", "--format", "json")
    assert (status, said) == (0, "") and json.loads(told)["key"] == "a" and json.loads(told)["n"] > 0
    status, told, said = millstream(tmp_path, "query", "asked", "agg", "--key", "nobody")
    assert (status, told, said) == (1, "", "'agg' holds nothing of that\n")
    assert millstream(tmp_path, "query", "asked", "agg", "--most", "2")[2] == "2 rows of 'agg'; there are more\n"

    lost = run.roles["worker-0"]
    lost.kill()
    assert running.query("agg").num_rows == 8  # of the next life, which it has waited for
    assert isinstance(running.query("agg", ["a"]), pa.Table)
    running.stop()
    run.finish()
