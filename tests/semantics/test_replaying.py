"""Dead letters given again to the operators that had refused them: the same rows come out as if these had taken them at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from harness.running import collected, late_count

import millstream as ms
from millstream.commands import Replay
from millstream.coordinator.local import LocalRun
from millstream.coordinator.replaying import Entries, Outcome, replay
from millstream.coordinator.replays import Replays, logs_in
from millstream.deadletters import LETTERS, DeadLetterFile, from_json
from millstream.expr import col
from millstream.operators.base import DeadLetter
from millstream.planner import make_plan

WAYS = [(1, "coordinator"), (2, "coordinator"), (2, "workers")]


@dataclass
class World:
    """A state directory, and a flow that is run in it twice: broken, and then mended, with its dead letters only."""

    state: Path
    broken: bool = True
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    late: int = 0
    lives: int = 0

    def run(self, build: Callable[[ms.Flow], None], workers: int, ingest: Any, replays: Replays | None = None) -> None:
        flow = ms.Flow("mended")
        build(flow)
        plan = make_plan(flow, workers=workers, ingest=ingest, batch_rows=4)
        self.lives += 1
        letters = DeadLetterFile(self.state / LETTERS / "worker-0.jsonl", self.lives)
        local = LocalRun(plan, letters, replays=replays)
        local.run()
        letters.close()
        for name, rows in collected(plan, local.caller.runner).items():
            self.rows.setdefault(name, []).extend(rows)
        self.late += late_count([w.runner for w in local.workers.values()])
        self.entries = Entries(plan)

    def replay(self, build: Callable[[ms.Flow], None], workers: int, ingest: Any) -> Outcome:
        self.run(build, workers, ingest)
        outcome = replay(self.state, Replay(), self.entries, None)
        self.broken = False
        self.run(build, workers, ingest, Replays(logs_in(self.state), {}))
        return outcome

    @property
    def letters(self) -> list[DeadLetter]:
        path = self.state / LETTERS / "worker-0.jsonl"
        return [from_json(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def events(world: World, count: int = 20) -> list[dict[str, Any]]:
    """Of the first run all, of the second none but an empty rest: what comes then are letters."""
    return [{"id": n, "at": n, "n": n % 5} for n in range(count)] if world.broken else []


SCHEMA = pa.schema({"id": pa.int64(), "at": pa.int64(), "n": pa.int64()})


def _source(world: World, flow: ms.Flow) -> ms.Stream:
    return flow.read_iterable(events(world), schema=SCHEMA)


def _checked(world: World) -> Callable[[Any], Any]:
    def check(event: Any) -> Any:
        if world.broken and event.n == 3:
            raise ValueError("three")
        return event

    return check


def _batch(world: World) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
    def check(columns: pa.RecordBatch) -> pa.RecordBatch:
        if world.broken and 3 in columns.column("n").to_pylist():
            raise ValueError("three")
        return columns

    return check


def _add_up(world: World) -> Callable[[int, Any], tuple[int, Any]]:
    return lambda state, event: (state + 1, dict(_checked(world)(event).to_dict()))


def _process(world: World) -> type[ms.Process]:
    check = _checked(world)

    class Checking(ms.Process):
        def on_event(self, event: Any, ctx: Any) -> None:
            ctx.emit({**check(event).to_dict(), "n": ctx.key % 5})

    return Checking


KEPT = {"id": int, "at": int, "n": int}
TENS = (col("id") % 10).alias("ten")
"""A key that is no field of the event."""

OPERATORS: dict[str, Callable[[World, ms.Stream], ms.Stream]] = {
    "map": lambda world, rows: rows.map(_checked(world), on_error="dead_letter"),
    "flat_map": lambda world, rows: rows.flat_map(lambda e: [_checked(world)(e)], on_error="dead_letter"),
    "filter": lambda world, rows: rows.filter(lambda e: bool(_checked(world)(e)), on_error="dead_letter"),
    "map_async": lambda world, rows: rows.map_async(_checked(world), schema=KEPT, on_error="dead_letter"),
    "scan": lambda world, rows: rows.key_by("n").scan(
        0, _add_up(world), schema=KEPT, order="arrival", on_error="dead_letter"
    ),
    "process": lambda world, rows: rows.key_by(TENS).process(
        _process(world), schema=KEPT, order="arrival", on_error="dead_letter"
    ),
    "map_batches": lambda world, rows: rows.map_batches(_batch(world), on_error="dead_letter"),
}


@pytest.mark.parametrize(("workers", "ingest"), WAYS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("timed", [False, True])
def test_an_operator_gets_the_events_again_that_it_had_refused(
    world: World, operator: str, workers: int, ingest: str, timed: bool
) -> None:
    def build(flow: ms.Flow) -> None:
        rows = _source(world, flow)
        rows = rows.event_time("at", unit="s") if timed else rows
        rows.select("id").collect("beside")
        OPERATORS[operator](world, rows).collect("out")

    outcome = world.replay(build, workers, ingest)
    assert outcome.chosen == {operator: 4} and not outcome.refused
    assert sorted(row["id"] for row in world.rows["out"]) == list(range(20))
    assert sorted(row["id"] for row in world.rows["beside"]) == list(range(20)), "nobody else gets them again"
    assert all(row["n"] == row["id"] % 5 for row in world.rows["out"])


def _lines(tmp_path: Path, world: World, **files: str) -> str:
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text if world.broken else text.partition("\n")[0] + "\n")
    return str(tmp_path / "*.csv")


@pytest.mark.parametrize(("workers", "ingest"), WAYS)
def test_lines_are_decoded_again_each_by_the_header_of_its_own_file(
    world: World, tmp_path: Path, workers: int, ingest: str
) -> None:
    files = {"a": "id,n\n1,1\n2,many\n3,3\n", "b": 'n,id\n4,4\nmany,5\n"torn,6\n7,7\n'}

    def build(flow: ms.Flow) -> None:
        kinds = {"id": int, "n": int} if world.broken else {"id": int, "n": str}
        path = _lines(tmp_path, world, **files)
        flow.read_csv(path, schema=kinds).with_columns(n=col("n").cast(pa.string())).collect("out")

    outcome = world.replay(build, workers, ingest)
    assert outcome.chosen == {"read_csv": 3}
    found = sorted((row["id"], row["n"]) for row in world.rows["out"])
    assert found == [(1, "1"), (2, "many"), (3, "3"), (4, "4"), (5, "many"), (7, "7")]
    again = world.letters[-1]
    assert again.replayed == 1 and again.record == '"torn,6' and "b.csv" in again.origin


def test_what_fails_again_says_how_often_it_was_replayed_and_is_replayed_when_it_is_asked_for_again(
    world: World,
) -> None:
    def build(flow: ms.Flow) -> None:
        _source(world, flow).map(_checked(world), on_error="dead_letter").collect("out")

    world.run(build, 1, "coordinator")
    replays = Replays(logs_in(world.state), {})
    for times in (1, 2):
        assert replay(world.state, Replay(), world.entries, None).chosen == {"map": 4}
        world.run(lambda flow: _again(world, flow), 1, "coordinator", replays)
        assert [letter.replayed for letter in world.letters].count(times) == 4
    assert replay(world.state, Replay(dry=True), world.entries, None).before == 8


def _again(world: World, flow: ms.Flow) -> None:
    flow.read_iterable([], schema=SCHEMA).map(_checked(world), on_error="dead_letter").collect("out")


@pytest.mark.parametrize(("workers", "ingest"), WAYS)
def test_replayed_events_whose_windows_have_closed_are_late_and_counted(
    world: World, workers: int, ingest: str
) -> None:
    def numbers() -> Iterator[dict[str, Any]]:
        yield from events(world)
        yield {"id": 100, "at": 100, "n": 0}

    def build(flow: ms.Flow) -> None:
        timed = flow.read_iterable(list(numbers()), schema=SCHEMA).event_time("at", unit="s", max_ahead="1d")
        panes = (
            timed.map(_checked(world), on_error="dead_letter")
            .key_by("n")
            .window(ms.tumbling("10s"))
            .agg(ids=ms.collect("id"))
        )
        panes.collect("panes")
        panes.late.collect("late")

    world.run(build, workers, ingest)
    # The replay comes while its source is still read: behind the last event, which has closed all windows before it.
    state = world.state
    replay(state, Replay(), world.entries, None)
    world.broken = False
    log = logs_in(state)
    seen: list[int] = []

    def read(source: str, offset: int, size: int) -> bytes:
        seen.append(offset)
        return log(source, offset, size) if len(seen) > 1 else b""

    world.rows.clear()
    world.late = 0
    world.run(build, workers, ingest, Replays(read, {}))
    assert sorted(row["id"] for row in world.rows["late"]) == [3, 8, 13, 18]
    assert world.late == 4
    assert [row["ids"] for row in world.rows["panes"]] == [[100]]


def test_letters_that_cannot_go_back_are_told_with_the_reason(world: World) -> None:
    def add(state: int, event: Any) -> tuple[int, dict[str, Any]]:
        return state, {"id": _checked(world)(event).id}

    def build(flow: ms.Flow) -> None:
        first = _source(world, flow).key_by("n").scan(0, lambda s, e: (s, e.to_dict()), schema=KEPT, order="arrival")
        again = first.key_by("id").scan(
            0, add, schema={"id": int}, order="arrival", on_error="dead_letter", name="second"
        )
        again.collect("out")

    world.run(build, 1, "coordinator")
    outcome = replay(world.state, Replay(), world.entries, None)
    assert not outcome.chosen
    assert "4 dead letters of second cannot be replayed: it is not the first behind an exchange by key" in str(outcome)


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (Replay(operator="map"), 4),
        (Replay(operator="other"), 0),
        (Replay(reason="three"), 4),
        (Replay(reason="four"), 0),
        (Replay(letters=["worker-0-1-0", "worker-0-1-3", "worker-0-1-99"]), 2),
        (Replay(operator="map", letters=["worker-0-1-1"]), 1),
    ],
)
def test_letters_are_chosen_by_operator_reason_and_id(world: World, command: Replay, count: int) -> None:
    def build(flow: ms.Flow) -> None:
        _source(world, flow).map(_checked(world), on_error="dead_letter").collect("out")

    world.run(build, 1, "coordinator")
    assert replay(world.state, command, world.entries, None).chosen.total() == count
