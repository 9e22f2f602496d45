"""Schemas: from what the user declares, narrowed to what the flow reads, and how columns are made to fit.

A ``schema=`` is an Arrow schema, a dataclass, a TypedDict, a named tuple class or a dict of names to types.
Python types become the Arrow types that everything in Millstream uses: int64, double, string, microseconds
in UTC. Columns that come in another shape (dictionary-encoded, 32 bits wide, naive times) are converted
where nothing can be lost by it, and refused by name where something could.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from millstream.errors import SchemaError, unknown_field

_SCALARS: Final[dict[Any, pa.DataType]] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    datetime: pa.timestamp("us", "UTC"),
    date: pa.date32(),
    time: pa.time64("us"),
    timedelta: pa.duration("us"),
    # A Python Decimal has no fixed scale: 29 digits before the point and 9 after it, as in SQL's NUMERIC.
    Decimal: pa.decimal128(38, 9),
}


def to_schema(declared: Any) -> pa.Schema:
    """The Arrow schema of a ``schema=`` argument.

    Raises:
        TypeError: it is none of the kinds above, or an annotation has no Arrow type; names the field.
    """
    if isinstance(declared, pa.Schema):
        return declared
    members = _members(declared)
    if members is None:
        raise TypeError("expected a pyarrow schema, a dataclass, a TypedDict or a dict of field names to types")
    return pa.schema(_fields(members, ""))


def _members(declared: Any) -> Mapping[str, Any] | None:
    """Names to types, or None where ``declared`` has none."""
    if isinstance(declared, Mapping):
        return declared
    named_tuple = isinstance(declared, type) and issubclass(declared, tuple) and hasattr(declared, "_fields")
    if is_dataclass(declared) or typing.is_typeddict(declared) or named_tuple:
        return typing.get_type_hints(declared, include_extras=True)
    return None


def _fields(members: Mapping[str, Any], prefix: str) -> list[pa.Field[Any]]:
    """Every field is nullable, annotated so or not: data has gaps, and a missing field must not fail a batch."""
    fields = []
    for name, annotation in members.items():
        if not isinstance(name, str):
            raise TypeError(f"field names are text, found {name!r}")
        if isinstance(annotation, pa.Field):
            fields.append(annotation.with_name(name))
        else:
            fields.append(pa.field(name, _arrow_type(annotation, prefix + name)))
    return fields


def _arrow_type(annotation: Any, where: str) -> pa.DataType:
    if isinstance(annotation, pa.DataType):
        return annotation
    if isinstance(annotation, typing.NewType):
        return _arrow_type(annotation.__supertype__, where)
    members = _members(annotation)
    if members is not None:
        return pa.struct(_fields(members, f"{where}."))
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    return _generic_type(annotation, typing.get_origin(annotation), typing.get_args(annotation), where)


def _generic_type(annotation: Any, origin: Any, arguments: Sequence[Any], where: str) -> pa.DataType:
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        return _arrow_type(arguments[0], where)
    if origin in (typing.Union, types.UnionType):
        return _only([a for a in arguments if a is not type(None)], annotation, where)
    if origin is typing.Literal:
        return _only(list(dict.fromkeys(type(a) for a in arguments if a is not None)), annotation, where)
    if origin in (list, Sequence) or (origin is tuple and arguments[1:] == (...,)):
        return pa.list_(_arrow_type(arguments[0], f"{where}[]"))
    if origin in (dict, Mapping):
        key, value = (_arrow_type(a, f"{where}{{}}") for a in arguments)
        return pa.map_(key, value)
    raise TypeError(f"field {where!r}: no column type for {getattr(annotation, '__name__', annotation)!s}")


def _only(kinds: Sequence[Any], annotation: Any, where: str) -> pa.DataType:
    if set(kinds) == {int, float}:
        return pa.float64()
    if len(kinds) != 1:
        raise TypeError(f"field {where!r}: {annotation} is of several types; a column has one")
    return _arrow_type(kinds[0], where)


# ---------------------------------------------------------------- projection


def narrow(schema: pa.Schema, fields: Sequence[str] | None, where: str) -> pa.Schema:
    """The part of a schema that the flow reads, in the schema's own order.

    Args:
        schema: all fields.
        fields: the names; "bid.price" reads one child of a struct. None: all.
        where: the source, for the error.
    Raises:
        SchemaError: there is no such field.
    """
    if fields is None:
        return schema
    wanted: dict[str, list[str]] = {}
    for name in fields:
        top, _, below = (name, "", "") if name in schema.names else name.partition(".")
        if top not in schema.names:
            raise unknown_field(name, schema.names, where)
        wanted.setdefault(top, []).append(below)
    return pa.schema([_narrow_field(f, wanted[f.name], where) for f in schema if f.name in wanted])


def _narrow_field(field: pa.Field[Any], below: Sequence[str], where: str) -> pa.Field[Any]:
    if "" in below:
        return field
    if not pa.types.is_struct(field.type):
        raise SchemaError(f"{where}: field {field.name!r} is {field.type}, it has no field {below[0]!r}")
    children = narrow(pa.schema(list(field.type)), below, f"{where}, field {field.name!r}")
    return field.with_type(pa.struct(list(children)))


# ---------------------------------------------------------------- making columns fit


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with every dictionary- or run-end-encoded type replaced by the type of its values."""
    return pa.schema([f.with_type(_plain_throughout(f.type)) for f in schema])


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, for a type that only stores them in another way."""
    while pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    return kind


def _plain_throughout(kind: pa.DataType) -> pa.DataType:
    kind = plain_type(kind)
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_plain_throughout(f.type)) for f in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_throughout(kind.value_type)))
    return kind


def conform(columns: pa.RecordBatch, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """The columns of ``schema``, in its order and types; others are left out.

    Integers become wider integers or floats, naive times are UTC, encoded columns become plain. A float
    becomes an integer only where it is whole.

    Raises:
        SchemaError: a field is missing or holds what its type cannot; names field, types and ``where``.
    """
    if columns.schema.equals(schema):
        return columns
    arrays = []
    for field in schema:
        index = columns.schema.get_field_index(field.name)
        if index < 0:
            raise unknown_field(field.name, columns.schema.names, where)
        arrays.append(_fit(columns.column(index), field.type, f"{where}: field {field.name!r}"))
    if not arrays:
        return without_columns(columns.num_rows)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def without_columns(rows: int) -> pa.RecordBatch:
    """A batch of no fields that still knows how many rows it has."""
    no_fields: Any = pa.array([{}] * rows, pa.struct([]))
    return pa.RecordBatch.from_struct_array(no_fields)


def array_of(values: Sequence[Any], wanted: pa.DataType, where: str) -> pa.Array[Any]:
    """Python values as a column of a type.

    Arrow would make 1 of 1.5 where it is told to make integers; here every value keeps what it means.

    Raises:
        SchemaError: one does not fit.
    """
    try:
        found: pa.Array[Any] = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise SchemaError(f"{where}: expected {wanted}: {error}") from error
    return _fit(found, wanted, where)


def _fit(column: pa.Array[Any], wanted: pa.DataType, where: str) -> pa.Array[Any]:
    if pa.types.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)  # type: ignore[attr-defined]
    if column.type == wanted:
        return column
    if not _same_kind(column.type, wanted):
        raise SchemaError(f"{where}: expected {wanted}, found {column.type}; declare it so with schema=")
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"{where}: expected {wanted}, found {column.type} that does not fit: {error}") from error


def _same_kind(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a cast keeps what a value means. Arrow would also make 1 of true, and "1" of 1."""
    found, wanted = _plain_throughout(found), _plain_throughout(wanted)
    if pa.types.is_null(found):
        return True
    if pa.types.is_nested(found) or pa.types.is_nested(wanted):
        return pa.types.is_nested(found) and pa.types.is_nested(wanted)
    text = _is_text(found)
    if text and (_is_time(wanted) or pa.types.is_decimal(wanted)):
        return True  # ISO 8601, and digits, as in JSON
    return _kind(found) == _kind(wanted)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if _is_text(kind):
        return "text"
    return "time" if _is_time(kind) else str(kind).partition("[")[0]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_time(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)
