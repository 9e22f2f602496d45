"""Sinks that keep a table of a database: the rows of an epoch appear in one transaction, when its checkpoint exists.

One worker gathers the rows of an epoch in a file next to the database. When the checkpoint is complete they are
applied, in a transaction that also records, in the database itself, which commit this was. So a commit that is
repeated after a failure finds that it was done, and any reader of the table sees each row once.

Commits have an order: *run* is drawn anew when a run starts from the beginning, *life* grows each time that it goes on
from a checkpoint, and *number* counts within a life.
"""

from __future__ import annotations

import os
import urllib.parse
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self

import pyarrow as pa

from millstream.connectors.base import Guarantee, Placement, Prepared, Sink, Writer
from millstream.connectors.changes import CHANGE, changes_of
from millstream.connectors.output_files import cannot_write
from millstream.connectors.pieces import PieceWriter, remove_pieces, rows_of_pieces
from millstream.errors import FlowError, SinkError, unknown_field

Mode = Literal["upsert", "append"]

COMMITS: Final = "millstream_commits"
"""The table in which a database keeps what was committed."""

LOCKED_S: Final = 20.0
"""How long to wait for a database that another program is writing."""

_DIRECT_BYTES: Final = 64 << 20


class Commit(NamedTuple):
    """Which commit was the last for a table, and whether the table is one that a run has made."""

    run: str
    life: int
    number: int
    made: bool

    @property
    def place(self) -> tuple[int, int]:
        return self.life, self.number


class Connection(ABC):
    """One open database, within a transaction."""

    @abstractmethod
    def last_commit(self, table: str) -> Commit | None: ...

    @abstractmethod
    def record(self, table: str, commit: Commit) -> None: ...

    @abstractmethod
    def fields(self, table: str) -> list[str] | None:
        """The names of a table's columns; None: there is no such table."""

    @abstractmethod
    def create(self, table: str, schema: pa.Schema, keys: Sequence[str]) -> None: ...

    @abstractmethod
    def empty(self, table: str) -> None: ...

    @abstractmethod
    def append(self, table: str, rows: pa.Table) -> None: ...

    @abstractmethod
    def take_out(self, table: str, rows: pa.Table, keys: Sequence[str]) -> None:
        """Delete the rows that are equal to these in all fields; null is equal to null."""

    @abstractmethod
    def put(self, table: str, rows: pa.Table, keys: Sequence[str]) -> None:
        """Add rows in place of those with the same keys. No two of them have the same."""


