"""The history keeps less and less of what is older, and never more than it may."""

from __future__ import annotations

import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest

from millstream.coordinator.ui import history
from millstream.coordinator.ui.graph import Graph
from millstream.coordinator.ui.history import (
    CHECKPOINTS_KEPT,
    RUNS_KEPT,
    CheckpointMade,
    Happening,
    HistoryReader,
    HistoryWriter,
    packed,
)

SECOND = 1_000_000
GRAPH = Graph("f", 2, "workers", False, True, (), ())


def written(folder: Path, seconds: int, *, every_s: int = 1) -> tuple[HistoryWriter, HistoryReader]:
    writer = HistoryWriter(folder, GRAPH, 0)
    for second in range(0, seconds, every_s):
        writer.report({"time_us": second * SECOND, "events": second})
    return writer, HistoryReader(folder)


def test_reports_come_back_as_they_were_written(tmp_path: Path) -> None:
    writer, reader = written(tmp_path, 3)
    assert reader.reports(writer.run, 0, 10 * SECOND, 100) == [{"time_us": s * SECOND, "events": s} for s in range(3)]
    assert reader.runs()[0].graph == GRAPH
    assert reader.span_us(writer.run) == (0, 2 * SECOND)


def test_of_many_reports_first_last_and_some_between_are_given(tmp_path: Path) -> None:
    writer, reader = written(tmp_path, 1_000)
    found = [r["events"] for r in reader.reports(writer.run, 0, 2_000 * SECOND, 11)]
    assert (found[0], found[-1], len(found)) == (0, 999, 11)


def test_the_newest_quarter_of_an_hour_is_kept_by_the_second_and_older_ones_coarser(tmp_path: Path) -> None:
    writer, reader = written(tmp_path, 5_000)
    writer.thin_out(5_000 * SECOND)
    times = [r["events"] for r in reader.reports(writer.run, 0, 5_000 * SECOND, 100_000)]
    assert [t for t in times if t >= 4_100] == list(range(4_100, 5_000))
    old = [t for t in times if t < 4_090]
    assert {b - a for a, b in pairwise(old)} == {10}


def test_a_month_of_reports_takes_no_more_than_a_few_thousand(tmp_path: Path) -> None:
    writer, reader = written(tmp_path, 30 * 86_400, every_s=300)
    writer.thin_out(30 * 86_400 * SECOND)
    assert len(reader.reports(writer.run, 0, 2**60, 10**6)) < 6_000


def test_the_two_reports_at_a_moment_are_found(tmp_path: Path) -> None:
    writer, reader = written(tmp_path, 10)
    assert [r["events"] for r in reader.pair_at(writer.run, int(4.5 * SECOND))] == [3, 4]
    assert [r["events"] for r in reader.pair_at(writer.run, -1)] == [0]


def test_old_runs_go(tmp_path: Path) -> None:
    for _ in range(RUNS_KEPT + 5):
        writer = HistoryWriter(tmp_path, GRAPH, 0)
        writer.happened(Happening(1, "started", 0, "text"))
        writer.close()
    reader = HistoryReader(tmp_path)
    assert [r.id for r in reader.runs()] == list(range(6, RUNS_KEPT + 6))
    assert reader.happenings(1) == [] and len(reader.happenings(RUNS_KEPT)) == 1


def test_reports_take_no_more_room_than_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, reader = written(tmp_path, 2_000)
    taken = sum(len(packed(r)) for r in reader.reports(first.run, 0, 2**60, 10**6))
    first.close()
    monkeypatch.setattr(history, "BYTES_KEPT", int(taken * 1.3))
    second, _ = written(tmp_path, 2_000)
    assert [r.id for r in reader.runs()] == [1, 2]
    second.thin_out(0)  # of no age at all: nothing is too old
    assert [r.id for r in reader.runs()] == [2], "the older run goes first"
    monkeypatch.setattr(history, "BYTES_KEPT", taken // 2)
    second.thin_out(0)
    left = [r["events"] for r in reader.reports(second.run, 0, 2**60, 10**6)]
    assert left[-900:] == list(range(1_100, 2_000)) and len(left) < 1_500, "older ones are fewer, the newest stay"


def test_happenings_and_checkpoints_come_back_in_order(tmp_path: Path) -> None:
    writer, reader = written(tmp_path, 1)
    told = [Happening(5, "lost", 1, "worker-0 was killed"), Happening(9, "failed", 2, "x", "Traceback")]
    for happening in told:
        writer.happened(happening)
    made = [CheckpointMade(e, e * SECOND, 20, {"agg": [1, 2]}) for e in range(1, 4)]
    for checkpoint in made:
        writer.checkpoint(checkpoint)
    assert reader.happenings(writer.run) == told
    assert reader.checkpoints(writer.run, 2) == made[1:]
    assert CHECKPOINTS_KEPT >= 8_640, "a day of checkpoints every ten seconds"


def test_a_history_that_is_not_there_is_empty(tmp_path: Path) -> None:
    reader = HistoryReader(tmp_path)
    assert (reader.runs(), reader.span_us(1), reader.pair_at(1, 5)) == ([], None, [])


def test_a_file_that_is_no_history_is_an_error_of_sqlite(tmp_path: Path) -> None:
    (tmp_path / "history.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        HistoryWriter(tmp_path, GRAPH, 0)
