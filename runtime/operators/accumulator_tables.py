"""Accumulators in checkpoints: their columns as columns of Arrow, and the types of the inputs that they are for.

Accumulators of the user's own are Python objects, and travel encoded as other state of theirs does (state_codec.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.accumulators import AccumulatorSet, Column, as_column, to_arrow
from millstream.aggregates import UserAggregate
from millstream.batch import Array, make_columns
from millstream.checkpoints.tables import StateTable
from millstream.operators.aggregation import TypedAccumulators
from millstream.state_codec import StateCodec

_TYPES: Final = "accumulator_types"
_COLUMN: Final = "accumulator."
_ENCODED: Final = "python."


class AccumulatorTables:
    """Puts the accumulators of an operator into tables, and takes them out."""

    def __init__(self, typed: TypedAccumulators) -> None:
        self._typed = typed
        self._codec = StateCodec(typed.where, _namespace(typed))

    def snapshot(self) -> list[StateTable]:
        """The types of the inputs; nothing before the first batch."""
        types = self._typed.types
        if not types and not self._typed.for_anything:
            return []
        schema = pa.schema([(str(number), kind) for number, kind in enumerate(types)])
        described = pa.array([schema.serialize().to_pybytes()], pa.binary())
        return [StateTable(_TYPES, None, make_columns(["types"], [described]))]

    def restore(self, tables: Sequence[StateTable]) -> AccumulatorSet | None:
        """The accumulators for all types that were there before; None where there were none."""
        found: AccumulatorSet | None = None
        for table in tables:
            if table.name == _TYPES:
                for described in table.columns.column(0):
                    found = self._typed.for_types(list(pa.ipc.read_schema(described.as_buffer()).types))
        return found

    def columns(self, columns: Sequence[Column]) -> dict[str, Array]:
        """Accumulator columns by the names that they have in tables."""
        arrays: dict[str, Array] = {}
        for number, column in enumerate(columns):
            if isinstance(column, np.ndarray) and column.dtype == object:
                arrays[f"{_ENCODED}{number}"] = pa.array([self._codec.encode(v) for v in column], pa.binary())
            else:
                arrays[f"{_COLUMN}{number}"] = to_arrow(column)
        return arrays

    def from_table(self, table: StateTable) -> list[Column]:
        """The accumulator columns in a table."""
        columns: list[Column] = []
        for name, array in zip(table.columns.schema.names, table.columns.columns, strict=True):
            if name.startswith(_ENCODED):
                states = np.empty(len(array), object)
                for row, encoded in enumerate(array):
                    states[row] = self._codec.decode(encoded.as_py())
                columns.append(states)
            elif name.startswith(_COLUMN):
                columns.append(as_column(array))
        return columns


def _namespace(typed: TypedAccumulators) -> dict[str, Any] | None:
    """Where the classes of the user's accumulators are looked up."""
    for aggregate in typed.aggregates.values():
        if isinstance(aggregate, UserAggregate):
            return getattr(aggregate.add, "__globals__", None)
    return None
