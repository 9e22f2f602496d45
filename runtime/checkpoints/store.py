"""The directory of a flow's checkpoints: tables are written first, then the manifest; old ones are removed.

    checkpoints/manifest-00000012.json      a complete checkpoint
    checkpoints/manifest-00000013.json.refused    one that could not be used when a run went on from the one before
    checkpoints/data/...                    tables, which several manifests may refer to

Nothing that a kept manifest refers to is ever removed or written again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Final

import pyarrow as pa
import xxhash

from millstream.checkpoints.disk import Disk
from millstream.checkpoints.manifest import Manifest, TableFile
from millstream.checkpoints.tables import Saved, StateTable, from_ipc, key_fields, owned, to_ipc
from millstream.errors import CheckpointError
from millstream.keys import group_owners

KEPT: Final = 3
_DATA: Final = "data"
_MANIFEST = re.compile(r"manifest-(\d{8})\.json")


class CheckpointStore:
    """Args:
    kept: how many complete checkpoints are kept.
    """

    def __init__(self, disk: Disk, kept: int = KEPT) -> None:
        self.disk = disk
        self.kept = kept

    # --- writing ---

    def write_table(self, operator: str, table: StateTable, *, worker: int, workers: int, name: str) -> TableFile:
        """Write one table; it is durable when `sync_tables` has returned.

        Args:
            name: unique among all tables that this flow ever writes.
        Raises:
            OSError: it could not be written.
        """
        pieces = to_ipc(table)
        path = f"{_DATA}/{name}.arrow"
        self.disk.add(path, pieces)
        checksum = xxhash.xxh3_128()
        for piece in pieces:
            checksum.update(memoryview(piece))
        return TableFile(
            operator, table.name, worker, workers, path, table.num_rows, sum(map(len, pieces)), checksum.hexdigest(),
            change=table.change,
        )  # fmt: skip

    def sync_tables(self) -> None:
        """See that the tables written so far survive whatever happens.

        Raises:
            OSError: they may not.
        """
        self.disk.sync(_DATA)

    def complete(self, manifest: Manifest) -> None:
        """Make a checkpoint exist, and remove what no kept one needs.

        Raises:
            OSError: it could not be written: there is no such checkpoint.
        """
        self.disk.write(_manifest_name(manifest.epoch), [manifest.to_json()])

    def copy_to(self, other: CheckpointStore, manifest: Manifest) -> None:
        """Copy one checkpoint whole: its tables, each read and compared with its checksum, and then its manifest.

        Raises:
            CheckpointError: a table is missing or damaged.
            OSError: it could not be written.
        """
        for file in {t.path: t for t in manifest.tables}.values():
            other.disk.write(file.path, [self._read(file)])
        other.complete(manifest)

    def clean(self, *, keep_data_of: Callable[[str], bool] = lambda name: False, pinned: Collection[int] = ()) -> None:
        """Remove all but the newest checkpoints, and the tables that none of those refers to.

        Args:
            keep_data_of: tables of a checkpoint under way are not yet referred to; says of a name that it is one.
            pinned: epochs that are kept however old they are.
        Raises:
            OSError: some could not be removed; all others were. The error is the first.
        """
        epochs = self.epochs()
        kept = {*epochs[-self.kept :], *pinned}.intersection(epochs)
        failures: list[OSError] = []
        for epoch in epochs:
            if epoch not in kept and not self._remove(_manifest_name(epoch), failures):
                kept.add(epoch)
        needed = self._needed(kept)
        for name in self.disk.names(_DATA):
            if needed is not None and f"{_DATA}/{name}" not in needed and not keep_data_of(name):
                self._remove(f"{_DATA}/{name}", failures)
        if failures:
            raise failures[0]

    def _needed(self, epochs: Iterable[int]) -> set[str] | None:
        """The paths of the tables that checkpoints consist of; None where those of one of them cannot be told."""
        try:
            return {t.path for epoch in epochs for t in self.manifest(epoch).tables}
        except CheckpointError:
            return None

    def _remove(self, path: str, failures: list[OSError]) -> bool:
        try:
            self.disk.remove(path)
        except OSError as error:
            failures.append(error)
            return False
        return True

    # --- reading ---

    def epochs(self) -> list[int]:
        """The numbers of the checkpoints that there are, the oldest first; whether they are sound is not looked at."""
        return [int(m.group(1)) for n in self.disk.names("") if (m := _MANIFEST.fullmatch(n))]

    def manifest(self, epoch: int) -> Manifest:
        """
        Raises:
            CheckpointError: it is not there, or damaged, or of a newer version.
        """
        name = _manifest_name(epoch)
        try:
            data = self.disk.read(name).to_pybytes()
        except OSError as error:
            raise CheckpointError(f"{name}: cannot be read: {error.strerror or error}") from error
        return Manifest.from_json(data, name)

    def newest(self, flow: str, refused: Callable[[CheckpointError], None]) -> Manifest | None:
        """The newest checkpoint of a flow that is sound; None if there is none. Reads all of its tables.

        Args:
            refused: is told of each newer one that cannot be used, and why.
        """
        for epoch in reversed(self.epochs()):
            try:
                manifest = self.manifest(epoch)
                if manifest.flow != flow:
                    raise CheckpointError(
                        f"{_manifest_name(epoch)}: a checkpoint of the flow {manifest.flow!r}, not of {flow!r}"
                    )
            except CheckpointError as error:
                refused(error)
                continue
            try:
                self.verify(manifest)
            except CheckpointError as error:
                refused(CheckpointError(f"{_manifest_name(epoch)}: its table {error}"))
                continue
            return manifest
        return None

    def set_aside_after(self, epoch: int) -> None:
        """Take manifests that were passed over out of the way: the run that goes on counts from here again.

        Raises:
            CheckpointError: one cannot be renamed.
        """
        for passed_over in [e for e in self.epochs() if e > epoch]:
            name = _manifest_name(passed_over)
            try:
                self.disk.rename(name, f"{name}.refused")
            except OSError as error:
                raise CheckpointError(f"{name}: cannot be set aside: {error.strerror or error}") from error

    def verify(self, manifest: Manifest) -> None:
        """Read every table of a checkpoint.

        Raises:
            CheckpointError: one is missing or damaged.
        """
        for file in manifest.tables:
            self._read(file)

    def load(self, file: TableFile) -> StateTable:
        """One table, its checksum looked at.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        table = from_ipc(file.table, self._read(file))
        if file.first + file.rows > table.num_rows:
            raise CheckpointError(
                f"{file.path}: has {table.num_rows} rows, and the manifest counts on {file.first + file.rows}"
            )
        table = replace(table, change=file.change)
        whole = (file.first, file.rows) == (0, table.num_rows)
        return table if whole else table.slice(file.first, file.rows)

    def _content(self, file: TableFile) -> pa.Buffer:
        try:
            return self.disk.read(file.path)
        except FileNotFoundError:
            raise CheckpointError(f"{file.path}: is missing") from None
        except OSError as error:
            raise CheckpointError(f"{file.path}: cannot be read: {error.strerror or error}") from error

    def _read(self, file: TableFile) -> pa.Buffer:
        data = self._content(file)
        if data.size != file.size_bytes or xxhash.xxh3_128_hexdigest(memoryview(data)) != file.checksum:
            raise CheckpointError(f"{file.path}: damaged: its content is not what the manifest says")
        return data

    def load_owned(
        self, files: Iterable[TableFile], worker: int, workers: int, *, in_groups: bool = False
    ) -> list[StateTable]:
        """What belongs to one worker of so many, of these tables; in_groups: each has rows of who wrote it alone.

        Those that are all its own are not written again while they stay as they are.
        """
        tables: list[StateTable] = []
        for file in files:
            if file.workers == workers:
                if file.worker == worker:
                    tables.append(replace(self.load(file), saved=Saved(file), first=0))
            elif not in_groups or self._concerns(file, worker, workers):
                tables.append(owned(self.load(file), worker, workers))
        return tables

    def _concerns(self, file: TableFile, worker: int, workers: int) -> bool:
        """Whether rows of a table may be a worker's: it has key groups of who wrote them, or they have no keys."""
        theirs, mine = group_owners(file.workers) == file.worker, group_owners(workers) == worker
        return bool((theirs & mine).any()) or key_fields(self._content(file)) is None


def _manifest_name(epoch: int) -> str:
    return f"manifest-{epoch:08d}.json"
