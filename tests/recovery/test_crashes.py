"""Committed output after any crashes is that of an undisturbed run: nothing lost, nothing doubled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.crashing import run_through_crashes

import millstream as ms
from millstream.expr import col

SEEDS = range(15)


def events(folder: Path) -> Path:
    path = folder / "events.jsonl"
    lines = [{"i": i, "at": 1_000 * i - 700 * (i % 5), "k": f"k{i * i % 13}", "v": i % 101} for i in range(400)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(flow: ms.Flow, path: Path) -> ms.Stream:
    return flow.read_jsonl(path).event_time("at", unit="ms", out_of_orderness="1s")


def rows_in(path: Path) -> Counter[str]:
    files = [p for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else [path]
    return Counter(line for file in files for line in file.read_text().splitlines())


def stateless(source: Path, out: Path) -> ms.Flow:
    flow = ms.Flow("crash")
    kept = read(flow, source).filter(col("v") % 2 == 0).with_columns(w=col("v") * 2)
    kept.write_jsonl(f"{out}/parts/")
    kept.write_jsonl(f"{out}/one.jsonl")
    return flow


FLOWS: dict[str, Callable[[Path, Path], Any]] = {"stateless": stateless}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("seed", SEEDS)
def test_crashes_leave_no_trace_in_what_was_committed(tmp_path: Path, name: str, seed: int) -> None:
    make, source = FLOWS[name], events(tmp_path)
    calm = tmp_path / "calm"
    make(source, calm).run_here()
    out = tmp_path / "out"
    story = run_through_crashes(lambda: make(source, out), tmp_path / "state", seed)
    for path in sorted(p.relative_to(calm) for p in calm.iterdir()):
        assert rows_in(out / path) == rows_in(calm / path), f"{path} after {story.lives} lives"
