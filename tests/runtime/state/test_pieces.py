"""What snapshots of state by slot say, put together, is what there is; and they say no more than they must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.batch import IntArray, Keys, make_columns
from millstream.checkpoints.folding import folded
from millstream.checkpoints.manifest import TableFile
from millstream.checkpoints.tables import Part, PendingTable, Saved, StateTable
from millstream.state import pieces
from millstream.state.columns import SlotColumn
from millstream.state.key_table import KeyTable

KEYS = 40


class Numbers:
    """Numbers by key, and the disk that their checkpoints are on."""

    def __init__(self) -> None:
        self.disk: dict[str, StateTable] = {}
        self.written_rows = 0

    def put(self, numbers: dict[int, int]) -> None:
        raise NotImplementedError

    def free(self, keys: list[int]) -> None:
        raise NotImplementedError

    def parts(self) -> Sequence[Part]:
        raise NotImplementedError

    def snapshot(self, *, completes: bool) -> list[TableFile]:
        """A checkpoint, which is complete in the end or not."""
        parts = self.parts()
        self.written_rows = sum(p.num_rows for p in parts if not isinstance(p, TableFile))
        return [self._written(part, completes) for part in parts]

    def _written(self, part: Part, completes: bool) -> TableFile:
        if isinstance(part, TableFile):
            return part
        if isinstance(part, PendingTable):
            part = part.made()
        path = f"data/{len(self.disk)}"
        self.disk[path] = part
        file = TableFile("agg", part.name, 0, 1, path, part.num_rows, 0, "", change=part.change)
        if completes:
            part.saved.written(file, 0)
        return file

    def after(self, files: Sequence[TableFile]) -> Numbers:
        """The same in another life, which goes on from a checkpoint."""
        raise NotImplementedError

    def read(self, files: Sequence[TableFile]) -> dict[int, int]:
        found: dict[int, int] = {}
        for table in folded([self.disk[f.path] for f in files]):
            assert table.keys is not None
            keys = table.keys.columns()[0].to_pylist()
            assert not set(keys) & set(found), "each key once"
            found.update(zip(keys, table.columns.column(0).to_pylist(), strict=True))
        return found


class Counts(Numbers):
    """Kept by slot."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.column = KeyTable(), SlotColumn()

    def put(self, numbers: dict[int, int]) -> None:
        slots, _ = self.keys.add(make_columns(["k"], [pa.array(list(numbers), pa.int64())]))
        self.column.put(slots, np.array(list(numbers.values()), np.int64))
        self.keys.changed(slots)

    def free(self, keys: list[int]) -> None:
        slots = self.keys.find(make_columns(["k"], [pa.array(keys, pa.int64())]))
        self.keys.free(slots)
        self.column.forget(slots)

    def parts(self) -> Sequence[Part]:
        return self.keys.snapshot("counts", self._rows_of)

    def _rows_of(self, slots: IntArray) -> tuple[Keys, pa.RecordBatch]:
        values = self.column.take(slots)
        assert isinstance(values, np.ndarray)
        return self.keys.row_keys(slots), make_columns(["n"], [pa.array(values)])

    def after(self, files: Sequence[TableFile]) -> Numbers:
        after = Counts()
        after.disk = self.disk

        def put(slots: IntArray, rows: StateTable) -> None:
            after.column.put(slots, rows.columns.column(0).to_numpy())
            after.keys.changed(slots)

        after.keys.restore([replace(self.disk[f.path], saved=Saved(f)) for f in files], put)
        return after


