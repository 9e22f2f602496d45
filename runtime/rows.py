"""Rows for the user's functions, and columns from what they return.

A row is a tuple with names: attribute and item access (``e.price``, ``e["price"]``), made a column at a
time, without a dictionary per event. One class is made for each set of field names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from operator import itemgetter
from typing import Any

import pyarrow as pa

from millstream.batch import EMPTY_COLUMNS, make_columns
from millstream.errors import FlowError, SchemaError, unknown_field


class Row(tuple[Any, ...]):
    """One event, as a user's function sees it: read only, fields by attribute or by item."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()
    _index: dict[str, int] = {}

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            try:
                return tuple.__getitem__(self, self._index[key])
            except KeyError:
                raise KeyError(str(unknown_field(key, self._fields, "event"))) from None
        return tuple.__getitem__(self, key)

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that are no field: fields are properties of the row's own class.
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(str(unknown_field(name, self._fields, "event")))

    def with_(self, **changes: Any) -> Row:
        """The same row with fields changed or added: ``e.with_(price=2, currency="EUR")``."""
        index = self._index
        values = list(self)
        added: list[str] = []
        for name, value in changes.items():
            if name in index:
                values[index[name]] = value
            else:
                added.append(name)
                values.append(value)
        kind = row_class((*self._fields, *added)) if added else type(self)
        return tuple.__new__(kind, values)

    def get(self, name: str, default: Any = None) -> Any:
        index = self._index.get(name)
        return default if index is None else tuple.__getitem__(self, index)

    def to_dict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def __repr__(self) -> str:
        return f"({', '.join(f'{n}={v!r}' for n, v in zip(self._fields, self, strict=True))})"


@lru_cache(maxsize=1024)
def row_class(fields: tuple[str, ...]) -> type[Row]:
    """The class of rows with these fields."""
    members: dict[str, Any] = {"__slots__": (), "_fields": fields, "_index": {n: i for i, n in enumerate(fields)}}
    for number, name in enumerate(fields):
        if name.isidentifier() and name not in ("with_", "get", "to_dict") and not name.startswith("__"):
            members[name] = property(itemgetter(number))
    return type("Row", (Row,), members)


def rows_of(columns: pa.RecordBatch) -> list[Row]:
    """The rows of a batch as Python values: timestamps as ``datetime`` in UTC, structs as dicts, lists as lists."""
    kind = row_class(tuple(columns.schema.names))
    return list(map(tuple.__new__, repeat(kind, columns.num_rows), zip(*map(python_values, columns.columns), strict=True)))


def python_values(column: pa.Array) -> list[Any]:
    """A column as Python values. The NumPy way is many times faster than Arrow's own where it is exact."""
    kind = column.type
    if column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_float32(kind)):
        values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        return values
    return list(column.to_pylist())


def columns_of(results: Sequence[Any], schema: pa.Schema | None, where: str) -> pa.RecordBatch:
    """What a user's function returned, as columns.

    Args:
        results: dicts, dataclasses, named tuples or rows, all with the same fields; or plain values,
            which become the one field ``value``.
        schema: the declared types, else they are inferred: integers as int64, numbers as double.
        where: the operator, for errors.
    Raises:
        SchemaError: the results do not fit together, with the field and the two types.
    """
    if not results:
        return EMPTY_COLUMNS if schema is None else pa.RecordBatch.from_pylist([], schema=schema)
    names, values = _fields_of(results, where)
    if schema is not None:
        missing = [n for n in schema.names if n not in names]
        if missing:
            raise SchemaError(f"{where}: the function returned no field {missing[0]!r}, which schema= declares; it returned {', '.join(names)}")
        order = [names.index(n) for n in schema.names]
        return make_columns(schema.names, [_array(values[i], schema.field(n).type, n, where) for i, n in zip(order, schema.names, strict=True)])
    return make_columns(names, [_array(v, None, n, where) for n, v in zip(names, values, strict=True)])


def _fields_of(results: Sequence[Any], where: str) -> tuple[list[str], list[Sequence[Any]]]:
    first = results[0]
    if isinstance(first, Row):
        kind = type(first)
        if all(map(_is_exactly, results, repeat(kind))):
            return list(kind._fields), list(zip(*results, strict=True))
        return _fields_of([r.to_dict() if isinstance(r, Row) else r for r in results], where)
    if isinstance(first, Mapping):
        return _mapping_fields(results, where)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return list(first._fields), list(zip(*results, strict=True))
    if dataclasses.is_dataclass(first):
        names = [f.name for f in dataclasses.fields(first)]
        return names, [[getattr(r, n) for r in results] for n in names]
    return ["value"], [results]


def _is_exactly(value: object, kind: type) -> bool:
    return type(value) is kind


def _mapping_fields(results: Sequence[Any], where: str) -> tuple[list[str], list[Sequence[Any]]]:
    names = list(results[0])
    width = len(names)
    try:
        if all(len(r) == width for r in results):
            return names, [[r[n] for r in results] for n in names]
    except (KeyError, TypeError):
        pass  # the rows differ in their fields: take the union, with nulls
    union: dict[str, None] = {}
    for result in results:
        if not isinstance(result, Mapping):
            raise SchemaError(f"{where}: the function returned a dict for some events and a {type(result).__name__} for others")
        union.update(dict.fromkeys(result))
    return list(union), [[r.get(n) for r in results] for n in union]


def _array(values: Sequence[Any], kind: pa.DataType | None, name: str, where: str) -> pa.Array:
    try:
        array = pa.array(values, type=kind, from_pandas=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, TypeError) as error:
        if kind is None and all(v is None or isinstance(v, int | float) for v in values):
            return pa.array([None if v is None else float(v) for v in values], type=pa.float64())
        wanted = f" as {kind}" if kind is not None else ""
        raise SchemaError(
            f"{where}: field {name!r} cannot be a column{wanted}: {error}; return one type per field, or say schema="
        ) from error
    if pa.types.is_timestamp(array.type) and kind is None:
        return array.cast(pa.timestamp("us", array.type.tz or "UTC"))
    return array


def declared_schema(schema: Any) -> pa.Schema | None:
    """The Arrow schema of a ``schema=`` argument: an Arrow schema, a dataclass or a TypedDict."""
    if schema is None:
        return None
    from millstream.schema import to_schema  # the conversion pulls in typing machinery that most flows never need

    try:
        return to_schema(schema)
    except TypeError as error:
        raise FlowError(f"schema={schema!r}: {error}") from error


def chunks(columns: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, columns.num_rows, rows):
        yield columns.slice(start, rows)
