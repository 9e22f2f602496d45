"""A flow that was killed goes on after it was changed: what is kept is exact, what is lost was said to be, and nothing else."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.checkpoints.recovery import Recovery, repeat_commits
from millstream.coordinator.beginning import begin
from millstream.coordinator.checkpointing import CheckpointPolicy
from millstream.coordinator.local import LocalCheckpoints, LocalRun
from millstream.coordinator.state_directory import locked
from millstream.coordinator.view import QuietView
from millstream.planner import make_plan

EVENTS = [{"at": 1_000 * i, "k": f"k{i * i % 13}", "v": i % 101} for i in range(400)]
SEEDS = range(4)
Make = Callable[[], ms.Flow]


def read(flow: ms.Flow, folder: Path) -> ms.KeyedStream:
    path = folder / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    return flow.read_jsonl(path).event_time("at", unit="ms").key_by("k")


def run_changing(lives: Sequence[Make], state: Path, seed: int, drop_state: Sequence[str] = ()) -> str:
    """Each flow but the last is killed at some step; the next one goes on from its newest checkpoint.

    Returns:
        What was said.
    """
    chance = random.Random(seed)
    out = (state.parent / "said").open("w+")
    with locked(state) as directory, out:
        for number, make in enumerate(lives):
            plan = make_plan(make(), workers=chance.choice((1, 2, 3)), batch_rows=7)
            manifest = begin(
                plan, directory, QuietView(out), checkpoints=True, fresh=False, drop_state=drop_state if number else ()
            )
            recovery = None
            if manifest is not None:
                repeat_commits(plan, manifest)
                recovery = Recovery(manifest, directory.checkpoints)
            policy = CheckpointPolicy(interval_us=chance.choice((0, 0, 2_000)))
            run = LocalRun(
                plan, lambda letter: None, LocalCheckpoints(directory.checkpoints, policy, number + 1, recovery)
            )
            run.start()
            if number == len(lives) - 1:
                while not run.done:
                    run.step()
                continue
            steps = chance.randint(5, 30)
            while steps > 0 or not directory.checkpoints.epochs():
                assert not run.done, "it has come to its end before it was killed"
                run.step()
                steps -= 1
        out.seek(0)
        return out.read()


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for part in sorted(path.glob("*.jsonl")) for line in part.read_text().splitlines()]


def last_of_each_key(path: Path) -> dict[str, Any]:
    largest: dict[str, dict[str, Any]] = {}
    for row in rows_in(path):
        if row["k"] not in largest or row["n"] > largest[row["k"]]["n"]:
            largest[row["k"]] = row
    return largest


@dataclass
class Seen:
    n: int
    total: int


def to_seen(old: int, version: int) -> Seen:
    assert version == 1
    return Seen(old, 0)


def counted(folder: Path) -> ms.Flow:
    def count(n: int, e: Any) -> tuple[int, Any]:
        return n + 1, {"k": e.k, "n": n + 1}

    flow = ms.Flow("counted")
    read(flow, folder).scan(0, count, schema={"k": str, "n": int}, name="seen").write_jsonl(f"{folder}/out/")
    return flow


def summed(folder: Path, migrate: Any = to_seen) -> ms.Flow:
    def add(seen: Seen, e: Any) -> tuple[Seen, Any]:
        now = Seen(seen.n + 1, seen.total + e.v)
        return now, {"k": e.k, "n": now.n}

    flow = ms.Flow("counted")
    rows = read(flow, folder).scan(
        lambda: Seen(0, 0), add, schema={"k": str, "n": int}, version=2, migrate=migrate, name="seen"
    )
    rows.write_jsonl(f"{folder}/out/")
    return flow


def counts() -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for event in EVENTS:
        found[str(event["k"])] += 1
    return dict(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_states_of_an_older_version_are_brought_to_the_new_one_key_by_key(tmp_path: Path, seed: int) -> None:
    old, new = lambda: counted(tmp_path), lambda: summed(tmp_path)
    said = run_changing([old, old, new, new], tmp_path / "state", seed)
    assert "its state: version 1 is brought to 2 by migrate=" in said
    assert {k: row["n"] for k, row in last_of_each_key(tmp_path / "out").items()} == counts()
    assert len(rows_in(tmp_path / "out")) == len(EVENTS)


def test_a_version_that_nothing_leads_to_is_refused_before_anything_starts(tmp_path: Path) -> None:
    old = lambda: counted(tmp_path)  # noqa: E731
    with pytest.raises(ms.CheckpointError, match=r"seen \(scan\): its state: version 1 then, 2 now, and no migrate="):
        run_changing([old, lambda: summed(tmp_path, None)], tmp_path / "state", 1)


class Before(ms.Process):
    n = ms.value_state(0)
    last = ms.list_state()
    most = ms.map_state(ttl="1h")

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.n.value += 1
        self.last[:] = [event.v]
        self.most["v"] = event.v
        ctx.emit({"k": event.k, "n": self.n.value})


class After(ms.Process):
    n = ms.value_state(lambda: Seen(0, 0), version=2, migrate=to_seen)
    last = ms.list_state(version=3, migrate=lambda old, version: (old, version))
    most = ms.map_state(ttl="1h", version=2, migrate=lambda old, version: str(old))

    def on_event(self, event: Any, ctx: ms.ProcessContext) -> None:
        self.n.value.n += 1
        assert all(type(v) is tuple for v in self.last) and all(type(v) is str for v in self.most.values())
        self.last[:] = [(event.v, 3)]
        self.most["v"] = str(event.v)
        ctx.emit({"k": event.k, "n": self.n.value.n})


def processed(folder: Path, process: type[ms.Process]) -> ms.Flow:
    flow = ms.Flow("processed")
    made = read(flow, folder).process(process, schema={"k": str, "n": int}, name="seen")
    made.write_jsonl(f"{folder}/out/")
    return flow


@pytest.mark.parametrize("seed", SEEDS)
def test_states_of_a_process_are_migrated_value_by_value(tmp_path: Path, seed: int) -> None:
    lives = [
        lambda: processed(tmp_path, Before),
        lambda: processed(tmp_path, After),
        lambda: processed(tmp_path, After),
    ]
    run_changing(lives, tmp_path / "state", seed)
    assert {k: row["n"] for k, row in last_of_each_key(tmp_path / "out").items()} == counts()


def test_an_older_flow_does_not_take_up_what_a_newer_one_has_written(tmp_path: Path) -> None:
    lives = [lambda: processed(tmp_path, After), lambda: processed(tmp_path, Before)]
    with pytest.raises(ms.CheckpointError, match=r"state last: version 3 then, 1 now: a newer flow has written it"):
        run_changing(lives, tmp_path / "state", 2)


def aggregated(folder: Path, **others: ms.aggregates.Aggregate) -> ms.Flow:
    flow = ms.Flow("aggregated")
    keyed = read(flow, folder)
    keyed.agg(n=ms.count(), name="counts").write_jsonl(f"{folder}/counts/")
    if others:
        keyed.agg(**others, name="more").write_jsonl(f"{folder}/more/")
    return flow


@pytest.mark.parametrize("seed", SEEDS)
def test_what_did_not_change_is_exact_beside_what_came_went_and_became_another(tmp_path: Path, seed: int) -> None:
    lives = [
        lambda: aggregated(tmp_path),
        lambda: aggregated(tmp_path, n=ms.sum("v")),
        lambda: aggregated(tmp_path, n=ms.max("v")),
        lambda: aggregated(tmp_path),
    ]
    with pytest.raises(ms.CheckpointError, match="more.*--drop-state more"):
        run_changing(lives[:3], tmp_path / "refused", seed)
    said = run_changing(lives, tmp_path / "state", seed, ["more", "write_jsonl_2"])
    assert 'aggregate n: sum("v") then, max("v") now' in said
    assert {k: row["n"] for k, row in last_of_each_key(tmp_path / "counts").items()} == counts()
