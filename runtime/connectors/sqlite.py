"""A table of an SQLite database as a sink.

Whole numbers and booleans are INTEGER, floats REAL (NaN is null), binary BLOB; all else is TEXT: times as ISO 8601,
decimals with all their digits, nested values as JSON. Durations are INTEGER microseconds, as in JSON lines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from millstream.connectors.cells import is_binary, is_text, text_of
from millstream.connectors.databases import (
    COMMITS,
    LOCKED_S,
    Commit,
    Connection,
    DatabaseSink,
    listed,
    quoted,
    said_as_sink_error,
)
from millstream.connectors.json_text import json_text

if TYPE_CHECKING:
    import sqlite3

_LOCKED_STEP_S: Final = 0.01
_ROWS: Final = 16_384
"""Rows that are Python values at the same time."""


class SqliteSink(DatabaseSink):
    """Rows of a table in an SQLite file; write-ahead logging, so readers see the last commit while one is under way."""

    verb = "write_sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        import sqlite3  # a library for which other flows need not wait

        with (
            said_as_sink_error(self.label(), sqlite3.Error, OverflowError),
            closing(sqlite3.connect(self.path, timeout=LOCKED_S, isolation_level=None)) as connection,
        ):
            _log_ahead(connection)
            connection.execute("PRAGMA synchronous = FULL")  # the pieces are removed when the commit is durable
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield _Sqlite(connection)
            except BaseException:
                connection.rollback()
                raise
            connection.commit()


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Turn write-ahead logging on. Another process that does so, too, is not waited for by SQLite itself."""
    import sqlite3

    until_s = time.monotonic() + LOCKED_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(_LOCKED_STEP_S)


class _Sqlite(Connection):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def last_commit(self, table: str) -> Commit | None:
        if self.fields(COMMITS) is None:
            return None
        query = f"SELECT run, life, number, made FROM {COMMITS} WHERE name = ?"
        found = self._connection.execute(query, (table,)).fetchone()
        return None if found is None else Commit(found[0], found[1], found[2], bool(found[3]))

    def record(self, table: str, commit: Commit) -> None:
        columns = "name TEXT PRIMARY KEY, run TEXT, life INTEGER, number INTEGER, made INTEGER"
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {COMMITS} ({columns})")
        self._connection.execute(f"REPLACE INTO {COMMITS} VALUES (?, ?, ?, ?, ?)", (table, *commit))

    def fields(self, table: str) -> list[str] | None:
        return [row[1] for row in self._connection.execute(f"PRAGMA table_info({quoted(table)})")] or None

    def create(self, table: str, schema: pa.Schema, keys: Sequence[str]) -> None:
        columns = ", ".join(f"{quoted(field.name)} {_declared(field.type)}" for field in schema)
        self._connection.execute(f"CREATE TABLE {quoted(table)} ({columns})")
        if keys:
            # An index, as null is a key, and a primary key of numbers would make up a number in its place.
            index = quoted(f"{table}_by_key")
            self._connection.execute(f"CREATE UNIQUE INDEX {index} ON {quoted(table)} ({listed(keys)})")

    def empty(self, table: str) -> None:
        self._connection.execute(f"DELETE FROM {quoted(table)}")

    def append(self, table: str, rows: pa.Table) -> None:
        names = rows.column_names
        places = ", ".join("?" * len(names))
        insert = f"INSERT INTO {quoted(table)} ({listed(names)}) VALUES ({places})"
        self._connection.executemany(insert, _values(rows))

    def take_out(self, table: str, rows: pa.Table, keys: Sequence[str]) -> None:
        self._delete(table, rows.select([*keys, *(n for n in rows.column_names if n not in keys)]))

    def put(self, table: str, rows: pa.Table, keys: Sequence[str]) -> None:
        rows = _in_order(rows, keys)
        if not self._is_unique(table, keys) or any(rows[key].null_count for key in keys):
            self._delete(
                table, rows.select(list(keys))
            )  # null, which an index takes to differ from null, is a key, too
            self.append(table, rows)
            return
        names = rows.column_names
        places, rest = ", ".join("?" * len(names)), [quoted(n) for n in names if n not in keys]
        change = "UPDATE SET " + ", ".join(f"{n} = excluded.{n}" for n in rest) if rest else "NOTHING"
        insert = f"INSERT INTO {quoted(table)} ({listed(names)}) VALUES ({places})"
        self._connection.executemany(f"{insert} ON CONFLICT ({listed(keys)}) DO {change}", _values(rows))

    def _is_unique(self, table: str, keys: Sequence[str]) -> bool:
        """Whether an index over just these columns says which row is in the way of another; ours are such."""
        for _, index, unique, _, partial in self._connection.execute(f"PRAGMA index_list({quoted(table)})").fetchall():
            if unique and not partial:
                columns = self._connection.execute(f"PRAGMA index_info({quoted(index)})").fetchall()
                if {name for *_, name in columns} == set(keys):
                    return True
        return False

    def _delete(self, table: str, rows: pa.Table) -> None:
        equal = " AND ".join(f"{quoted(name)} IS ?" for name in rows.column_names)
        self._connection.executemany(f"DELETE FROM {quoted(table)} WHERE {equal}", _values(rows))


def _declared(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_) or pa.types.is_duration(type_):
        return "INTEGER"
    if pa.types.is_floating(type_):
        return "REAL"
    return "BLOB" if is_binary(type_) else "TEXT"


def _in_order(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """By key, as an index is: neighbours are found on one page."""
    plain = [key for key in keys if not pa.types.is_nested(rows.schema.field(key).type)]
    return rows.sort_by([(key, "ascending") for key in plain]) if plain else rows


def _values(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    for start in range(0, rows.num_rows, _ROWS):
        some = rows.slice(start, _ROWS).combine_chunks()
        yield from zip(*(_cells(column.combine_chunks()) for column in some.columns), strict=True)


def _cells(column: Any) -> list[Any]:
    """The values of a column as SQLite takes them."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        column, type_ = column.dictionary_decode(), type_.value_type
    if pa.types.is_boolean(type_):
        column = column.cast(pa.int8())
    elif pa.types.is_duration(type_):
        column = column.cast(pa.duration("us"), safe=False).cast(pa.int64())
    elif pa.types.is_nested(type_):
        column = pc.if_else(column.is_valid(), json_text(column, "iso"), pa.scalar(None, pa.string()))
    elif not (pa.types.is_integer(type_) or pa.types.is_floating(type_) or is_binary(type_) or is_text(type_)):
        column = text_of(column, "iso")
    cells: list[Any] = column.to_pylist()
    return cells
