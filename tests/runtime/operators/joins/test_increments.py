"""What joins write after a complete checkpoint is what has changed, and with what is on disk already it is all there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from harness.joins import JOINS, Driver
from harness.tables import as_file
from hypothesis import given
from hypothesis import strategies as st

from millstream.checkpoints.folding import folded
from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.tables import Part, StateTable, from_ipc, owned
from millstream.keys import group_owners, hash_keys, key_groups
from millstream.operators.joins import as_of, base, sides
from millstream.operators.joins.updating import UpdatingJoin
from millstream.specs.joins import UpdatingJoinSpec
from millstream.state import pieces

Rows = list[tuple[int, int]]
Step = tuple[Rows, Rows, int]
"""Rows (key, time since the watermark) of both sides, and by how much the watermark moves on."""


class Disk:
    """The checkpoints of one worker."""

    def __init__(self) -> None:
        self._tables: dict[str, StateTable] = {}
        self.written_rows = 0

    def write(self, parts: Sequence[Part], *, completes: bool) -> list[StateTable]:
        """What is read of a checkpoint."""
        self.written_rows = 0
        files = [self._file(part, completes) for part in parts]
        return [self._tables[f.path] for f in files]

    def _file(self, part: Part, completes: bool) -> TableFile:
        if isinstance(part, TableFile):
            return part
        assert isinstance(part, StateTable)
        path = f"data/{len(self._tables)}"
        table = from_ipc(part.name, as_file(part))
        self._tables[path] = StateTable(part.name, table.keys, table.columns, change=part.change)
        file = TableFile("join", part.name, 0, 1, path, part.num_rows, 0, "", change=part.change)
        if part.keys is not None:
            self.written_rows += part.num_rows
        if completes:
            part.saved.written(file, 0)
        return file


class Job:
    """A join that is given steps; of a side that takes back, every third row takes the one before it back."""

    def __init__(self, name: str, worker: int = 0, workers: int = 1) -> None:
        self.driver = Driver(**JOINS[name], worker=worker, workers=workers)
        self.signed = name == "taking back"
        self.now = 0

    def step(self, step: Step, mine: Any = lambda key: True) -> list[str]:
        found: list[dict[str, Any]] = []
        for port, rows in enumerate(step[:2]):
            assert isinstance(rows, list)
            at = [(key, self.now + later) for key, later in rows]
            signs = [-1 if self.signed and n % 3 == 2 else 1 for n in range(len(at))]
            at = [at[n - 1] if sign < 0 else row for n, (row, sign) in enumerate(zip(at, signs, strict=True))]
            taken = [n for n, (key, _) in enumerate(at) if mine(key)]
            if taken:
                given_signs = [signs[n] for n in taken] if self.signed else None
                found += self.driver.rows(port, [at[n] for n in taken], signs=given_signs)
        self.now += step[2]
        return sorted(map(repr, found + self.driver.watermark(self.now)))


def restored(name: str, tables: list[StateTable], now: int, workers: int) -> list[Job]:
    jobs = [Job(name, n, workers) for n in range(workers)]
    for number, job in enumerate(jobs):
        job.driver.operator.restore(folded([owned(t, number, workers) for t in tables]))
        job.now = now
    return jobs


def owner(key: int, workers: int) -> int:
    return int(group_owners(workers)[key_groups(hash_keys([pa.array([key])]))][0])


sides_rows = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 25)), max_size=6)
steps = st.lists(st.tuples(sides_rows, sides_rows, st.integers(0, 12)), min_size=2, max_size=14)


@pytest.mark.parametrize("name", JOINS)
@given(steps, st.lists(st.sampled_from(["none", "given up", "complete"]), min_size=14, max_size=14),
       st.integers(1, 2), st.integers(1, 3), st.sampled_from([0, 1_000]))  # fmt: skip
def test_a_join_goes_on_from_any_checkpoint(
    name: str, given_steps: list[Step], snapshots: list[str], workers: int, kept: int, spare: int
) -> None:
    patched: list[tuple[Any, str, int]] = [
        (pieces, "_PIECES_KEPT", kept), (pieces, "_SPARE_KEYS", spare), (sides, "_CHECK_ROWS", 2),
        (base, "_SPARE_KEYS", 0), (as_of, "_SPARE_VERSIONS", 2),
    ]  # fmt: skip  # so that few steps reach every case
    before = [(module, constant, getattr(module, constant)) for module, constant, _ in patched]
    for module, constant, value in patched:
        setattr(module, constant, value)
    try:
        job, disk = Job(name), Disk()
        found: list[list[str]] = []
        complete: list[tuple[int, int, list[StateTable]]] = []
        for number, step in enumerate(given_steps):
            found.append(job.step(step))
            if snapshots[number] != "none":
                completes = snapshots[number] == "complete"
                tables = disk.write(job.driver.operator.snapshot(), completes=completes)
                complete.append((number + 1, job.now, tables))
        for first, now, tables in complete:
            others = restored(name, tables, now, workers)
            for number, step in enumerate(given_steps[first:], first):
                again = [o.step(step, lambda k, n=n: owner(k, workers) == n) for n, o in enumerate(others)]
                assert sorted(row for rows in again for row in rows) == found[number]
    finally:
        for module, constant, value in before:
            setattr(module, constant, value)


def test_only_the_rows_of_keys_that_have_changed_are_written() -> None:
    driver, disk = Driver(UpdatingJoin, UpdatingJoinSpec, "full"), Disk()
    for port in (0, 1):
        driver.rows(port, [(key, 1) for key in range(10_000)])
    disk.write(driver.operator.snapshot(), completes=True)
    assert disk.written_rows == 20_000
    disk.write(driver.operator.snapshot(), completes=True)
    assert disk.written_rows == 0
    driver.rows(0, [(key, 2) for key in range(100)])
    disk.write(driver.operator.snapshot(), completes=True)
    assert disk.written_rows == 500, "of the left side the keys and two rows of each, of the right what they have met"
