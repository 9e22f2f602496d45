"""What joins write into checkpoints, and how they go on from what several workers wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from harness.joins import JOINS, Driver
from harness.tables import as_file

from millstream.checkpoints.tables import Part, StateTable, from_ipc, owned
from millstream.keys import group_owners, hash_keys, key_groups
from millstream.operators.joins import growing
from millstream.operators.joins.updating import UpdatingJoin
from millstream.specs.joins import UpdatingJoinSpec


def written(parts: Sequence[Part]) -> list[tuple[str, pa.Buffer]]:
    return [(t.name, as_file(t)) for t in parts if isinstance(t, StateTable)]


def taken_up(files: Sequence[tuple[str, pa.Buffer]], name: str, workers: int = 1) -> list[Driver]:
    """New workers that go on from what others wrote."""
    jobs = []
    for worker in range(workers):
        job = Driver(**JOINS[name], worker=worker, workers=workers)
        job.operator.restore([owned(from_ipc(*file), worker, workers) for file in files])
        jobs.append(job)
    return jobs


def fed(job: Driver) -> Driver:
    for step in range(3):
        times = [(key, 10 * step + key) for key in range(8)]
        job.rows(0, times[:6])
        job.rows(1, times[3:])
        job.watermark(10 * step)
    return job


@pytest.mark.parametrize("name", JOINS)
def test_what_a_snapshot_holds_stays_while_the_join_goes_on(name: str) -> None:
    job = fed(Driver(**JOINS[name]))
    tables = [t for t in job.operator.snapshot() if isinstance(t, StateTable)]
    before = [(t.name, t.columns.to_pydict(), t.keys and t.keys.codes.tolist()) for t in tables]
    for time in range(30, 400, 10):
        job.rows(0, [(key, time) for key in range(8)], signs=[1] * 8 if name == "taking back" else None)
        job.rows(1, [(key, time) for key in range(4, 20)])
        job.watermark(time)
    assert [(t.name, t.columns.to_pydict(), t.keys and t.keys.codes.tolist()) for t in tables] == before


@pytest.mark.parametrize("name", JOINS)
@pytest.mark.parametrize("workers", [1, 3])
def test_what_comes_of_rows_that_were_kept_is_the_same_on_other_workers(name: str, workers: int) -> None:
    undisturbed, before = fed(Driver(**JOINS[name])), fed(Driver(**JOINS[name]))
    jobs = taken_up(written(before.operator.snapshot()), name, workers)

    def go_on(job: Driver, rows: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        return job.rows(1, rows) + job.rows(0, rows) + job.watermark(45) + job.watermark(1_000)

    rows = [(key, 30 + key) for key in range(10)]
    at = group_owners(workers)[key_groups(hash_keys([pa.array([key for key, _ in rows])]))]
    parts = [[row for row, worker in zip(rows, at, strict=True) if worker == n] for n in range(workers)]
    found = [row for job, part in zip(jobs, parts, strict=True) for row in go_on(job, part)]
    assert _sorted(found) == _sorted(go_on(undisturbed, rows))


def _sorted(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(map(repr, rows))


def test_rows_that_can_meet_nothing_any_more_are_not_taken_up() -> None:
    job = Driver(**JOINS["interval"])
    job.rows(0, [(1, 100), (1, 130), (1, 140)])
    assert len(job.watermark(125)) == 1  # a left row at 100 matches right rows up to 120
    assert job.kept == (3, 0)  # its memory is freed later
    (other,) = taken_up(written(job.operator.snapshot()), "interval")
    assert other.kept == (2, 0)
    assert [row["a"] for row in other.watermark(1_000)] == [130, 140]


def test_versions_of_workers_whose_watermarks_differ_are_put_in_order() -> None:
    ahead, behind = Driver(**JOINS["as of"]), Driver(**JOINS["as of"])
    ahead.rows(1, [(1, 100), (1, 200)])
    ahead.watermark(300)
    behind.rows(1, [(2, 50), (2, 150)])
    behind.watermark(60)
    (job,) = taken_up(written(ahead.operator.snapshot() + behind.operator.snapshot()), "as of")
    job.rows(0, [(1, 199), (2, 149), (2, 151), (1, 400)])
    assert [(r["k"], r["a"], r["b"]) for r in job.watermark(500)] == [
        (2, 149, 50), (2, 151, 150), (1, 199, 100), (1, 400, 200),
    ]  # fmt: skip


def test_a_side_that_every_worker_has_is_taken_up_once() -> None:
    on = (("a", "b"),)
    settings: dict[str, Any] = {"on": on, "broadcast": on}
    before = [Driver(UpdatingJoin, UpdatingJoinSpec, "inner", worker=n, workers=2, **settings) for n in range(2)]
    for job in before:
        job.rows(1, [(7, 10), (8, 20)])
    files = [file for job in before for file in written(job.operator.snapshot())]
    after = [Driver(UpdatingJoin, UpdatingJoinSpec, "inner", worker=n, workers=3, **settings) for n in range(3)]
    for number, job in enumerate(after):
        job.operator.restore([owned(from_ipc(*file), number, 3) for file in files])
        assert [(r["a"], r["k_right"]) for r in job.rows(0, [(1, 20), (1, 30)])] == [(20, 8)]


def test_long_text_goes_into_several_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = growing.GrowingColumns("join")
    text = [letter * 10 for letter in "abcdefg"]
    columns.extend(["x"], [pa.array(text)], len(text))
    assert list(columns.pieces()) == [(0, 7)]
    monkeypatch.setattr(growing, "PIECE_BYTES", 25)
    pieces = list(columns.pieces())
    assert all(stop - start <= 2 for start, stop in pieces)
    assert [value for piece in pieces for value in columns.slice("x", *piece).to_pylist()] == text
