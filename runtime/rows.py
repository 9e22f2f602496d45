"""Rows for the user's functions, and columns from what they return.

A row is a tuple with names: attribute and item access (``e.price``, ``e["price"]``), made a column at a
time, without a dictionary per event. One class is made for each set of field names.
"""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import repeat
from operator import itemgetter
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pyarrow as pa

from millstream.batch import EMPTY_COLUMNS, Array, concat_columns, make_columns
from millstream.errors import FlowError, SchemaError, unknown_field
from millstream.schema import array_of, to_schema

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Row(tuple[Any, ...]):
    """One event, as a user's function sees it: read only, fields by attribute or by item.

    Times are kept as Arrow has them, numbers, and become ``datetime``s when they are looked at: most
    functions pass most times on untouched. The tuple underneath holds those numbers, everything that a
    user can reach gives the value.
    """

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()
    _index: ClassVar[dict[str, int]] = {}
    _raw: ClassVar[dict[int, pa.DataType]] = {}
    _changes: ClassVar[dict[tuple[str, ...], tuple[type[Row], tuple[int, ...] | None]]] = {}

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            try:
                key = self._index[key]
            except KeyError:
                raise KeyError(str(unknown_field(key, self._fields, "event"))) from None
        elif self._raw:
            return tuple(self)[key]
        value = tuple.__getitem__(self, key)
        return _seen(value, self._raw[key]) if key in self._raw else value

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that are no field: fields are properties of the row's own class.
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(str(unknown_field(name, self._fields, "event")))

    def with_(self, **changes: Any) -> Row:
        """The same row with fields changed or added: ``e.with_(price=2, currency="EUR")``."""
        names = tuple(changes)
        change = self._changes.get(names)
        if change is None:
            change = self._changes[names] = self._change(names)
        kind, places = change
        if places is None:
            return _new(kind, _join(self, tuple(changes.values())))
        values = list(_stored(self))
        for place, value in zip(places, changes.values(), strict=True):
            values[place : place + 1] = (value,)
        return _new(kind, values)

    @classmethod
    def _change(cls, names: tuple[str, ...]) -> tuple[type[Row], tuple[int, ...] | None]:
        """The class of a row with these fields changed, and their places; None when all are new."""
        added = tuple(n for n in names if n not in cls._index)
        fields = (*cls._fields, *added)
        raw = tuple((i, t) for i, t in cls._raw.items() if cls._fields[i] not in names)
        kind = row_class(fields, raw)
        return kind, None if len(added) == len(names) else tuple(kind._index[n] for n in names)

    def get(self, name: str, default: Any = None) -> Any:
        """The field of that name, or ``default`` where the row has none; a field without a value is None."""
        return self[name] if name in self._index else default

    def to_dict(self) -> dict[str, Any]:
        """The fields and their values, in the order of the fields."""
        return dict(zip(self._fields, self, strict=True))

    def __repr__(self) -> str:
        return f"({', '.join(f'{n}={v!r}' for n, v in zip(self._fields, self, strict=True))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self._fields, tuple(self._raw.items()), tuple(_stored(self)))


_new = tuple.__new__
_join = tuple.__add__
_stored = tuple.__iter__


def _rebuilt(fields: tuple[str, ...], raw: tuple[tuple[int, pa.DataType], ...], values: tuple[Any, ...]) -> Row:
    return _new(row_class(fields, raw), values)


def _seen(number: int | None, kind: pa.DataType) -> Any:
    """The Python value of a stored number of microseconds."""
    if number is None:
        return None
    if isinstance(kind, pa.TimestampType):
        moment = _EPOCH + timedelta(microseconds=number)
        return moment if kind.tz in ("UTC", None) else moment.astimezone(ZoneInfo(kind.tz))
    return timedelta(microseconds=number)


def _iterate(row: Row) -> Iterator[Any]:
    """The values of a row that has raw fields."""
    raw = row._raw
    return iter([_seen(v, raw[i]) if i in raw else v for i, v in enumerate(_stored(row))])


def _seen_field(number: int, kind: pa.DataType) -> property:
    def look(row: Row) -> Any:
        return _seen(tuple.__getitem__(row, number), kind)

    return property(look)


@lru_cache(maxsize=1024)
def row_class(fields: tuple[str, ...], raw: tuple[tuple[int, pa.DataType], ...] = ()) -> type[Row]:
    """The class of rows with these fields, of which ``raw`` hold microseconds."""
    kinds = dict(raw)
    index = {n: i for i, n in enumerate(fields)}
    members: dict[str, Any] = {"__slots__": (), "_fields": fields, "_index": index, "_raw": kinds, "_changes": {}}
    # A named tuple's own field descriptors read any tuple's place in C, five times faster than a property could.
    # It is held meanwhile, for the garbage collector empties the namespace of a class that nobody holds.
    held = [namedtuple("_Places", [f"f{i}" for i in range(len(fields))])]
    places = vars(held[0])
    for number, name in enumerate(fields):
        if name.isidentifier() and name not in _METHODS and not name.startswith("__"):
            members[name] = _seen_field(number, kinds[number]) if number in kinds else places[f"f{number}"]
    if kinds:
        members["__iter__"] = _iterate
    return type("Row", (Row,), members)


