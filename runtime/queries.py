"""Questions about state: which keys are meant, as the operator that holds them has them.

Who asks names keys as text or as plain values, for the types of key fields are known where rows are. A question is made of
them and put to every worker; the one that owns a key's group finds it. Answers are columns, the key fields in front.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, BoolArray, Keys, make_columns
from millstream.errors import QueryError

MOST_ROWS: Final = 100_000
MOST_BYTES: Final = 8 << 20
MOST_KEYS: Final = 100

EVENT_TIME: Final = "event_time"
"""The column with the event times of rows that are told."""

KeyValue = str | int | float | bool | None
AskedKey = str | Sequence[KeyValue]
"""Text, as of a command line; or a value for each key field."""


@dataclass(frozen=True)
class Question:
    """What is asked of an operator.

    Attributes:
        operator: its name, for errors.
        keys: the keys; None: all.
        at_us: only windows that hold this time, in microseconds since the epoch; None: all that are open.
        most: how many rows the answer may have.
    """

    operator: str
    keys: tuple[AskedKey, ...] | None
    at_us: int | None
    most: int

    def of(self, schema: pa.Schema) -> pa.RecordBatch | None:
        """The keys that are asked for, with the types of key fields; None: all are.

        Raises:
            QueryError: a key has not a value for each field, or one that does not fit its type.
        """
        if self.keys is None:
            return None
        rows = [self._values(key, schema) for key in self.keys]
        columns = [pa.concat_arrays([self._array(row[i], field) for row in rows]) for i, field in enumerate(schema)]
        return make_columns(schema.names, columns)

    def among(self, keys: pa.RecordBatch) -> BoolArray:
        """Which of these keys are asked for."""
        wanted = self.of(keys.schema)
        if wanted is None:
            return np.ones(keys.num_rows, np.bool_)
        found = np.zeros(keys.num_rows, np.bool_)
        for row in range(wanted.num_rows):
            alike = np.ones(keys.num_rows, np.bool_)
            for column, asked in zip(keys.columns, wanted.columns, strict=True):
                alike &= _equal(column, asked[row])
            found |= alike
        return found

    def rows_of(self, keys: Keys) -> BoolArray:
        """Which rows have a key that is asked for."""
        rows: BoolArray = self.among(keys.distinct)[keys.codes]
        return rows

    def _values(self, key: AskedKey, schema: pa.Schema) -> Sequence[KeyValue]:
        values: Sequence[KeyValue] = _split(key, len(schema)) if isinstance(key, str) else key
        if len(values) != len(schema):
            raise QueryError(
                f"{self.operator}: a key is {_described(schema)}, and {key!r} is {_counted(len(values), 'value')}; "
                f"divide values by commas, or write a JSON list: '[\"a\", 1]'"
            )
        return values

    def _array(self, value: KeyValue, field: pa.Field[Any]) -> Array:
        try:
            array: Array = pa.array([_typed(value, field.type)], field.type)
            return array
        except (pa.ArrowException, ValueError, TypeError, OverflowError, NotImplementedError):
            raise QueryError(
                f"{self.operator}: the key field {field.name!r} is {field.type}, and {value!r} is not"
            ) from None


def _split(text: str, fields: int) -> Sequence[KeyValue]:
    """The values in the text of a key: a JSON list, or divided by commas where a key has several fields."""
    if text.startswith("["):
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if isinstance(values, list) and all(isinstance(v, KeyValue) for v in values):
            return values
    return [text] if fields == 1 else [part.strip() for part in text.split(",")]


def _typed(value: KeyValue, kind: pa.DataType) -> Any:
    """A value as Arrow takes it for a type."""
    if value is None:
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return value if isinstance(value, str) else json.dumps(value)
    if not isinstance(value, str):
        return pa.scalar(value).cast(kind).as_py()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return value.encode()
    if pa.types.is_timestamp(kind):
        moment = datetime.fromisoformat(value)
        if kind.tz is None:
            return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return pa.scalar(value).cast(kind).as_py()


def _equal(column: Array, value: pa.Scalar[Any]) -> BoolArray:
    """Where a column has a value: null is a key, and so is NaN."""
    equal: Array
    if not value.is_valid or pa.types.is_null(column.type):
        equal = column.is_null() if not value.is_valid else pa.repeat(pa.scalar(False), len(column))
    elif pa.types.is_floating(column.type) and value.as_py() != value.as_py():
        equal = pc.is_nan(column).fill_null(False)
    else:
        equal = pc.equal(column, value).fill_null(False)
    result: BoolArray = equal.to_numpy(zero_copy_only=False)
    return result


def answer_of(batches: Iterable[pa.RecordBatch], most: int) -> tuple[pa.RecordBatch | None, bool]:
    """What an operator found as one batch, no larger than an answer may be; and whether there is more.

    Raises:
        QueryError: one row alone is larger.
    """
    parts: list[pa.RecordBatch] = []
    left = most
    more = False
    for batch in _filled(batches):
        if left == 0:
            more = True
            break
        parts.append(batch.slice(0, left))
        more = batch.num_rows > left
        left -= parts[-1].num_rows
    if not parts:
        return None, False
    tables = [pa.Table.from_batches([part]) for part in parts]  # rows of one side of a join have fields of their own
    whole = pa.concat_tables(tables, promote_options="permissive").combine_chunks().to_batches()[0]
    while whole.nbytes > MOST_BYTES:
        if whole.num_rows == 1:
            raise QueryError(f"a row has {whole.nbytes:,} bytes, and an answer {MOST_BYTES:,} at most")
        whole, more = whole.slice(0, whole.num_rows // 2), True
    return whole, more


def _filled(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (b for b in batches if b.num_rows)


def beside(taken: Iterable[str], name: str) -> str:
    """What is told beside the user's own fields, under a name that none of them has: underscores make it another."""
    taken = set(taken)
    while name in taken:
        name += "_"
    return name


def as_text(values: Iterable[Any]) -> Array:
    """Python state as a column of JSON."""
    return pa.array([as_json(v) for v in values], pa.string())


def as_json(value: Any) -> str:
    """Python state as JSON; what JSON has no form for as its `repr`."""
    try:
        return json.dumps(value, default=repr, ensure_ascii=False)
    except (TypeError, ValueError):  # keys of a dict that are no text, or what holds itself
        return json.dumps(repr(value), ensure_ascii=False)


def _described(schema: pa.Schema) -> str:
    fields = ", ".join(f"{f.name!r} ({f.type})" for f in schema)
    return f"{_counted(len(schema), 'field')}: {fields}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
