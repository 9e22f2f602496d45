"""What a join says that it holds, when it is asked: rows of both sides that may still be matched.

A row is told with the fields that it has in the result, and by the names that they have there; in front stand its key,
its side, and where rows have times its own, or the windows that it is still to come out in. Rows are looked at
some at a time, so that no answer takes longer than what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from millstream.batch import Array, IntArray, make_columns
from millstream.operators.joins.growing import plain
from millstream.operators.joins.key_index import KeyIndex
from millstream.operators.joins.output import Picked
from millstream.operators.joins.rows import RowNumbers
from millstream.operators.joins.sides import Side
from millstream.queries import EVENT_TIME, Question, beside
from millstream.specs.joins import FieldOrigin, JoinField
from millstream.times import MAX_US, MIN_US, STAMP

SIDES: Final = ("left", "right")
ROWS_AT_ONCE: Final = 4_096
_LOOKED_AT_ONCE: Final = 1 << 18


def asked_keys(question: Question, index: KeyIndex, names: Sequence[str]) -> IntArray | None:
    """The numbers of the keys that are asked for, of those that are there; None: all are.

    Raises:
        QueryError: a key does not fit.
    """
    wanted = question.of(make_columns(names, index.columns(np.zeros(0, np.int64))).schema)
    if wanted is None:
        return None
    numbers = np.unique(index.find(wanted.columns))
    return numbers[numbers >= 0]


def rows_of_keys(side: Side, keys: IntArray | None) -> Iterator[RowNumbers]:
    """The rows of some keys, or of all."""
    if keys is None or not side.where.segments:
        yield from rows_passed(side, keys)
        return
    first, last = np.full(len(keys), MIN_US), np.full(len(keys), MAX_US)
    for found in side.where.find(keys, first, last):
        for _, rows in found.pairs():
            yield rows


def rows_passed(side: Side, keys: IntArray | None) -> Iterator[RowNumbers]:
    """The same by a look at every row, where it is not known where those of a key are."""
    of = side.kept.key.values
    for start in range(0, len(of), ROWS_AT_ONCE if keys is None else _LOOKED_AT_ONCE):
        if keys is None:
            yield np.arange(start, min(start + ROWS_AT_ONCE, len(of)))
        else:
            yield start + np.flatnonzero(np.isin(of[start : start + _LOOKED_AT_ONCE], keys))


@dataclass(frozen=True)
class HeldRows:
    """How the rows of a join are told.

    Args:
        on: the key fields, by their names on the left.
        fields: those of the result; None where the fields of a side are not known yet.
        payload: the fields that either side keeps.
    """

    on: Sequence[str]
    fields: Sequence[JoinField] | None
    payload: Sequence[Sequence[str]]

    def of_side(self, port: int) -> dict[str, str]:
        """The fields of a side: what each is called in the result, and on its side."""
        if self.fields is None:
            return {name: name for name in self.payload[port]}
        origin = FieldOrigin.RIGHT if port else FieldOrigin.LEFT
        return {f.name: f.source for f in self.fields if f.origin is origin}

    def columns(
        self,
        port: int,
        keys: Sequence[Array],
        rows: Picked,
        time_us: IntArray | None,
        window: Mapping[str, Array] | None = None,
    ) -> pa.RecordBatch:
        """Rows of one side.

        Args:
            keys: the key fields of each row.
            time_us: their event times; None: they have none, or windows stand for them.
            window: in which windows they are.
        """
        fields = self.of_side(port)
        users = [*self.on, *(name for p in (0, 1) for name in self.of_side(p))]
        told: dict[str, Array] = dict(zip(self.on, map(plain, keys), strict=True))
        told[beside(users, "side")] = pa.repeat(SIDES[port], len(rows.rows))
        for name, bounds in (window or {}).items():
            told[beside(users, name)] = bounds
        if time_us is not None:
            told[beside(users, EVENT_TIME)] = pa.array(time_us).view(STAMP)
        told |= {name: plain(rows.column(source)) for name, source in fields.items()}
        return make_columns(list(told), list(told.values()))