_METHODS = frozenset(("with_", "get", "to_dict"))


def rows_of(columns: pa.RecordBatch) -> list[Row]:
    """The rows of a batch as Python values: timestamps as ``datetime`` in UTC, structs as dicts, lists as lists."""
    raw = tuple((i, _in_us(f.type)) for i, f in enumerate(columns.schema) if _is_raw(f.type))
    kind = row_class(tuple(columns.schema.names), raw)
    return list(map(_new, repeat(kind, columns.num_rows), zip(*map(_row_values, columns.columns), strict=True)))


def _is_raw(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_duration(kind)


def _in_us(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp("us", kind.tz or "UTC") if isinstance(kind, pa.TimestampType) else pa.duration("us")


def _row_values(column: Array) -> list[Any]:
    if _is_raw(column.type):
        in_us = column.type if column.type.unit == "us" else _in_us(column.type)
        return python_values(column.cast(in_us, safe=False).view(pa.int64()))
    return python_values(column)


def python_values(column: Array) -> list[Any]:
    """A column as Python values. The way by NumPy is many times faster than Arrow's own where it is exact."""
    kind = column.type
    if column.null_count == 0 and (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    ):
        values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        return values
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return list(column.to_numpy(zero_copy_only=False))
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
    try:
        names, values = _fields_of(results, where)
    except (AttributeError, ValueError) as error:
        kinds = sorted({type(r).__name__ for r in results})
        raise SchemaError(
            f"{where}: the function returned different kinds of things: {', '.join(kinds)}; return one kind"
        ) from error
    raw = type(results[0])._raw if isinstance(results[0], Row) and set(map(type, results)) == {type(results[0])} else {}
    if schema is not None:
        missing = [n for n in schema.names if n not in names]
        if missing:
            raise SchemaError(
                f"{where}: the function returned no field {missing[0]!r}, which schema= declares; "
                f"it returned {', '.join(names)}"
            )
        places = [(names.index(f.name), f) for f in schema]
        arrays = [
            _array(values[i], raw[i], f.name, where).cast(f.type)
            if i in raw
            else array_of(values[i], f.type, f"{where}: field {f.name!r}")
            for i, f in places
        ]
        return make_columns(schema.names, arrays)
    arrays = [_array(v, raw.get(i), n, where) for i, (n, v) in enumerate(zip(names, values, strict=True))]
    return make_columns(names, arrays)


def joined(parts: Sequence[pa.RecordBatch], where: str) -> pa.RecordBatch:
    """What a function returned for several slices of a batch, as one; numbers widen, missing fields are null.

    Raises:
        SchemaError: a field has types in different slices that do not go together.
    """
    try:
        return concat_columns(parts)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise SchemaError(
            f"{where}: the function returned different types in one field: {error}; return one, or say schema="
        ) from error


def _fields_of(results: Sequence[Any], where: str) -> tuple[list[str], list[Sequence[Any]]]:
    first = results[0]
    if isinstance(first, Row):
        kind = type(first)
        if set(map(type, results)) == {kind}:
            return list(kind._fields), list(zip(*map(_stored, results), strict=True))
        return _fields_of([r.to_dict() if isinstance(r, Row) else r for r in results], where)
    if isinstance(first, Mapping):
        return _mapping_fields(results, where)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        _all_alike(results, where)
        return list(first._fields), list(zip(*results, strict=True))
    if dataclasses.is_dataclass(first):
        _all_alike(results, where)
        names = [f.name for f in dataclasses.fields(first)]
        return names, [[getattr(r, n) for r in results] for n in names]
    return ["value"], [results]


def _all_alike(results: Sequence[Any], where: str) -> None:
    first = type(results[0])
    other = next((k for k in map(type, results) if k is not first), None)
    if other is not None:
        raise SchemaError(
            f"{where}: the function returned a {first.__name__} for some events and a {other.__name__} for others"
        )


def _mapping_fields(results: Sequence[Any], where: str) -> tuple[list[str], list[Sequence[Any]]]:
    names = list(results[0])
    width = len(names)
    try:
        if set(map(len, results)) == {width}:
            return names, [list(map(itemgetter(n), results)) for n in names]
    except (KeyError, TypeError):
        pass  # the rows differ in their fields: take the union, with nulls
    union: dict[str, None] = {}
    for result in results:
        if not isinstance(result, Mapping):
            raise SchemaError(
                f"{where}: the function returned a dict for some events and a {type(result).__name__} for others"
            )
        union.update(dict.fromkeys(result))
    return list(union), [[r.get(n) for r in results] for n in union]


def _array(values: Sequence[Any], kind: pa.DataType | None, name: str, where: str) -> Array:
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
    try:
        return to_schema(schema)
    except TypeError as error:
        raise FlowError(f"schema={schema!r}: {error}") from error
