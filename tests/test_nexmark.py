"""The Nexmark queries over the public generator's events, against the answers of Flink SQL and DuckDB.

All queries run in one flow, so that they also share one source, its decoding and its exchanges.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.json as pj
import pytest
from click.testing import CliRunner
from harness.resuming import run_resumed
from harness.running import Way

import millstream as ms
from bench.nexmark.__main__ import main
from bench.nexmark.answers import answering, canonical
from bench.nexmark.data import event_file
from bench.nexmark.events import AuctionHouse
from bench.nexmark.queries import QUERIES
from millstream.coordinator.local import LocalRun
from millstream.planner import make_plan

_BESIDE = Path(__file__).parent.parent.parent / "shared" / "nexmark"
_NEXMARK = Path(os.environ.get("MILLSTREAM_NEXMARK", _BESIDE))
EVENTS = _NEXMARK / "events-100k.jsonl.gz"

needs_data = pytest.mark.skipif(not EVENTS.exists(), reason="needs the Nexmark events (MILLSTREAM_NEXMARK)")

# By the clock on the wall: its windows are never the same twice, and it has a test of its own.
BY_THE_CLOCK = "q12"
WAYS = [Way(1, 65_536), Way(3, 65_536, "workers"), Way(3, 7_000)]

# The queries that revise what they said, and the fields by which a row replaces an earlier one; none: it is taken back.
REVISED: dict[str, tuple[str, ...]] = {
    "q4": (),
    "q9": (),
    "q15": ("day",),
    "q16": ("channel", "day"),
    "q17": ("auction", "day"),
    "q18": ("auction", "bidder"),
    "q19": (),
}


def run(flow: ms.Flow, way: Way) -> None:
    letters: list[object] = []
    LocalRun(make_plan(flow, workers=way.workers, batch_rows=way.batch_rows, ingest=way.ingest), letters.append).run()
    assert letters == []


def published(query: str) -> list[str]:
    with gzip.open(_NEXMARK / "golden" / f"{query}.jsonl.gz", "rt") as file:
        return file.read().splitlines()


def assert_same_rows(found: Iterable[str], expected: Iterable[str]) -> None:
    have, want = Counter(found), Counter(expected)
    assert (list(have - want)[:3], list(want - have)[:3]) == ([], [])


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way.workers} by {way.batch_rows}")
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the answers to all queries, run in one of several ways."""
    out = tmp_path_factory.mktemp("answers")
    run(answering(EVENTS, out, list(QUERIES)), request.param)
    return out


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("query", [name for name in QUERIES if name != BY_THE_CLOCK])
def test_a_query_gives_the_published_answer(query: str, answers: Path) -> None:
    assert_same_rows(canonical(answers / f"{query}.jsonl"), published(query))


@pytest.fixture(scope="module")
def resumed_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the answers of a run that was killed half-way and went on from a checkpoint with another worker."""
    out, state = tmp_path_factory.mktemp("resumed"), tmp_path_factory.mktemp("state")
    letters: list[object] = []
    run_resumed(lambda: answering(EVENTS, out, list(QUERIES)), state, letters.append, blocks=8, batch_rows=7_000)
    assert letters == []
    return out


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("query", [name for name in QUERIES if name != BY_THE_CLOCK])
def test_a_query_that_goes_on_from_a_checkpoint_gives_the_published_answer(query: str, resumed_answers: Path) -> None:
    assert_same_rows(canonical(resumed_answers / f"{query}.jsonl"), published(query))


@pytest.fixture(scope="module")
def changelogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all that the queries say on the way to their final answers."""
    out = tmp_path_factory.mktemp("changelogs")
    run(answering(EVENTS, out, list(REVISED), emit="updates"), Way(3, 20_000))
    return out


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("query", REVISED)
def test_a_changelog_adds_up_to_the_published_answer(query: str, changelogs: Path) -> None:
    keys, standing = REVISED[query], Counter[str]()
    latest: dict[tuple[object, ...], str] = {}
    for line in (changelogs / f"{query}.jsonl").read_text().splitlines():
        row = json.loads(line)
        change = row.pop("change", None)
        text = json.dumps(row, separators=(",", ":"), ensure_ascii=False)
        if change is None:
            key = tuple(row[name] for name in keys)
            standing[latest.pop(key, "")] -= 1
            latest[key] = text
        standing[text] += -1 if change == "-" else 1
        assert standing[text] >= 0, "only what stands can be taken back"
    assert_same_rows((+standing).elements(), published(query))


@pytest.mark.slow
@needs_data
def test_windows_of_the_clock_count_every_bid_once(answers: Path) -> None:
    windows: Any = pj.read_json(answers / f"{BY_THE_CLOCK}.jsonl")
    assert set(pc.subtract(windows["endtime"], windows["starttime"]).to_pylist()) == {10_000}
    assert {start % 10_000 for start in windows["starttime"].to_pylist()} == {0}
    counted: Any = windows.group_by("bidder").aggregate([("bid_count", "sum")]).to_pylist()
    assert {row["bidder"]: row["bid_count_sum"] for row in counted} == bids_by_bidder(answers)


def bids_by_bidder(answers: Path) -> dict[int, int]:
    """How many bids each bidder made, by q0, which puts out every bid."""
    bids: Any = pj.read_json(answers / "q0.jsonl")
    return Counter(bids["bidder"].to_pylist())


@pytest.mark.parametrize("query", QUERIES)
def test_no_query_runs_python_for_a_row(query: str) -> None:
    flow = ms.Flow(query)
    QUERIES[query](AuctionHouse(flow, event_file(1_000))).write_null()
    plan = make_plan(flow, workers=2)
    assert {node.name: node.spec.way for node in plan.nodes.values() if node.spec.way != "columns"} == {}


@pytest.mark.slow
@needs_data
def test_the_command_line_writes_sorted_answers(tmp_path: Path) -> None:
    arguments = ["--data", str(EVENTS), "--out", str(tmp_path), "--queries", "q2,q17", "--workers", "2"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    for query in ("q2", "q17"):
        assert (tmp_path / f"{query}.jsonl").read_text().splitlines() == published(query)


def test_the_generated_events_hold_what_the_public_ones_hold() -> None:
    events = pj.read_json(event_file(1_000))
    assert Counter(events["event_type"].to_pylist()) == {0: 20, 1: 60, 2: 920}
    assert events["ts"].to_pylist() != sorted(events["ts"].to_pylist())
    assert len(set(events["ts"].to_pylist())) == 1_000


def test_the_tutorial_shows_the_code_as_it_is() -> None:
    root = Path(__file__).parent.parent
    code = "".join((root / "bench" / "nexmark" / f"{name}.py").read_text() for name in ("events", "queries"))
    shown = re.findall(r"```python\n(.*?)```", (root / "docs" / "nexmark.md").read_text(), re.DOTALL)
    assert len(shown) > 10
    assert [block for block in shown if block not in code] == []
