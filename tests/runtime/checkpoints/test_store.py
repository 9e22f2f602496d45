"""The directory of checkpoints: what was written comes back, what is damaged is refused by name and reason."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from harness.faults import Injected, SimulatedDisk, Trouble
from harness.tables import as_file
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import Keys, make_columns
from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest, PartitionState, SinkState
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import StateTable, from_ipc, owned
from millstream.errors import CheckpointError


def a_table(rows: int = 100, name: str = "windows") -> StateTable:
    names = pa.array([f"k{i}" for i in range(10)] + [None])
    distinct = make_columns(["name", "place"], [names, pa.array(np.arange(11))])
    codes = (np.arange(rows) % 11).astype(np.int32)
    values = make_columns(["window", "total"], [pa.array(np.arange(rows)), pa.array(np.arange(rows) * 0.5)])
    return StateTable(name, Keys(distinct, codes), values)


def rows_of(table: StateTable) -> list[tuple[Any, ...]]:
    keys = [] if table.keys is None else table.keys.columns()
    return list(zip(*(c.to_pylist() for c in [*keys, *table.columns.columns]), strict=True))


class Clinging(SimulatedDisk):
    """One that does not let go of the first manifest."""

    def __init__(self) -> None:
        super().__init__(Trouble(random.Random(1)))

    def remove(self, path: str) -> None:
        if path == "manifest-00000001.json":
            raise Injected(path)
        super().remove(path)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(DirectoryDisk(tmp_path))


def a_checkpoint(store: CheckpointStore, epoch: int, flow: str = "flights") -> Manifest:
    file = store.write_table("agg", a_table(), worker=0, workers=1, name=f"{epoch}-agg")
    place = PartitionState("read_csv", "a.csv", {"bytes": 17}, 3, {"event_time": [5, 2**62]}, False)
    manifest = Manifest(
        flow,
        epoch,
        1,
        1,
        0,
        {"agg": "agg(count())"},
        (file,),
        (place,),
        {"sink": [SinkState({"next_part": 1}, [["a", "b"]])]},
    )
    store.complete(manifest)
    return manifest


def newest(store: CheckpointStore) -> tuple[Manifest | None, list[str]]:
    refused: list[str] = []
    return store.newest("flights", lambda e: refused.append(str(e))), refused


def test_what_was_written_comes_back(store: CheckpointStore) -> None:
    written = a_checkpoint(store, 7)
    found, refused = newest(store)
    assert (found, refused) == (written, [])
    assert found is not None
    assert rows_of(store.load(found.tables[0])) == rows_of(a_table())


def test_a_slice_of_a_large_run_carries_only_its_own_keys() -> None:
    table = a_table(1_000)
    assert table.keys is not None
    many = make_columns(["name"], [pa.array([f"key {i}" for i in range(100_000)])])
    part = StateTable("windows", Keys(many, np.array([5, 99_999, 5], np.int32)), table.columns.slice(0, 3))
    assert as_file(part).size < 5_000
    assert rows_of(from_ipc("windows", as_file(part))) == rows_of(part)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_workers_of_any_number_share_the_rows_among_them(workers: int) -> None:
    table = a_table()
    shares = [rows_of(owned(table, worker, workers)) for worker in range(workers)]
    assert sorted(map(str, (r for share in shares for r in share))) == sorted(map(str, rows_of(table)))


def test_rows_without_a_key_belong_to_everyone() -> None:
    table = StateTable("clock", None, make_columns(["watermark_us"], [pa.array([5])]))
    assert [rows_of(owned(from_ipc("clock", as_file(table)), w, 3)) for w in range(3)] == [[(5,)]] * 3


def test_without_a_checkpoint_there_is_nothing_to_go_on_with(store: CheckpointStore) -> None:
    assert newest(store) == (None, [])


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "cut short":
        path.write_bytes(data[: len(data) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "one bit flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif how == "removed":
        path.unlink()


@pytest.mark.parametrize("how", ["cut short", "emptied", "one bit flipped"])
def test_a_damaged_manifest_is_refused_by_name_and_the_one_before_it_is_used(
    store: CheckpointStore, tmp_path: Path, how: str
) -> None:
    before = a_checkpoint(store, 1)
    a_checkpoint(store, 2)
    spoil(tmp_path / "manifest-00000002.json", how)
    found, refused = newest(store)
    assert found == before
    assert len(refused) == 1 and refused[0].startswith("manifest-00000002.json: ")


@pytest.mark.parametrize("how", ["cut short", "emptied", "one bit flipped", "removed"])
def test_a_damaged_table_is_found(store: CheckpointStore, tmp_path: Path, how: str) -> None:
    manifest = a_checkpoint(store, 1)
    spoil(tmp_path / manifest.tables[0].path, how)
    with pytest.raises(CheckpointError, match=r"data/1-agg\.arrow: "):
        store.verify(manifest)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("removed", "is missing"),
        ("cut short", "damaged: its content is not what the manifest says"),
        ("one bit flipped", "damaged: its content is not what the manifest says"),
    ],
)
def test_a_checkpoint_with_a_missing_or_damaged_table_is_not_used(
    store: CheckpointStore, tmp_path: Path, how: str, what: str
) -> None:
    before = a_checkpoint(store, 1)
    spoil(tmp_path / a_checkpoint(store, 2).tables[0].path, how)
    found, refused = newest(store)
    assert found == before
    assert refused == [f"manifest-00000002.json: its table data/2-agg.arrow: {what}"]


def test_a_newer_format_and_another_flow_are_refused_with_what_to_do(store: CheckpointStore, tmp_path: Path) -> None:
    a_checkpoint(store, 1, flow="taxis")
    a_checkpoint(store, 2)
    path = tmp_path / "manifest-00000002.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    found, refused = newest(store)
    assert found is None
    assert "written in format 99, and this release reads 2; use the release that wrote it" in refused[0]
    assert "a checkpoint of the flow 'taxis', not of 'flights'" in refused[1]


def test_old_checkpoints_go_and_take_only_the_tables_that_nobody_else_needs(
    store: CheckpointStore, tmp_path: Path
) -> None:
    first = a_checkpoint(store, 1)
    for epoch in range(2, 5):
        later = a_checkpoint(store, epoch)
        store.complete(replace(later, tables=(*later.tables, *first.tables)))  # an incremental one: it needs the first
    a_checkpoint(store, 5)
    store.clean()
    assert store.epochs() == [3, 4, 5]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [f"{n}-agg.arrow" for n in (1, 3, 4, 5)]
    assert newest(store)[1] == []


def test_what_cannot_be_removed_does_not_keep_the_rest(store: CheckpointStore, tmp_path: Path) -> None:
    for epoch in range(1, 7):
        a_checkpoint(store, epoch)
    stubborn = tmp_path / "data" / "1-agg.arrow"
    stubborn.unlink()
    stubborn.mkdir()  # which is not removed as a file is
    with pytest.raises(OSError, match=r"data/1-agg\.arrow"):
        store.clean()
    assert store.epochs() == [4, 5, 6]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [f"{n}-agg.arrow" for n in (1, 4, 5, 6)]


def test_a_checkpoint_whose_manifest_cannot_be_removed_keeps_its_tables() -> None:
    disk = Clinging()
    store = CheckpointStore(disk)
    for epoch in range(1, 7):
        a_checkpoint(store, epoch)
    with pytest.raises(Injected):
        store.clean()
    assert store.epochs() == [1, 4, 5, 6]
    assert disk.names("data") == [f"{n}-agg.arrow" for n in (1, 4, 5, 6)]


def test_tables_of_a_checkpoint_under_way_are_left_alone(store: CheckpointStore, tmp_path: Path) -> None:
    a_checkpoint(store, 1)
    store.write_table("agg", a_table(), worker=0, workers=1, name="2-agg")
    store.clean(keep_data_of=lambda name: name.startswith("2-"))
    assert (tmp_path / "data" / "2-agg.arrow").exists()
    store.clean()
    assert not (tmp_path / "data" / "2-agg.arrow").exists()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = DirectoryDisk(tmp_path)
    disk.write("x", [b"before"])

    def full(descriptor: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space left"):
        disk.write("x", [b"after"])
    monkeypatch.undo()
    assert disk.read("x").to_pybytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@given(st.data())
def test_no_damage_to_a_manifest_does_anything_but_raise_its_own_error(data: st.DataObject) -> None:
    whole = Manifest("flights", 1, 1, 1, 0, {"agg": "agg(count())"}).to_json()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, 5))
    spoilt = whole[:at] + data.draw(st.binary(max_size=5)) + whole[at + cut :]
    with suppress(CheckpointError):
        assert Manifest.from_json(spoilt, "m") == Manifest.from_json(whole, "m")


@given(st.data())
def test_no_damage_to_a_table_does_anything_but_raise_its_own_error(data: st.DataObject) -> None:
    whole = as_file(a_table(20)).to_pybytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    spoilt = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at + data.draw(st.integers(0, 8)) :]
    with suppress(CheckpointError):
        from_ipc("windows", pa.py_buffer(spoilt))
