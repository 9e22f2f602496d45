"""Whoever follows a changelog holds after any crashes what an undisturbed run amounts to; and so with ``emit="final"``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from harness.crashing import run_through_crashes

import millstream as ms
from millstream.expr import col

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events of few keys; some are late, and some far behind their watermark."""
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    back = (0, 0, 3, 0, 1, 9, 0, 0, 30, 0, 2)
    lines = [
        {"id": i, "at": max(0, i - back[i % 11]), "k": f"k{i * i % 17}", "n": i * 7 % 23, "ok": i % 3 == 0, "s": f"s{i % 5}"}
        for i in range(300)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def largest() -> ms.Aggregate:
    """An accumulator of the user's own, a Python object."""
    return ms.aggregate(
        on="s", init=lambda: ("", 0), add=lambda state, s: (max(state[0], s), state[1] + 1),
        merge=lambda a, b: (max(a[0], b[0]), a[1] + b[1]), result=lambda state: f"{state[0]}{state[1]}",
    )  # fmt: skip


def tops(key: Any, window: Any, events: Any) -> dict[str, Any]:
    return {"k": key, "start": str(window.start), "most": max(events["n"].to_pylist())}


def running(keyed: ms.KeyedStream, **options: Any) -> ms.Stream:
    return keyed.agg(
        n=ms.count(), sum=ms.sum("n"), mean=ms.mean("n"), last=ms.last("ok"), first=ms.first("id"), top=ms.max("s"),
        ids=ms.collect("id"), different=ms.count_distinct("n"), own=largest(), **options,
    )  # fmt: skip


BUILDERS: dict[str, Callable[[ms.KeyedStream], ms.Stream]] = {
    "agg": running,
    "agg_final": lambda keyed: running(keyed, emit="final"),
    "agg_ttl": lambda keyed: running(keyed, ttl="25s"),
    "agg_ttl_final": lambda keyed: running(keyed, ttl="25s", emit="final"),
    "agg_of_agg": lambda keyed: keyed.agg(n=ms.count(), sum=ms.sum("n")).key_by("n").agg(
        keys=ms.count(), sum=ms.sum("sum"), most=ms.max("sum"), different=ms.count_distinct("sum"),
    ),
    "top_n": lambda keyed: keyed.top_n(3, by=[ms.desc("n"), "s"], rank="rank"),
    "top_n_ties": lambda keyed: keyed.top_n(2, by="n", ties="all"),
    "top_n_final": lambda keyed: keyed.top_n(2, by=ms.desc("s"), rank="rank", emit="final"),
    "top_n_of_agg": lambda keyed: keyed.agg(n=ms.count(), sum=ms.sum("n")).key_by(g=col("n") % 3).top_n(2, by="sum"),
    "first": lambda keyed: keyed.dedupe(),
    "last": lambda keyed: keyed.dedupe("last"),
    "first_final": lambda keyed: keyed.dedupe(emit="final"),
    "last_final": lambda keyed: keyed.dedupe("last", emit="final"),
    "last_counted": lambda keyed: keyed.dedupe("last").key_by("s").agg(n=ms.count(), sum=ms.sum("n")),
    "within": lambda keyed: keyed.dedupe(within="20s"),
    "window_top_n": lambda keyed: keyed.window(ms.tumbling("20s")).top_n(2, by=ms.desc("n"), rank="rank"),
    "window_function": lambda keyed: keyed.window(ms.tumbling("20s")).process_window(tops),
}  # fmt: skip
REPLACED = ("agg", "agg_ttl", "first", "last")
"""Where the last row of each key is looked at; with a ttl all is taken back in the end."""


def flow(name: str, source: Path, out: Path) -> ms.Flow:
    result = ms.Flow(f"crash_{name}")
    timed = result.read_jsonl(source).event_time("at", unit="s", out_of_orderness="4s")
    BUILDERS[name](timed.key_by("k")).write_jsonl(f"{out}/out.jsonl")
    return result


def standing(name: str, rows: Iterable[dict[str, Any]]) -> Any:
    """What stands in the end: the last row of each key, or what was added less what was taken back."""
    if name in REPLACED:
        return {row["k"]: row for row in rows if row.get("change") != "-"}
    there: Counter[str] = Counter()
    for row in rows:
        what = json.dumps({n: v for n, v in row.items() if n != "change"})
        there[what] += -1 if row.get("change") == "-" else 1
        assert there[what] >= 0, f"{what} is taken back, and was not there"
    return +there


def rows_in(folder: Path) -> Rows:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("seed", range(2))
def test_what_stands_after_crashes_is_what_stands_without(tmp_path: Path, source: Path, name: str, seed: int) -> None:
    flow(name, source, tmp_path / "calm").run_here()
    calm = standing(name, rows_in(tmp_path / "calm"))
    out = tmp_path / "out"
    story = run_through_crashes(lambda: flow(name, source, out), tmp_path / "state", seed)
    assert calm and standing(name, rows_in(out)) == calm, f"after {story.lives} lives"
