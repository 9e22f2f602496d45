"""A table of a DuckDB database as a sink. Types are Arrow's, nested ones too.

DuckDB lets one process at a time write a file, and nobody read it meanwhile. So it is open for the moment of a commit only;
in between others may read it.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa

from millstream.connectors.databases import (
    COMMITS,
    LOCKED_S,
    Commit,
    Connection,
    DatabaseSink,
    quoted,
    said_as_sink_error,
)
from millstream.errors import SinkError

_LOOK_AGAIN_S: Final = 0.05
_ROWS: Final = "millstream_rows"


class DuckDbSink(DatabaseSink):
    """Rows of a table in a DuckDB file."""

    verb = "write_duckdb"

    def check(self) -> None:
        if importlib.util.find_spec("duckdb") is None:
            raise SinkError(f"{self.label()}: needs DuckDB: pip install 'millstream[duckdb]'")
        super().check()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        import duckdb  # an extra: whoever does not write to DuckDB need not have it

        with said_as_sink_error(self.label(), duckdb.Error), self._connected(duckdb) as connection:
            connection.execute("BEGIN")
            yield _DuckDb(connection)
            connection.execute("COMMIT")  # what is not committed is not done

    def _connected(self, duckdb: Any) -> Any:
        deadline_s = time.monotonic() + LOCKED_S
        while True:
            try:
                return duckdb.connect(self.path)
            except duckdb.IOException as error:
                if "lock" not in str(error):
                    raise
                if time.monotonic() >= deadline_s:
                    raise SinkError(
                        f"{self.label()}: another program has had the database open for {LOCKED_S:g} s; DuckDB "
                        "lets nobody write then. Close it there, or open it for a moment at a time"
                    ) from error
                time.sleep(_LOOK_AGAIN_S)  # DuckDB cannot wait for a lock


class _DuckDb(Connection):
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def last_commit(self, table: str) -> Commit | None:
        if self.fields(COMMITS) is None:
            return None
        query = f"SELECT run, life, number, made FROM {COMMITS} WHERE name = ?"
        found = self._connection.execute(query, [table]).fetchone()
        return None if found is None else Commit(*found)

    def record(self, table: str, commit: Commit) -> None:
        columns = "name VARCHAR, run VARCHAR, life BIGINT, number BIGINT, made BOOLEAN"
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {COMMITS} ({columns})")
        self._connection.execute(f"DELETE FROM {COMMITS} WHERE name = ?", [table])
        self._connection.execute(f"INSERT INTO {COMMITS} VALUES (?, ?, ?, ?, ?)", [table, *commit])

    def fields(self, table: str) -> list[str] | None:
        query = (
            "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() "
            "AND schema_name = current_schema() AND lower(table_name) = lower(?) ORDER BY column_index"
        )
        return [row[0] for row in self._connection.execute(query, [table]).fetchall()] or None

    def create(self, table: str, schema: pa.Schema, keys: Sequence[str]) -> None:
        # Without an index over the keys: it would take no nested ones, and none of its look-ups is needed.
        with self._shown(schema.empty_table()):
            self._connection.execute(f"CREATE TABLE {quoted(table)} AS FROM {_ROWS}")

    def empty(self, table: str) -> None:
        self._connection.execute(f"DELETE FROM {quoted(table)}")

    def append(self, table: str, rows: pa.Table) -> None:
        with self._shown(rows):
            self._connection.execute(f"INSERT INTO {quoted(table)} BY NAME FROM {_ROWS}")

    def take_out(self, table: str, rows: pa.Table, keys: Sequence[str]) -> None:
        self._delete(table, rows)

    def put(self, table: str, rows: pa.Table, keys: Sequence[str]) -> None:
        self._delete(table, rows.select(list(keys)))
        self.append(table, rows)

    def _delete(self, table: str, rows: pa.Table) -> None:
        equal = " AND ".join(f"t.{quoted(n)} IS NOT DISTINCT FROM r.{quoted(n)}" for n in rows.column_names)
        with self._shown(rows):
            self._connection.execute(f"DELETE FROM {quoted(table)} AS t USING {_ROWS} AS r WHERE {equal}")

    @contextmanager
    def _shown(self, rows: pa.Table) -> Iterator[None]:
        """Rows as a view that statements can name."""
        self._connection.register(_ROWS, rows)
        try:
            yield
        finally:
            self._connection.unregister(_ROWS)
