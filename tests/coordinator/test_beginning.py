"""Where a run begins: what an earlier one could go on from is never lost without being asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import millstream as ms
from millstream.checkpoints.manifest import Manifest, PartitionState
from millstream.checkpoints.shape import Shape
from millstream.coordinator.beginning import DEFAULT_INTERVAL_US, begin, interval_us, newest
from millstream.coordinator.state_directory import StateDirectory, locked
from millstream.errors import CheckpointError
from millstream.plan import PhysicalPlan
from millstream.planner import make_plan

SHAPES = {
    "generate": Shape({"operator": "generate", "source": "yes"}, {}),
    "collect": Shape({"operator": "collect('out')", "sink": "yes"}, {}),
}


class Heard:
    """A view that remembers its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def said(self, process: str, operator: str, text: str) -> None: ...

    def update(self, figures: Any) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[StateDirectory]:
    with locked(tmp_path / "state") as held:
        yield held


@pytest.fixture
def plan() -> PhysicalPlan:
    flow = ms.Flow("numbers")
    flow.generate({"n": ms.connectors.Counter()}, count=5).collect("out")
    return make_plan(flow, workers=1)


def a_checkpoint(directory: StateDirectory, epoch: int, *, finished: bool = False) -> Manifest:
    place = PartitionState("generate", "generated", {"row": epoch}, epoch, {}, finished)
    manifest = Manifest(
        "numbers", epoch, 1, 1, 1_700_000_000_000_000, {}, partitions=(place,), finished=finished, shapes=SHAPES
    )
    directory.checkpoints.complete(manifest)
    return manifest


def damage(directory: StateDirectory, epoch: int) -> None:
    (directory.path / "checkpoints" / f"manifest-{epoch:08d}.json").write_text("{")


def started(plan: PhysicalPlan, directory: StateDirectory, **options: bool) -> tuple[Manifest | None, list[str]]:
    heard = Heard()
    manifest = begin(plan, directory, heard, **{"checkpoints": True, "fresh": False, **options})
    return manifest, heard.lines


def test_checkpoints_are_made_unasked_where_all_input_can_be_read_again(plan: PhysicalPlan) -> None:
    assert interval_us(plan, "auto") == DEFAULT_INTERVAL_US
    assert interval_us(plan, None) is None
    assert interval_us(plan, 5) == 5
    flow = ms.Flow("typed")
    flow.generate({"n": ms.connectors.Counter()}).union(flow.read_stdin(schema={"n": int})).collect("out")
    lossy = make_plan(flow, workers=1)
    assert interval_us(lossy, "auto") is None
    assert interval_us(lossy, 5) == 5


def test_a_run_that_did_not_end_is_gone_on_with(plan: PhysicalPlan, directory: StateDirectory) -> None:
    assert started(plan, directory) == (None, [])
    a_checkpoint(directory, 1)
    second = a_checkpoint(directory, 2)
    assert started(plan, directory) == (
        second, ["going on from checkpoint 2, made 2023-11-14 22:13:20Z (--fresh starts anew)"],
    )  # fmt: skip


def test_a_run_that_ended_starts_anew(plan: PhysicalPlan, directory: StateDirectory) -> None:
    a_checkpoint(directory, 3, finished=True)
    directory.note_end()
    (directory.path / "late").mkdir()
    assert started(plan, directory) == (None, [])
    assert directory.checkpoints.epochs() == []
    assert not (directory.path / "late").exists()
    a_checkpoint(directory, 1)  # the new run counts from 1 again, and is not taken for the one that ended
    assert started(plan, directory)[0] is not None


def test_a_run_that_was_killed_before_it_could_show_all_goes_on_to_its_end(
    plan: PhysicalPlan, directory: StateDirectory
) -> None:
    last = a_checkpoint(directory, 3, finished=True)
    assert started(plan, directory)[0] == last


def test_fresh_starts_anew_whatever_there_is(plan: PhysicalPlan, directory: StateDirectory) -> None:
    a_checkpoint(directory, 1)
    damage(directory, 1)
    assert started(plan, directory, fresh=True) == (None, [])
    assert directory.checkpoints.epochs() == []


def test_a_run_without_checkpoints_does_not_remove_those_of_an_unfinished_one(
    plan: PhysicalPlan, directory: StateDirectory
) -> None:
    a_checkpoint(directory, 4)
    with pytest.raises(CheckpointError, match=r"can go on from checkpoint 4 in .*run it with .* or with --fresh"):
        started(plan, directory, checkpoints=False)
    assert directory.checkpoints.epochs() == [4]
    directory.note_end()
    assert started(plan, directory, checkpoints=False) == (None, [])


def test_checkpoints_of_which_none_can_be_used_are_left_and_named(
    plan: PhysicalPlan, directory: StateDirectory
) -> None:
    for epoch in (1, 2):
        a_checkpoint(directory, epoch)
        damage(directory, epoch)
    with pytest.raises(CheckpointError, match=r"no checkpoint .* can be used: manifest-00000002.*; manifest-00000001"):
        started(plan, directory)
    assert directory.checkpoints.epochs() == [1, 2]


def test_one_that_is_passed_over_is_set_aside_so_that_its_number_is_free(
    plan: PhysicalPlan, directory: StateDirectory
) -> None:
    first = a_checkpoint(directory, 1)
    a_checkpoint(directory, 2)
    damage(directory, 2)
    heard = Heard()
    assert newest(plan, directory, heard) == first
    assert "a checkpoint is passed over: manifest-00000002.json: not a manifest" in heard.lines[0]
    assert directory.checkpoints.epochs() == [1]
    assert (directory.path / "checkpoints" / "manifest-00000002.json.refused").read_text() == "{"
    again = a_checkpoint(directory, 2)
    assert newest(plan, directory, heard) == again


def test_a_checkpoint_of_another_flow_of_that_name_is_refused_before_anything_starts(
    plan: PhysicalPlan, directory: StateDirectory
) -> None:
    manifest = a_checkpoint(directory, 1)
    directory.checkpoints.complete(replace(manifest, partitions=(replace(manifest.partitions[0], source="read_csv"),)))
    with pytest.raises(CheckpointError, match=r"does not fit the flow.*read_csv .*: was not read to its end.*--fresh"):
        started(plan, directory)
    assert directory.checkpoints.epochs() == [1]
