"""``flow.dead_letters``: what operators refuse, as a stream that goes to any sink."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.expr import col
from millstream.planner import make_plan
from tests.harness.running import Way, run

WAYS = [
    Way(workers=workers, batch_rows=rows, ingest=ingest)
    for workers in (1, 3)
    for rows in (5, 1_000)
    for ingest in ("coordinator", "workers")
]


def lines(tmp_path: Path, count: int = 60) -> Path:
    """Of ten lines one is no JSON; the other numbers come round by the function that takes them."""
    path = tmp_path / "in.jsonl"
    path.write_text(
        "".join(
            "{broken\n" if n % 10 == 9 else json.dumps({"t": n, "n": n, "k": f"k{n % 3}"}) + "\n" for n in range(count)
        )
    )
    return path


def but(refused: int) -> Any:
    def checked(event: Any) -> Any:
        if event.n % 10 == refused:
            raise ValueError(f"{event.n} ends with {refused}")
        return event

    return checked


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_stream_has_what_the_files_have_wherever_it_was_refused(way: Way, tmp_path: Path) -> None:
    flow = ms.Flow("letters", on_error="dead_letter")
    letters = flow.dead_letters
    timed = flow.read_jsonl(lines(tmp_path)).map(but(1)).event_time("t", unit="s", max_ahead="1d").map(but(3))
    timed.key_by("k").scan(0, lambda n, e: (n, but(5)(e))).for_each(but(7))
    letters.collect("letters")
    outcome = run(flow, way)
    assert len(outcome.dead) == 5 * 6
    found = sorted((row["operator"].partition(" ")[0], row["reason"], row["record"]) for row in outcome.rows["letters"])
    texts = [x.record if isinstance(x.record, str) else x.record.decode() for x in outcome.dead]
    assert found == sorted(
        (x.operator.partition(" ")[0], x.reason, text) for x, text in zip(outcome.dead, texts, strict=True)
    )
    assert {name for name, _, _ in found} == {"read_jsonl", "map", "map_2", "scan", "for_each"}


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_two_sources_that_meet_again_refuse_each_record_once(way: Way, tmp_path: Path) -> None:
    """Before and behind two event times, behind their union, in calls that are under way, and behind a join."""
    kept = {"t": int, "n": int, "k": int}
    for name, count in (("a", 40), ("b", 25)):
        times = [10**7 if n % 11 == 7 else n for n in range(count)]
        rows = ["{bad" if n % 9 == 5 else json.dumps({"t": times[n], "n": n, "k": n % 3}) for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    flow = ms.Flow("letters", on_error="dead_letter")
    a = flow.read_jsonl(tmp_path / "a.jsonl").event_time("t", unit="s", max_ahead="1h").map(but(1), schema=kept)
    b = flow.read_jsonl(tmp_path / "b.jsonl").map(but(2), schema=kept).event_time("t", unit="s", max_ahead="1h")
    joined = a.key_by("k").join(b.key_by("k"), within=("0s", "3s"))
    joined.map(lambda e: {"x": 1 // (e.t % 7)}, schema={"x": int}).write_null()
    a.union(b).map(but(3), schema=kept).map_async(but(4), schema=kept).write_null()
    flow.dead_letters.collect("letters")
    outcome = run(flow, way)
    found = Counter((row["operator"].partition(" ")[0], row["record"]) for row in outcome.rows["letters"])
    assert found == Counter(
        (x.operator.partition(" ")[0], x.record if isinstance(x.record, str) else x.record.decode())
        for x in outcome.dead
    )
    assert {"read_jsonl", "read_jsonl_2", "event_time", "map", "map_2", "map_4", "map_async"} <= {n for n, _ in found}


def test_a_record_that_could_not_be_decoded_says_where_it_was(tmp_path: Path) -> None:
    flow = ms.Flow("letters")
    path = lines(tmp_path, 10)
    flow.read_jsonl(path).write_null()
    flow.dead_letters.collect("letters")
    (letter,) = flow.run_here().tables["letters"].to_pylist()
    assert (letter["origin"], letter["line"], letter["record"]) == (str(path), 10, "{broken")
    assert path.read_bytes()[letter["offset"] :].startswith(b"{broken")
    assert isinstance(letter["time"], datetime)


def test_it_is_a_stream_like_any_other(tmp_path: Path) -> None:
    flow = ms.Flow("letters", on_error="dead_letter")
    flow.read_jsonl(lines(tmp_path)).map(but(1)).map(but(3)).write_null()
    of_maps = flow.dead_letters.filter(col("operator").str.starts_with("map"))
    of_maps.key_by("operator").agg(events=ms.count(), emit="final").collect("counts")
    of_maps.write_jsonl(tmp_path / "letters.jsonl")
    result = flow.run_here()
    assert [row["events"] for row in result.tables["counts"].to_pylist()] == [6, 6]
    assert len((tmp_path / "letters.jsonl").read_text().splitlines()) == 12
    assert result.dead_letters == 18


def test_dead_letters_of_the_stream_itself_do_not_come_back_to_it(tmp_path: Path) -> None:
    flow = ms.Flow("letters", on_error="dead_letter")
    events = flow.read_jsonl(lines(tmp_path)).map(but(1), schema={"n": int})
    told = flow.dead_letters.map(lambda letter: {"n": 1 // 0}, schema={"n": int})
    events.select("n").union(told).for_each(but(3))
    flow.dead_letters.collect("letters")
    outcome = run(flow, Way(workers=2))
    names = sorted(letter.operator.partition(" ")[0] for letter in outcome.dead)
    # Twelve from in front of the stream, as many from its own map, and those of the sink behind both.
    assert names == ["for_each"] * 6 + ["map"] * 6 + ["map_2"] * 12 + ["read_jsonl"] * 6
    assert (
        sorted(row["operator"].partition(" ")[0] for row in outcome.rows["letters"]) == ["map"] * 6 + ["read_jsonl"] * 6
    )


def test_a_key_that_cannot_be_computed_comes_by_the_stream_too(tmp_path: Path) -> None:
    flow = ms.Flow("letters")
    rows = flow.read_iterable([{"v": "1"}, {"v": "x"}], schema={"v": str})
    rows.key_by(n=col("v").cast("int64")).agg(rows=ms.count()).write_null()
    flow.dead_letters.collect("letters")
    assert [row["operator"].partition(" ")[0] for row in flow.run_here().tables["letters"].to_pylist()] == ["key_by"]


def test_a_flow_of_dead_letters_alone_is_refused(tmp_path: Path) -> None:
    flow = ms.Flow("letters")
    flow.read_jsonl(lines(tmp_path))
    flow.dead_letters.collect("letters")
    with pytest.raises(ms.FlowError, match="no sink but for its dead letters"):
        make_plan(flow, workers=1)


def test_event_time_is_not_assigned_to_them(tmp_path: Path) -> None:
    flow = ms.Flow("letters")
    flow.read_jsonl(lines(tmp_path)).write_null()
    flow.dead_letters.event_time("time").collect("letters")
    with pytest.raises(ms.FlowError, match=r"event time cannot be assigned behind dead_letters"):
        make_plan(flow, workers=1)
