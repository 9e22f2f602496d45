"""What operators held at a checkpoint, without the flow: ``millstream state``.

Keys and accumulators are columns, which anybody can read. State of Python is decoded where it is made of plain values; classes
of the user's are not here, and nothing is ever unpickled, so of other state the bytes are shown.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from rich.text import Text

from millstream.batch import index_array
from millstream.checkpoints.manifest import Manifest
from millstream.checkpoints.recovery import Recovery
from millstream.checkpoints.store import CheckpointStore
from millstream.checkpoints.tables import StateTable
from millstream.coordinator.inspection import store_in
from millstream.coordinator.progress import bytes_text
from millstream.errors import CheckpointError, MillstreamError, QueryError
from millstream.queries import Question, as_json
from millstream.state_codec import StateCodec

_PYTHON: Final = ("state", "record", "shared")
_PYTHON_ACCUMULATORS: Final = "python."


@dataclass(frozen=True)
class Stored:
    """One checkpoint.

    Attributes:
        name: as it was asked for.
    """

    name: str
    manifest: Manifest
    store: CheckpointStore

    @property
    def operators(self) -> list[str]:
        return list(dict.fromkeys(t.operator for t in self.manifest.tables))

    def tables(self, operator: str) -> dict[str, list[StateTable]]:
        """The tables with keys of an operator, by their names; rows of different tables have different keys, or add up.

        Raises:
            QueryError: nothing of such an operator is in the checkpoint.
            CheckpointError: a table is missing or damaged.
        """
        if operator not in self.operators:
            there = ", ".join(map(repr, self.operators)) or "none with state"
            raise QueryError(f"{self.name}: holds nothing of an operator {operator!r}; there are {there}")
        found: dict[str, list[StateTable]] = {}
        recovery, workers = Recovery(self.manifest, self.store), self.manifest.workers
        for worker in range(workers):
            for table in recovery.tables(operator, worker, workers):
                if table.keys is not None and table.num_rows:
                    found.setdefault(table.name, []).append(table)
        return found


def stored_at(name: str) -> Stored:
    """The checkpoint that ``DIR`` or ``DIR@EPOCH`` names: in a state directory the newest, unless its number is given.

    Raises:
        CheckpointError: there is none.
    """
    folder, at, epoch = name.rpartition("@")
    if not at or not epoch.isdigit():
        folder, epoch = name, ""
    store = store_in(Path(folder))
    epochs = store.epochs()
    if not epochs:
        raise CheckpointError(f"{folder}: no checkpoints")
    if epoch and int(epoch) not in epochs:
        raise CheckpointError(f"{folder}: no checkpoint {epoch}; there are {', '.join(map(str, epochs))}")
    return Stored(name, store.manifest(int(epoch or epochs[-1])), store)


def listed(stored: Stored) -> Table:
    """Operators with what they hold."""
    shown = _table("operator", "part", ">keys", ">rows", ">on disk")
    for operator in stored.operators:
        for part, tables in stored.tables(operator).items():
            files = {t.path: t for t in stored.manifest.tables if (t.operator, t.table) == (operator, part)}
            keys = {key for table in tables for key in _keys(table)}
            rows = sum(table.num_rows for table in tables)
            size = bytes_text(sum(t.size_bytes for t in files.values()))
            shown.add_row(Text(operator), Text(part), f"{len(keys):,}", f"{rows:,}", size)
    return shown


def rows_of(stored: Stored, operator: str, question: Question) -> dict[str, pa.Table]:
    """The rows that an operator held of the keys that are asked for, by the name of their part.

    Raises:
        QueryError: a key does not fit, or there is no such operator.
    """
    return {
        part: pa.concat_tables([_rows(table, question) for table in tables], promote_options="permissive")
        for part, tables in stored.tables(operator).items()
    }


def export(stored: Stored, operator: str, to: Path) -> Iterator[str]:
    """Write each part as a Parquet file; says which, and how many rows.

    Raises:
        CheckpointError: one cannot be written.
    """
    for part, rows in rows_of(stored, operator, Question(operator, None, None, 0)).items():
        path = to / f"{operator}.{part}.parquet".replace("/", "_")
        try:
            to.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows, path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error
        yield f"{path}: {rows.num_rows:,} rows"


def differences(before: Stored, after: Stored, most: int) -> tuple[Table, list[str]]:
    """How many keys are new, gone and changed, by operator and part; and the first of these keys, one a line."""
    shown = _table("operator", "part", ">new", ">gone", ">changed", ">alike")
    lines: list[str] = []
    for operator in dict.fromkeys([*before.operators, *after.operators]):
        then, now = (_contents(stored, operator) for stored in (before, after))
        for part in dict.fromkeys([*then, *now]):
            old, new = then.get(part, {}), now.get(part, {})
            keys = {
                "+": [k for k in new if k not in old],
                "-": [k for k in old if k not in new],
                "~": [k for k in new if k in old and new[k] != old[k]],
            }
            alike = len(new) - len(keys["+"]) - len(keys["~"])
            counts = [f"{len(found):,}" for found in keys.values()]
            shown.add_row(Text(operator), Text(part), *counts, f"{alike:,}")
            named = [f"{sign} {operator} {part}: {key}" for sign, found in keys.items() for key in sorted(found)]
            lines += named[: max(0, most - len(lines))]
    return shown, lines


def _contents(stored: Stored, operator: str) -> dict[str, dict[str, Counter[str]]]:
    """By part and key, the rows that there are, in whatever order."""
    if operator not in stored.operators:
        return {}
    found: dict[str, dict[str, Counter[str]]] = {}
    for part, tables in stored.tables(operator).items():
        of_key: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for table in tables:
            for key, row in zip(_keys(table), table.columns.to_pylist(), strict=True):
                of_key[key][repr(row)] += 1
        found[part] = dict(of_key)
    return found


def _keys(table: StateTable) -> list[str]:
    """The key of each row, as text."""
    assert table.keys is not None
    distinct = [", ".join(map(str, key.values())) for key in table.keys.distinct.to_pylist()]
    return [distinct[code] for code in table.keys.codes.tolist()]


def _rows(table: StateTable, question: Question) -> pa.Table:
    """Key fields, then what is held; state of Python as JSON where it can be read."""
    assert table.keys is not None
    asked = table if question.keys is None else table.take(np.flatnonzero(question.rows_of(table.keys)))
    assert asked.keys is not None
    keys = asked.keys.distinct.take(index_array(asked.keys.codes))
    rows = pa.Table.from_batches([keys])
    for name, column in zip(asked.columns.schema.names, asked.columns.columns, strict=True):
        is_python = name in _PYTHON or name.startswith(_PYTHON_ACCUMULATORS)
        rows = rows.append_column(name, _readable(column) if is_python and pa.types.is_binary(column.type) else column)
    return rows


def _readable(column: pa.Array[Any]) -> pa.Array[Any]:
    codec = StateCodec("")

    def text_of(encoded: bytes) -> str:
        try:
            return as_json(codec.decode(encoded))
        except MillstreamError:
            return f"hex:{encoded.hex()}"

    return pa.array([None if value is None else text_of(value) for value in column.to_pylist()], pa.string())


def _table(*columns: str) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        shown.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return shown