class DatabaseSink(Sink):
    """What the sinks for all databases have in common."""

    verb: ClassVar[str]
    placement = Placement.GATHER
    guarantee = Guarantee.EXACTLY_ONCE

    def __init__(
        self, path: str | os.PathLike[str], table: str, *, key: str | Sequence[str] | None, mode: Mode | None
    ) -> None:
        self.path, self.table = os.fspath(path), table
        self.keys = (key,) if isinstance(key, str) else tuple(key or ())
        self.signed = False
        self._mode = mode
        if not table or "\0" in table or table == COMMITS:
            raise FlowError(f"{self.label()}: {table!r} cannot be the name of a table for results")
        if mode not in (None, "upsert", "append"):
            raise FlowError(f"{self.label()}: mode={mode!r}: there are 'upsert' and 'append'")
        if mode == "append" and self.keys:
            raise FlowError(
                f"{self.label()}: mode='append' adds every row, so key= means nothing; leave one of them out"
            )

    def label(self) -> str:
        return f"{self.verb}({self.path!r}, {self.table!r})"

    # --- planning ---

    def needs_retractions(self, keys: Sequence[str] | None) -> bool:
        # Where rows replace others by other fields than the table's, it must be said which row is no more.
        return self._mode != "append" and bool(self.keys) and (keys is None or set(keys) != set(self.keys))

    def told(self, where: str, schema: pa.Schema | None, keys: Sequence[str] | None, *, signed: bool) -> Self:
        sink = super().told(where, schema, keys, signed=signed)
        sink.signed = signed
        if sink._mode != "append" and not sink.keys and keys:
            sink.keys = tuple(keys)
        if sink._mode is None:
            sink._mode = "upsert" if sink.keys else "append"
        if sink._mode == "upsert" and not sink.keys:
            raise FlowError(f"{where}: mode='upsert' needs key=, the fields that say which row a row replaces")
        if signed and sink._mode == "append" and self._mode is None:
            raise FlowError(
                f"{where}: its rows take earlier ones back, and by no fields that are left; say key=, or "
                "mode='append' to write all changes"
            )
        if schema is not None:
            for key in sink.keys:
                if key not in schema.names:
                    raise unknown_field(key, schema.names, where)
            _check_names(sink.label(), schema.names)
        return sink

    def check(self) -> None:
        folder = os.path.dirname(self.path) or "."
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        if os.path.isdir(self.path):
            raise SinkError(f"{self.path}: is a directory; name the database file")
        if not os.access(folder, os.W_OK) or (os.path.exists(self.path) and not os.access(self.path, os.W_OK)):
            raise cannot_write(self.path, PermissionError())

    def owns(self) -> str:
        return f"{os.path.realpath(self.path)}, table {self.table.lower()}"

    # --- running ---

    def open(self, worker: int, workers: int) -> Writer:
        return DatabaseWriter(self, None, at_once=True)

    def open_staged(self, worker: int, workers: int, states: Sequence[dict[str, Any]] | None) -> Writer:
        return DatabaseWriter(self, states[0] if states else None)

    def commit(self, action: Any) -> None:
        pieces = list(action["pieces"])
        with self.transaction() as database:
            before = database.last_commit(self.table)
            now = Commit(action["run"], action["life"], action["number"], made=before is not None and before.made)
            if self._to_do(before, now):
                self._apply(database, now, pieces, first=before is None)
        remove_pieces(pieces)

    def check_columns(self, schema: pa.Schema) -> None:
        """See that rows go into the table that is there, before anything is written.

        Raises:
            SinkError: it has other columns.
        """
        _check_names(self.label(), schema.names)
        for key in self.keys:
            if key not in schema.names:
                raise SinkError(f"{self.label()}: the rows have no field {key!r}, which is its key")
        if os.path.exists(self.path):
            with self.transaction() as database:
                self._check_fits(database, _written(schema, self._drops_change))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """The database, changed as a whole or not at all.

        Raises:
            SinkError: it is locked for long, damaged, or refuses a change.
        """
        raise NotImplementedError
        yield

    @property
    def _drops_change(self) -> bool:
        return self.signed and self._mode == "upsert"

    def _to_do(self, before: Commit | None, now: Commit) -> bool:
        """Whether a commit has not been done yet.

        Raises:
            SinkError: the table is not as the commits before this one have left it.
        """
        if before is not None and before.run == now.run:
            return now.place > before.place
        if now.place != (0, 0):
            raise self._other_table(before)
        return True

    def next_life(self, state: dict[str, Any]) -> int:
        """The number of a life of the run that goes on from a checkpoint.

        Raises:
            SinkError: the table is not as that checkpoint has left it.
        """
        before = None
        if os.path.exists(self.path):
            with self.transaction() as database:
                before = database.last_commit(self.table)
        if before is None or before.run != state["run"]:
            raise self._other_table(before)
        # Ahead of the checkpoint it is where a newer one is damaged. Rows by key come to the same when they are applied again.
        if before.place > tuple(state["last"]) and self._mode == "append":
            raise SinkError(
                f"{self.label()}: the table has rows of a newer checkpoint, which is damaged; they would be added "
                "again. Put that checkpoint back, or start anew with another --state"
            )
        return max(before.life, int(state["life"])) + 1

    def _other_table(self, found: Commit | None) -> SinkError:
        what = "is not the one" if found is None else "was taken over by another run since, and is not the one"
        return SinkError(
            f"{self.label()}: the table {what} that the checkpoint goes on from; put the database back as it was, or "
            "start anew with another --state"
        )

    def _apply(self, database: Connection, now: Commit, pieces: list[str], *, first: bool) -> None:
        gone = [piece for piece in pieces if not os.path.exists(piece)]
        if gone:
            raise SinkError(f"{gone[0]}: rows for {self.label()} are not there any more")
        there = database.fields(self.table)
        made = there is None or (now.made and not first)
        if made and there is not None and now.place == (0, 0):
            database.empty(self.table)  # what an earlier run of the flow left
        rows = rows_of_pieces(pieces)
        head = next(rows, None)
        if head is not None:
            schema = _written(head.schema, self._drops_change)
            self._check_fits(database, schema)
            if there is None:
                database.create(self.table, schema, self.keys)
            self._write(database, chain([head], rows))
        database.record(self.table, now._replace(made=made))

    def _write(self, database: Connection, batches: Iterable[pa.RecordBatch]) -> None:
        if self._mode == "append":
            for batch in batches:
                database.append(self.table, pa.Table.from_batches([batch]))
            return
        for gone, put in changes_of(batches, self.keys, signed=self.signed):
            if gone.num_rows:
                database.take_out(self.table, gone, self.keys)
            if put.num_rows:
                database.put(self.table, put, self.keys)

    def _check_fits(self, database: Connection, schema: pa.Schema) -> None:
        there = database.fields(self.table)
        if there is None:
            return
        known = {name.lower() for name in there}
        missing = [name for name in schema.names if name.lower() not in known]
        if missing:
            raise SinkError(
                f"{self.label()}: the table has no column {missing[0]!r}, it has {', '.join(there)}; add it, drop the "
                "table, or write to another one"
            )


