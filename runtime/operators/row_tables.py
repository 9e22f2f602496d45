"""Whole rows in checkpoints: what an operator notes of each row, and the row's fields, in one table.

Fields have a mark before their names, so that whatever the user calls them none is taken for a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from millstream.batch import Array, IntArray, index_array, make_columns
from millstream.checkpoints.tables import StateTable

_FIELD: Final = "row."


def marked(fields: Mapping[str, Array]) -> dict[str, Array]:
    """Fields by the names that they have in tables."""
    return {_FIELD + name: values for name, values in fields.items()}


def row_columns(notes: Mapping[str, Array], fields: Mapping[str, Array]) -> pa.RecordBatch:
    """The columns of a table of rows, beside their keys."""
    return make_columns([*notes, *marked(fields)], [*notes.values(), *fields.values()])


def numbered_rows(notes: Mapping[str, IntArray], rows: pa.RecordBatch) -> pa.RecordBatch:
    """The same, of numbers that are noted of each row, and rows as they are."""
    fields = dict(zip(rows.schema.names, rows.columns, strict=True))
    return row_columns({name: index_array(numbers) for name, numbers in notes.items()}, fields)


def fields_in(columns: pa.RecordBatch) -> pa.RecordBatch:
    """The fields in the columns of such a table, by their own names."""
    names = [n for n in columns.schema.names if n.startswith(_FIELD)]
    return columns.select(names).rename_columns([n.removeprefix(_FIELD) for n in names])


def notes_and_fields(table: StateTable) -> tuple[dict[str, Array], dict[str, Array]]:
    """The way back: notes and fields by name."""
    notes: dict[str, Array] = {}
    fields: dict[str, Array] = {}
    for name, column in zip(table.columns.schema.names, table.columns.columns, strict=True):
        if name.startswith(_FIELD):
            fields[name.removeprefix(_FIELD)] = column
        else:
            notes[name] = column
    return notes, fields
