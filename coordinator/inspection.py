"""Finding the state directory of a flow, and looking at its checkpoints: ``millstream checkpoints``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from millstream.checkpoints.disk import DirectoryDisk
from millstream.checkpoints.manifest import Manifest, TableFile
from millstream.checkpoints.store import CheckpointStore
from millstream.control import SOCKET
from millstream.coordinator import flowfile
from millstream.coordinator.progress import bytes_text
from millstream.coordinator.steering import SAVEPOINTS
from millstream.errors import CheckpointError, CommandError


def state_of(run: str, state: Path) -> Path:
    """The state directory of a running flow, as people name it.

    Args:
        run: that directory; or a flow file, or the name of a flow, that runs with ``--state``.
    Raises:
        CommandError: it cannot be told which is meant.
    """
    directory = Path(run)
    if directory.is_dir() and (directory / "attempt").exists():
        return directory
    if (state / run).is_dir():
        return state / run
    if run.rpartition(":")[0].endswith(".py") or run.endswith(".py"):
        loaded, _ = flowfile.load(run, ())
        return state / loaded.name
    base = directory if directory.is_dir() else state
    running = sorted(p.parent.name for p in base.glob(f"*/{SOCKET}"))
    if directory.is_dir() and len(running) == 1:
        return base / running[0]
    there = f"; running are {', '.join(running)}" if running else ""
    raise CommandError(f"{run}: no flow runs under that name in {base}{there}")


def store_in(state: Path) -> CheckpointStore:
    """The checkpoints of a flow, by its state directory (``.millstream/<flow>``); or a savepoint, by its own.

    Raises:
        CheckpointError: there are none.
    """
    folder = state / "checkpoints"
    if any(state.glob("manifest-*.json")):
        folder = state  # a savepoint
    if not folder.is_dir():
        flows = sorted(p.name for p in state.glob("*") if (p / "checkpoints").is_dir()) if state.is_dir() else []
        hint = f"; there are checkpoints of {', '.join(flows)} below it: name one, {state / flows[0]}" if flows else ""
        raise CheckpointError(f"{state}: no checkpoints{hint}")
    return CheckpointStore(DirectoryDisk(folder))


def newest_epoch(store: CheckpointStore, state: Path) -> int:
    """
    Raises:
        CheckpointError: there is none.
    """
    epochs = store.epochs()
    if not epochs:
        raise CheckpointError(f"{state}: no checkpoints")
    return epochs[-1]


def listed(state: Path) -> Table:
    """All checkpoints of a state directory, the newest last, and then its savepoints.

    Raises:
        CheckpointError: there are none.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("epoch", "made", "attempt", "workers", "tables", "bytes", ""):
        table.add_column(column, justify="left" if column in ("made", "") else "right")
    kept = [(store_in(state), "")]
    kept += [(CheckpointStore(DirectoryDisk(at)), f"savepoint {at}") for at in sorted((state / SAVEPOINTS).glob("*/"))]
    for store, name in kept:
        for epoch in store.epochs():
            try:
                manifest = store.manifest(epoch)
            except CheckpointError as error:
                table.add_row(str(epoch), "", "", "", "", "", Text(str(error), "red"))
                continue
            notes = filter(None, (name, "the input had ended" if manifest.finished else ""))
            table.add_row(
                str(epoch), made_at(manifest), str(manifest.attempt), str(manifest.workers), str(len(manifest.tables)),
                bytes_text(manifest.size_bytes), ", ".join(notes),
            )  # fmt: skip
    return table


def shown(manifest: Manifest) -> RenderableType:
    """What is in one checkpoint."""
    head = Text.assemble(
        (f"checkpoint {manifest.epoch}", "bold"), f" of {manifest.flow}, made {made_at(manifest)} "
        f"by attempt {manifest.attempt} with {manifest.workers} worker{'s' if manifest.workers != 1 else ''}",
    )  # fmt: skip
    sources = Tree("sources")
    for place in manifest.partitions:
        sources.add(f"{place.source} {place.partition!r}: {'ended' if place.ended else place.offset}")
    state = Tree("state")
    for name, what in manifest.operators.items():
        files = [t for t in manifest.tables if t.operator == name]
        if files:
            parts = ", ".join(_rows_of(table, files) for table in dict.fromkeys(f.table for f in files))
            state.add(f"{name}: {parts}, {bytes_text(sum(f.size_bytes for f in files))}  [dim]{what}[/dim]")
    return Group(head, sources, state)


def _rows_of(table: str, files: Sequence[TableFile]) -> str:
    """How many rows of a table are written; those of several checkpoints may be of the same key."""
    rows = [f.rows for f in files if f.table == table]
    epochs = {Path(f.path).name.partition("-")[0] for f in files if f.table == table}
    written = f" by {len(epochs)} checkpoints" if len(epochs) > 1 else ""
    return f"{table} {sum(rows):,} rows{written}"


def verified(store: CheckpointStore) -> Iterator[tuple[int, str]]:
    """Read everything: for each checkpoint what is wrong with it, or nothing."""
    for epoch in store.epochs():
        try:
            store.verify(store.manifest(epoch))
        except CheckpointError as error:
            yield epoch, str(error)
        else:
            yield epoch, ""


def made_at(manifest: Manifest) -> str:
    return datetime.fromtimestamp(manifest.created_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
