"""Joins go on from a checkpoint where they were, both sides with it: with other workers, in the middle of everything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from harness.crashing import run_through_crashes

import millstream as ms
from millstream.joins import JoinResult

Maker = Callable[[ms.Stream, ms.Stream], ms.Stream]


def by_key(left: ms.Stream, right: ms.Stream) -> tuple[ms.KeyedStream, ms.KeyedStream]:
    return left.key_by("k"), right.key_by("k")


def interval(how: str) -> Maker:
    def make(left: ms.Stream, right: ms.Stream) -> ms.Stream:
        a, b = by_key(left, right)
        return a.join(b, how, within=("-20s", "10s"))  # type: ignore[arg-type]

    return make


def updating(how: str, ttl: str | None = None, emit: str = "updates") -> Maker:
    def make(left: ms.Stream, right: ms.Stream) -> ms.Stream:
        a, b = by_key(left, right)
        return a.join(b, how, ttl=ttl, emit=emit)  # type: ignore[arg-type]

    return make


def windows(window: Any, how: str, lateness: str = "0s") -> Maker:
    def make(left: ms.Stream, right: ms.Stream) -> ms.Stream:
        a, b = by_key(left, right)
        return a.window(window, allowed_lateness=lateness).join(b, how)  # type: ignore[arg-type]

    return make


def as_of(how: str, tolerance: str | None = None) -> Maker:
    def make(left: ms.Stream, right: ms.Stream) -> ms.Stream:
        a, b = by_key(left, right)
        return a.join_as_of(b, how, tolerance=tolerance)  # type: ignore[arg-type]

    return make


def broadcast(how: str, within: tuple[str, str] | None = None) -> Maker:
    def make(left: ms.Stream, right: ms.Stream) -> ms.Stream:
        return left.key_by("j").join_broadcast(right, "k", how, within=within)  # type: ignore[arg-type]

    return make


def broadcast_to_changes(left: ms.Stream, right: ms.Stream) -> ms.Stream:
    """Left rows that are taken back have to be where their own key sends them, not the key that is compared."""
    panes = left.key_by("j").window(ms.tumbling("40s"), early=ms.every_change(), allowed_lateness="20s")
    last = panes.agg(k=ms.last("k"), n=ms.count()).select("j", "k", "n")
    return last.key_by("j").join_broadcast(right.select("k", "w"), "k").select("k", "n", "w")


def changes(left: ms.Stream, right: ms.Stream) -> ms.Stream:
    """A join of two streams that take back: of a join before it, and of windows that change."""
    a, b = by_key(left, right)
    first = a.join(b, "left", ttl="30s").select("k", "v", "w")
    panes = right.key_by("k").window(ms.tumbling("40s"), early=ms.every_change()).agg(n=ms.count()).select("k", "n")
    return first.key_by("k").join(panes.key_by("k"), "full").select("k", "v", "w", "n")


def behind_stages(left: ms.Stream, right: ms.Stream) -> ms.Stream:
    """Rows that come from keyed stages, before a keyed stage."""
    panes = left.key_by("k").window(ms.tumbling("10s")).agg(n=ms.count(), v=ms.max("v")).select("k", "n", "v")
    return panes.key_by("k").join(right.key_by("k"), "left", within=("-30s", "30s"))


def without_schema(left: ms.Stream, right: ms.Stream) -> ms.Stream:
    """Fields that are not known before the first row."""
    shown = left.map(lambda e: {"k": e.k, "v": e.v, "tags": [e.v, None]}).key_by("k")
    return shown.join(right.map(lambda e: {"k": e.k, "w": e.w}).key_by("k"), within=("-20s", "10s"))


def sessions_behind_stages(left: ms.Stream, right: ms.Stream) -> ms.Stream:
    """Rows of both sides come from keyed stages, without watermarks of their own."""
    sides = []
    for stream, number in ((left, "v"), (right, "w")):
        panes = stream.key_by("k").window(ms.tumbling("3s")).agg(**{number: ms.max(number)})
        sides.append(panes.select("k", number).key_by("k"))
    return sides[0].window(ms.session("5s")).join(sides[1], "full")


def sessions_without_schema(left: ms.Stream, right: ms.Stream) -> ms.Stream:
    shown = left.map(lambda e: {"k": e.k, "v": e.v, "tags": [e.v, None]}).key_by("k")
    return shown.window(ms.session("4s")).join(right.map(lambda e: {"k": e.k, "w": e.w}).key_by("k"))


def lookup(left: ms.Stream, right: ms.Stream) -> ms.Stream:
    table = pa.table({"k": [f"k{n}" for n in range(0, 12, 2)], "size": list(range(6))})
    return left.lookup(table, "k", "left")


JOINS: dict[str, Maker] = {
    **{f"interval_{how}": interval(how) for how in ("inner", "full", "semi", "anti")},
    **{f"updating_{how}": updating(how) for how in ("inner", "full", "semi", "anti")},
    **{f"updating_{how}_ttl": updating(how, "15s") for how in ("left", "semi")},
    "final_full": updating("full", emit="final"),
    "final_anti": updating("anti", emit="final"),
    "final_full_ttl": updating("full", "15s", emit="final"),
    "window_full": windows(ms.tumbling("15s"), "full"),
    "window_hopping": windows(ms.hopping("30s", "10s"), "left", "10s"),
    "session_inner": windows(ms.session("4s"), "inner", "3s"),
    "session_full": windows(ms.session(ms.col("j") * 2_000_000), "full"),
    "session_anti": windows(ms.session("2s"), "anti", "9s"),
    "session_behind_stages": sessions_behind_stages,
    "session_without_schema": sessions_without_schema,
    "as_of_inner": as_of("inner", "40s"),
    "as_of_left": as_of("left"),
    "broadcast_inner": broadcast("inner", ("-10s", "10s")),
    "broadcast_anti": broadcast("anti"),
    "broadcast_semi": broadcast("semi"),
    "broadcast_to_changes": broadcast_to_changes,
    "changes": changes,
    "behind_stages": behind_stages,
    "without_schema": without_schema,
    "lookup": lookup,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two streams, side by side in time; some rows come late, some have no key, and some share their time."""
    folder = tmp_path_factory.mktemp("events")
    back = (0, 2, 0, 0, 7, 1, 0, 0, 30, 0, 3)
    for name, number, mix in (("left", "v", 3), ("right", "w", 5)):
        rows = [
            {"at": max(0, i - back[(i + mix) % 11]), "k": None if i % 37 == mix else f"k{(i * i + mix) % 23}",
             "j": i % 4, number: i, "text": f"{name} {i}"}
            for i in range(250)
        ]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def make(name: str, source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow(f"crash_{name}")
    left, right = (
        flow.read_jsonl(source / f"{side}.jsonl").event_time("at", unit="s", out_of_orderness="6s")
        for side in ("left", "right")
    )
    result = JOINS[name](left, right)
    result.write_jsonl(f"{out}/out/")
    if isinstance(result, JoinResult) and not name.endswith("without_schema"):
        result.late_left.write_jsonl(f"{out}/late_left/")
        result.late_right.write_jsonl(f"{out}/late_right/")
    return flow


def standing(path: Path) -> Counter[str]:
    """What a run finally says; nothing may be taken back that was not said."""
    said: Counter[str] = Counter()
    files = [p for p in path.iterdir() if not p.name.startswith(".")] if path.exists() else []
    for line in (line for file in files for line in file.read_text().splitlines()):
        row = json.loads(line)
        change = row.pop("change", "+")
        row.pop("late_reason", None)
        said[json.dumps(row)] += 1 if change == "+" else -1
    assert all(count >= 0 for count in said.values())
    return +said


@pytest.mark.parametrize("name", JOINS)
@pytest.mark.parametrize("seed", range(2))
def test_a_join_after_crashes_says_what_it_says_without(tmp_path: Path, source: Path, name: str, seed: int) -> None:
    calm, out = tmp_path / "calm", tmp_path / "out"
    make(name, source, calm).run_here()
    story = run_through_crashes(lambda: make(name, source, out), tmp_path / "state", seed, batch_rows=11)
    for path in sorted(p.name for p in calm.iterdir()):
        assert standing(out / path) == standing(calm / path), f"{path} after {story.lives} lives"
    assert standing(calm / "out")