class DatabaseWriter(Writer):
    """Gathers rows until a checkpoint; without checkpoints, until it is flushed."""

    def __init__(self, sink: DatabaseSink, state: dict[str, Any] | None, *, at_once: bool = False) -> None:
        sink.check()
        self._sink, self._at_once = sink, at_once
        self._run: str = uuid.uuid4().hex if state is None else state["run"]
        self._life = 0 if state is None else sink.next_life(state)
        self._last: tuple[int, int] | None = None if state is None else tuple(state["last"])
        self._number = 0
        table = urllib.parse.quote(sink.table, safe="")
        # Commits of the checkpoint that the run goes on from were repeated before: no piece counts any more.
        self._pieces = PieceWriter(f"{sink.path}.{table}")

    def write(self, columns: pa.RecordBatch) -> None:
        if self._pieces.schema is None:
            self._sink.check_columns(columns.schema)
        self._pieces.write(columns, self._number)
        if self._at_once and self._pieces.nbytes >= _DIRECT_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._at_once:
            for action in self.prepare(last=False).commits:
                self._sink.commit(action)

    def prepare(self, *, last: bool) -> Prepared:
        piece = self._pieces.seal()
        commits: list[Any] = []
        if piece is not None or self._last is None:  # the first is made without rows, too: it empties what was left
            self._last = (self._life, self._number)
            self._number += 1
            life, number = self._last
            commits = [{"run": self._run, "life": life, "number": number, "pieces": [piece] if piece else []}]
        return Prepared({"run": self._run, "life": self._life, "last": list(self._last)}, commits)

    def close(self) -> None:
        self.flush()

    def abort(self) -> None:
        self._pieces.abandon()


def _check_names(label: str, names: Sequence[str]) -> None:
    """Databases do not tell capital letters from small ones."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise SinkError(f"{label}: {other!r} and {name!r} are one name in a database; rename() one of them")


def _written(schema: pa.Schema, without_change: bool) -> pa.Schema:
    return pa.schema([f for f in schema if f.name != CHANGE]) if without_change else schema


@contextmanager
def said_as_sink_error(label: str, *kinds: type[Exception]) -> Iterator[None]:
    """What a database says against a change, as an error of the sink."""
    try:
        yield
    except kinds as error:
        text = str(error).strip().splitlines()
        raise SinkError(f"{label}: the database refuses: {text[0] if text else type(error).__name__}") from error


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))