class States(Numbers):
    """Kept in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, int] = {}
        self.pieces: pieces.KeyPieces[int, int] = pieces.KeyPieces(lambda key, state: state)

    def put(self, numbers: dict[int, int]) -> None:
        self.pieces.changing(numbers)
        self.states.update(numbers)

    def free(self, keys: list[int]) -> None:
        self.pieces.changing(keys)
        for key in keys:
            del self.states[key]

    def parts(self) -> Sequence[Part]:
        return self.pieces.snapshot("states", self.states, self._keys_of, self._rows_of)

    def _keys_of(self, keys: list[int]) -> Keys:
        return Keys(make_columns(["k"], [pa.array(keys, pa.int64())]), np.arange(len(keys), dtype=np.int32))

    def _rows_of(self, encoded: list[int]) -> pa.RecordBatch:
        return make_columns(["n"], [pa.array(encoded, pa.int64())])

    def after(self, files: Sequence[TableFile]) -> Numbers:
        after = States()
        after.disk = self.disk
        tables = [replace(self.disk[f.path], saved=Saved(f)) for f in files]
        for keys, rows in after.pieces.restored(tables, lambda distinct: distinct.column(0).to_pylist()):
            after.states.update(zip(keys, rows.column(0).to_pylist(), strict=True))
        return after


puts = st.tuples(st.just("put"), st.dictionaries(st.integers(0, KEYS), st.integers(0, 99), min_size=1, max_size=12))
frees = st.tuples(st.just("free"), st.lists(st.integers(0, KEYS), max_size=8, unique=True))
snapshots = st.tuples(st.just("snapshot"), st.booleans())
losses = st.tuples(st.just("loss"), st.none())


@pytest.mark.parametrize("kind", [Counts, States])
@given(
    st.lists(st.one_of(puts, frees, snapshots, losses), max_size=40), st.integers(1, 4), st.sampled_from([0, 10, 1_000])
)
def test_a_checkpoint_holds_what_there_is(
    kind: type[Numbers], steps: list[tuple[str, object]], kept: int, spare: int
) -> None:
    counts, model = kind(), dict[int, int]()
    newest, then = list[TableFile](), dict[int, int]()
    before = (pieces._PIECES_KEPT, pieces._SPARE_KEYS)
    pieces._PIECES_KEPT, pieces._SPARE_KEYS = kept, spare  # type: ignore[misc]  # so that few steps reach every case
    try:
        for what, given_ in steps:
            if isinstance(given_, dict):
                counts.put(given_)
                model.update(given_)
            elif isinstance(given_, list):
                gone = [k for k in given_ if k in model]
                counts.free(gone)
                for key in gone:
                    del model[key]
            elif what == "loss":
                counts, model = counts.after(newest), dict(then)
            else:
                files = counts.snapshot(completes=bool(given_))
                assert counts.read(files) == model
                if given_:
                    newest, then = files, dict(model)
        assert counts.read(counts.snapshot(completes=True)) == model
        assert counts.read(counts.snapshot(completes=True)) == model
    finally:
        pieces._PIECES_KEPT, pieces._SPARE_KEYS = before  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Counts, States])
def test_after_a_loss_only_what_has_changed_since_is_written(kind: type[Numbers]) -> None:
    counts = kind()
    counts.put({k: k for k in range(10_000)})
    counts.snapshot(completes=True)
    counts.put({1: 5})
    counts.free([7])
    after = counts.after(counts.snapshot(completes=True))
    after.put({2: 5, 7: 8})
    files = after.snapshot(completes=True)
    assert after.written_rows == 2
    assert after.read(files) == {k: {1: 5, 2: 5, 7: 8}.get(k, k) for k in range(10_000)}


@pytest.mark.parametrize("kind", [Counts, States])
def test_only_what_has_changed_is_written(kind: type[Numbers]) -> None:
    counts = kind()
    counts.put({k: k for k in range(10_000)})
    counts.snapshot(completes=True)
    assert counts.written_rows == 10_000
    for number in range(200):
        counts.put(dict.fromkeys(range(100 * number, 100 * number + 10), -1))
        counts.snapshot(completes=True)
    assert counts.written_rows <= 300
    counts.snapshot(completes=True)
    assert counts.written_rows == 0


@pytest.mark.parametrize("kind", [Counts, States])
def test_what_was_not_completed_is_written_again_with_what_came_since(kind: type[Numbers]) -> None:
    counts = kind()
    counts.put({k: k for k in range(1_000)})
    counts.snapshot(completes=True)
    counts.put({1: 5})
    counts.free([7])
    counts.snapshot(completes=False)
    counts.put({2: 5})
    files = counts.snapshot(completes=True)
    assert counts.written_rows == 3
    assert counts.read(files) == {k: 5 if k in (1, 2) else k for k in range(1_000) if k != 7}


@pytest.mark.parametrize("kind", [Counts, States])
def test_files_stay_few_and_hold_little_that_does_not_count(kind: type[Numbers]) -> None:
    counts = kind()
    for number in range(3_000):
        counts.put(dict.fromkeys(range(number % 50, number % 50 + 200), number))
        files = counts.snapshot(completes=True)
        assert len(files) <= 40
        assert sum(f.rows for f in files) <= 2 * 250 + 4_096 + 250
