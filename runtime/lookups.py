"""Lookups as a user asks for them, and the words that they share with joins: which fields are equal, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from millstream import connectors
from millstream.connectors.base import Source
from millstream.errors import FlowError, unknown_field
from millstream.specs.joins import JoinKind
from millstream.specs.lookup import LookupSpec, table_schema
from millstream.where import caller

On = str | Mapping[str, str]
"""The fields that are equal: one name that both have, or {name on the left: name on the right}."""


def lookup_spec(
    table: pa.Table | str | Path,
    on: On,
    how: str,
    columns: Sequence[str] | None,
) -> LookupSpec:
    """Args:
    columns: the fields of the table that come out; None: all but its key.
    """
    where = f"{caller()} lookup"
    kind = kind_of(where, how)
    if kind not in (JoinKind.INNER, JoinKind.LEFT):
        raise FlowError(f"{where}: how={how!r}: a lookup finds one row of the table at most; use 'inner' or 'left'")
    source = _table(where, table)
    known = table_schema(source).names
    pairs = pairs_of(where, on)
    keys = [key for _, key in pairs]
    wanted = [n for n in known if n not in keys] if columns is None else list(columns)
    for name in [*keys, *wanted]:
        if name not in known:
            raise unknown_field(name, known, f"{where}: the table")
    return LookupSpec(source, pairs, kind, tuple(wanted))


def _table(where: str, table: pa.Table | str | Path) -> Source:
    """Where a table is read."""
    if isinstance(table, pa.Table | pa.RecordBatch):
        return connectors.TableSource(table if isinstance(table, pa.Table) else pa.Table.from_batches([table]))
    if not isinstance(table, str | Path):
        raise FlowError(f"{where}: the table is a pyarrow Table or a path; found {type(table).__name__}")
    kinds = {
        ".csv": connectors.CsvSource, ".jsonl": connectors.JsonLinesSource, ".ndjson": connectors.JsonLinesSource,
        ".parquet": connectors.ParquetSource, ".arrow": connectors.ArrowSource, ".feather": connectors.ArrowSource,
    }  # fmt: skip
    suffixes = [s for s in Path(table).suffixes if s not in (".gz", ".zst")]
    kind = kinds.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise FlowError(f"{where}: {str(table)!r}: what is in it is told by its ending: {', '.join(kinds)}")
    source: Source = kind(str(table))
    return source


def pairs_of(where: str, on: On) -> tuple[tuple[str, str], ...]:
    """``on=`` as pairs of fields, (left, right)."""
    if isinstance(on, str):
        return ((on, on),)
    if not isinstance(on, Mapping) or not on:
        raise FlowError(f"{where}: on= takes the name of a field, or {{'left field': 'right field'}}; found {on!r}")
    return tuple(on.items())


def kind_of(where: str, how: str) -> JoinKind:
    try:
        return JoinKind(how)
    except ValueError:
        known = ", ".join(repr(k.value) for k in JoinKind)
        raise FlowError(f"{where}: how={how!r}; there are {known}") from None
