"""Whole rows in checkpoints: what an operator notes of each row, and the row's fields, in one table.

Fields have a mark before their names, so that whatever the user calls them none is taken for a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from millstream.batch import Array, make_columns
from millstream.checkpoints.tables import StateTable

_FIELD: Final = "row."


def row_columns(notes: Mapping[str, Array], fields: Mapping[str, Array]) -> pa.RecordBatch:
    """The columns of a table of rows, beside their keys."""
    return make_columns([*notes, *(_FIELD + n for n in fields)], [*notes.values(), *fields.values()])


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
