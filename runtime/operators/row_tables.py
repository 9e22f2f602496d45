"""Whole rows in checkpoints: what an operator notes of each row, and the row's fields, in one table.

Fields have a mark before their names, so that whatever the user calls them none is taken for a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from millstream.batch import Array, Keys, make_columns
from millstream.checkpoints.tables import StateTable

_FIELD: Final = "row."


def rows_table(name: str, keys: Keys, notes: Mapping[str, Array], fields: Mapping[str, Array]) -> StateTable:
    """A table of rows with these keys."""
    names = [*notes, *(_FIELD + n for n in fields)]
    return StateTable(name, keys, make_columns(names, [*notes.values(), *fields.values()]))


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
