"""Windows go on from a checkpoint where they were: with other workers, in the middle of everything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.crashing import run_through_crashes

import millstream as ms

KEYED = Callable[[ms.KeyedStream], ms.WindowedStream]

WINDOWS: dict[str, KEYED] = {
    "tumbling": lambda keyed: keyed.window(ms.tumbling("20s")),
    "final": lambda keyed: keyed.window(ms.tumbling("20s"), allowed_lateness="30s", emit="final"),
    "hopping": lambda keyed: keyed.window(ms.hopping("30s", "10s")),
    "late": lambda keyed: keyed.window(ms.hopping("30s", "20s"), allowed_lateness="20s"),
    "early": lambda keyed: keyed.window(ms.tumbling("40s"), early=ms.every_count(5), allowed_lateness="10s"),
    "discarding": lambda keyed: keyed.window(ms.tumbling("40s"), early=ms.every_change(), panes="discarding"),
    "retracting": lambda keyed: keyed.window(ms.tumbling("40s"), early=ms.every_change(), panes="retracting"),
    "session": lambda keyed: keyed.window(ms.session("8s")),
    "session_late": lambda keyed: keyed.window(ms.session("8s"), allowed_lateness="20s", panes="retracting"),
    "session_early": lambda keyed: keyed.window(ms.session("8s"), early=ms.every_count(2), panes="retracting"),
}


def events(folder: Path) -> Path:
    path = folder / "events.jsonl"
    back = (0, 0, 3, 0, 1, 9, 0, 0, 30, 0, 2)  # by so many seconds an event comes late, and a few by far more
    late = [back[i % 11] if i % 50 < 49 else 80 for i in range(400)]
    lines = [
        {"id": i, "at": max(0, i - late[i]), "k": f"k{i * i % 17}", "n": i % 7, "s": f"s{i % 5}"} for i in range(400)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def own_aggregate() -> ms.Aggregate:
    """An accumulator of the user's own, a Python object: the largest text and how many there were."""
    return ms.aggregate(
        on="s", init=lambda: ("", 0), add=lambda state, s: (max(state[0], s), state[1] + 1),
        merge=lambda a, b: (max(a[0], b[0]), a[1] + b[1]), result=lambda state: f"{state[0]}{state[1]}",
    )  # fmt: skip


def make(name: str, source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow(f"crash_{name}")
    timed = flow.read_jsonl(source).event_time("at", unit="s", out_of_orderness="4s")
    panes = WINDOWS[name](timed.key_by("k")).agg(
        count=ms.count(), total=ms.sum("n"), ids=ms.collect("id"), top=ms.max("s"), own=own_aggregate()
    )
    panes.write_jsonl(f"{out}/panes/")
    panes.late.write_jsonl(f"{out}/late/")
    return flow


def rows_in(path: Path) -> list[dict[str, Any]]:
    files = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.exists() else []
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def standing(name: str, rows: list[dict[str, Any]]) -> Any:
    """What a run finally says: which panes come in between, and so their numbers, is not promised."""
    if name == "discarding":
        counts: Counter[tuple[str, str]] = Counter()
        for row in rows:
            counts[row["window_start"], row["k"]] += row["count"]
        return counts
    said: Counter[str] = Counter()
    last: dict[tuple[str, str], str] = {}
    for row in sorted(rows, key=lambda r: (r["pane"], r.get("change") == "-")):
        text = json.dumps([row[f] for f in ("window_start", "window_end", "k", "count", "total", "ids", "top", "own")])
        said[text] += -1 if row.get("change") == "-" else 1
        last[row["window_start"], row["k"]] = text
    return last if name in ("late", "early") else +said


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return events(tmp_path_factory.mktemp("events"))


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("seed", range(2))
def test_windows_after_crashes_say_what_they_say_without(tmp_path: Path, source: Path, name: str, seed: int) -> None:
    make(name, source, tmp_path / "calm").run_here()
    out = tmp_path / "out"
    story = run_through_crashes(lambda: make(name, source, out), tmp_path / "state", seed)
    calm, found = (standing(name, rows_in(folder / "panes")) for folder in (tmp_path / "calm", out))
    assert found == calm, f"after {story.lives} lives"
    late = [Counter(r["id"] for r in rows_in(folder / "late")) for folder in (tmp_path / "calm", out)]
    assert late[0] == late[1] and late[0]
