"""JSON lines to columns by way of one typed Python object for each record: any line, any schema, and every reason.

msgspec checks types while it parses and skips fields outside the schema without building them, and one decoder
serves a whole block as well as a single line, so both ways of decoding take the same records by construction
(docs/formats.md has the figures). The rows it makes live for one block and are turned into columns at once. A
block that does not decode whole, or whose records are not one to a line, is decoded line by line, and each bad line
says which field expected what.

What is accepted, and what is said of the rest, is decided here. `json_columns` reads most lines faster, and must agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, Optional

import msgspec
import numpy as np
import pyarrow as pa

from millstream.connectors.base import BadRecord, Decoded
from millstream.connectors.cells import (
    MISFIT,
    Array,
    Field,
    epoch_unit,
    is_binary,
    is_text,
    misfits,
    no_columns,
    reader_of_text,
    times_from_epoch,
)
from millstream.connectors.json_scan import positions
from millstream.connectors.spread import Spread
from millstream.connectors.text import RAW_BYTES, is_utf8
from millstream.errors import SchemaError

# Deep nesting is refused where Python's own recursion limit is, about 1000 levels.
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_NAME = re.compile(r'[^"\\\x00-\x1f]*')  # what msgspec takes as a field's name
_BLANK = b" \t\r"

_parse_any = msgspec.json.Decoder().decode


class RowDecoder:
    """Lines of JSON to columns, a record at a time.

    A record is one line with one JSON object. A field of the schema that is missing or null is null; one that
    holds another type makes the record bad, except that integers fit float fields. Of a field given twice the
    last counts. Fields outside the schema may hold any well-formed value. Blank lines are skipped.
    """

    def __init__(self, schema: pa.Schema) -> None:
        """
        Args:
            schema: the fields to read, structs with the children to read. Times are ISO 8601, or integers where
                the field's metadata has a ``unit``; dates are ISO 8601; binary is base64; decimals are numbers
                or strings, taken to the digit.

        Raises:
            SchemaError: a field is there twice or has a type that JSON cannot give.
        """
        self.schema = schema
        row_type, readers = _row_reader(list(schema), "")
        self._decoder = msgspec.json.Decoder(row_type)
        self._fields = list(zip(map(_taker, range(len(readers))), readers, strict=True))
        for field, reader in zip(schema, readers, strict=True):
            _check_supported(field, reader)

    def decode(self, data: bytes) -> Decoded:
        """Decode whole lines. Never raises for what they hold."""
        rows = self._rows_at_once(data)
        if rows is not None:
            try:
                return Decoded(self._columns(rows), [])
            except MISFIT:
                pass
        return self.decode_each(data)

    def decode_each(self, data: bytes) -> Decoded:
        """Decode line by line: what `decode` does with a block that has a bad record. The result is the same."""
        rows: list[msgspec.Struct] = []
        lines: list[tuple[int, int, bytes]] = []
        bad: list[BadRecord] = []
        offset = 0
        decode, whole_utf8 = self._decoder.decode, is_utf8(data)
        for number, line in enumerate(data.split(b"\n")):
            if record := line.strip(_BLANK):
                try:
                    if not whole_utf8:
                        record.decode()
                    rows.append(decode(record))
                    lines.append((offset, number, line))
                except _REFUSED:
                    bad.append(self._bad(offset, number, line))
            offset += len(line) + 1
        try:
            return Decoded(self._columns(rows), bad)
        except MISFIT:
            unfit = self._misfits(rows)
            bad += [self._bad(*lines[i]) for i in unfit]
            fit = [row for i, row in enumerate(rows) if i not in unfit]
            return Decoded(self._columns(fit), sorted(bad))

    def _rows_at_once(self, data: bytes) -> list[msgspec.Struct] | None:
        """The rows, or None unless every line is one good record."""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if not is_utf8(data):
            return None
        try:
            rows: list[msgspec.Struct] = self._decoder.decode_lines(data)
        except _REFUSED:
            return None
        return rows if _one_a_line(data, len(rows)) else None

    def _columns(self, rows: Sequence[msgspec.Struct]) -> pa.RecordBatch:
        if not self._fields:  # a batch made of no columns would forget how many rows it has
            return no_columns(len(rows))
        columns = [reader.build(take(rows)) for take, reader in self._fields]
        batch: pa.RecordBatch = pa.RecordBatch.from_arrays(columns, schema=self.schema)
        return batch

    def _misfits(self, rows: Sequence[msgspec.Struct]) -> set[int]:
        """The rows with a value of the right JSON type that its column cannot hold: too large, not a time."""
        return {position for take, reader in self._fields for position in misfits(take(rows), reader.build)}

    def _bad(self, offset: int, number: int, line: bytes) -> BadRecord:
        raw = line.removesuffix(b"\r")
        return BadRecord(offset, number, raw[:RAW_BYTES], self._reason(line.strip(_BLANK)))

    def _reason(self, line: bytes) -> str:
        """Why a line is bad. Parsed anew without types, so that the value itself can be shown."""
        try:
            line.decode()
            value = _parse_any(line)
        except _REFUSED as error:
            return f"not well-formed JSON: {error}"
        if not isinstance(value, dict):
            return f"expected one JSON object, found {_shown(value)}"
        for field, (_, reader) in zip(self.schema, self._fields, strict=True):
            if found := _misfit(value.get(field.name), field, reader, field.name):
                return found
        return "the record does not fit the schema"


def _one_a_line(data: bytes, rows: int) -> bool:
    """Whether ``rows`` objects that follow one another in ``data`` lie one to a line.

    They do when each line starts with { and ends with }, and there are as many lines: inside an object no } can
    be followed by {, nor can a string hold a newline, so every line starts and ends between objects.
    """
    raw = np.frombuffer(data, np.uint8)
    newlines = positions(raw == ord("\n"))
    if not data.endswith(b"\n"):
        newlines = np.append(newlines, len(raw))
    if not rows or len(newlines) != rows:
        return False
    starts = np.append(0, newlines[:-1] + 1)
    return bool((raw[starts] == ord("{")).all() and (raw[newlines - 1] == ord("}")).all())


# ---------------------------------------------------------------- values to columns


_Taker = Callable[[Sequence[msgspec.Struct]], list[Any]]


class _Reader(NamedTuple):
    """How one field is read: the type msgspec checks it against, and what makes a column of the values."""

    accepts: Any
    build: Callable[[list[Any]], Array]
    children: Sequence[tuple[Field, _Reader]] = ()


def _row_reader(fields: Sequence[Field], where: str) -> tuple[type[msgspec.Struct], list[_Reader]]:
    """A struct type with the fields f0, f1, ..., so that any name may stand in the JSON."""
    names = [field.name for field in fields]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SchemaError(f"schema: field {where + twice!r} is there twice")
    if refused := [name for name in names if not _NAME.fullmatch(name)]:
        raise SchemaError(
            f"schema: field {where + refused[0]!r}: JSON names with quotes or backslashes are not supported"
        )
    readers = [_reader(field, where + field.name) for field in fields]
    members = [(f"f{i}", Optional[reader.accepts], None) for i, reader in enumerate(readers)]  # noqa: UP045
    rename = {f"f{i}": name for i, name in enumerate(names)}
    # gc=False: rows hold no cycles, and the collector would otherwise walk each of them.
    return msgspec.defstruct("Row", members, rename=rename, gc=False), readers


def _reader(field: Field, where: str) -> _Reader:
    type_ = field.type
    if pa.types.is_struct(type_):
        fields = list(type_)
        row_type, readers = _row_reader(fields, where + ".")
        children = list(zip(fields, readers, strict=True))
        return _Reader(row_type, partial(_build_struct, list(map(_taker, range(len(fields)))), children), children)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        item = _reader(type_.value_field, where + "[]")
        children = [(type_.value_field, item)]
        return _Reader(list.__class_getitem__(Optional[item.accepts]), partial(_build_list, type_, item), children)  # noqa: UP045
    if (unit := epoch_unit(field)) is not None:
        return _Reader(int, lambda values: times_from_epoch(_integers(values), unit, type_))
    if pa.types.is_dictionary(type_):
        inner = _reader(pa.field(field.name, type_.value_type), where)
        return _Reader(inner.accepts, lambda values: inner.build(values).cast(type_))
    if pa.types.is_duration(type_):
        return _Reader(int, lambda values: _integers(values).cast(pa.duration("us")).cast(type_))
    if pa.types.is_integer(type_) and type_ != pa.uint64():
        return _Reader(int, lambda values: _integers(values).cast(type_))
    if pa.types.is_temporal(type_) or is_binary(type_):
        read = reader_of_text(field)
        return _Reader(str, lambda values: read(pa.array(values, pa.string())))
    return _Reader(_python_type(field, where), partial(pa.array, type=type_))


def _python_type(field: Field, where: str) -> Any:
    type_ = field.type
    if is_text(type_):
        return str
    if pa.types.is_boolean(type_):
        return bool
    if pa.types.is_integer(type_):
        return int
    if pa.types.is_floating(type_):
        return float
    if pa.types.is_decimal(type_):
        return Decimal
    if pa.types.is_null(type_):
        return None
    raise SchemaError(f"field {where!r}: JSON cannot be read as {type_}")


def _integers(values: list[Any]) -> Array:
    """Integers and nulls as int64."""
    try:
        return pa.array(np.fromiter(values, np.int64, len(values)))
    except TypeError:  # a null; nothing else that is no integer comes here
        return pa.array(values, pa.int64())


def _build_struct(takers: Sequence[_Taker], children: Sequence[tuple[Field, _Reader]], values: list[Any]) -> Array:
    fields = [field for field, _ in children]
    if not fields:
        return pa.array([None if value is None else {} for value in values], pa.struct([]))
    # Of several records that a line may hold most are missing: only those that are there are looked into.
    there = [value for value in values if value is not None]
    arrays = [reader.build(take(there)) for take, (_, reader) in zip(takers, children, strict=True)]
    if len(there) == len(values):
        return pa.StructArray.from_arrays(arrays, fields=fields)
    missing = np.frombuffer(bytes([value is None for value in values]), np.bool_)
    spread = Spread(~missing)
    return pa.StructArray.from_arrays(list(map(spread.column, arrays)), fields=fields, mask=pa.array(missing))


def _taker(position: int) -> _Taker:
    """The function that takes one field out of all rows.

    Compiled with the attribute's name in it, as the interpreter then remembers where in the row it lies: twice as
    fast as `attrgetter`, and this is a third of the time of decoding.
    """
    take: _Taker = eval(f"lambda rows: [row.f{position:d} for row in rows]")
    return take


def _build_list(type_: Any, item: _Reader, values: list[Any]) -> Array:
    missing = pa.array([value is None for value in values], pa.bool_())
    lengths = np.fromiter((len(value) if value is not None else 0 for value in values), np.int64, len(values))
    if pa.types.is_fixed_size_list(type_):
        size = type_.list_size
        if any(value is not None and len(value) != size for value in values):
            raise ValueError(f"expected {size} items")
        items = [x for value in values for x in (value if value is not None else [None] * size)]
        return pa.FixedSizeListArray.from_arrays(item.build(items), type=type_, mask=missing)  # type: ignore[call-overload]
    flat = item.build([x for value in values if value is not None for x in value])
    large = pa.types.is_large_list(type_)
    offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int64() if large else pa.int32())
    array_type: Any = pa.LargeListArray if large else pa.ListArray
    return array_type.from_arrays(offsets, flat, type=type_, mask=missing)


def _check_supported(field: Field, reader: _Reader) -> None:
    try:
        reader.build([None])
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise SchemaError(f"field {field.name!r}: JSON cannot be read as {field.type}: {error}") from error


# ---------------------------------------------------------------- reasons


def _misfit(value: Any, field: Field, reader: _Reader, path: str) -> str | None:
    """The sentence for the first value that does not fit, the deepest one; None where all do."""
    if value is None:
        return None
    type_ = field.type
    if pa.types.is_struct(type_) and isinstance(value, dict):
        for child, child_reader in reader.children:
            if found := _misfit(value.get(child.name), child, child_reader, f"{path}.{child.name}"):
                return found
        return None
    if reader.children and not pa.types.is_struct(type_) and isinstance(value, list):
        child, child_reader = reader.children[0]
        for i, item in enumerate(value):
            if found := _misfit(item, child, child_reader, f"{path}[{i}]"):
                return found
    try:
        reader.build([msgspec.convert(value, reader.accepts)])
    except (msgspec.ValidationError, *MISFIT):
        return f"field {path!r}: expected {type_}, found {_shown(value)}"
    return None


def _shown(value: Any) -> str:
    """A value as JSON, cut to a length that fits a log line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    try:
        text = msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, OverflowError):
        text = str(value)  # an integer beyond 64 bits
    return text if len(text) <= 80 else text[:77] + "..."
