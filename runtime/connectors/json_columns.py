"""JSON lines to columns without parsing each: most lines of a block are laid out like one that is known.

The lines are sorted by layout (`json_layout`), and the values of each layout's lines are cut out and read a column at
a time (`json_values`). A line of no known layout, or with a value that does not fit its field, is left to
`json_rows`, which decides what is good and why the rest is bad; the rows are put back in order. So the
result is that of `json_rows` alone, which a property test holds against it.

Layouts are learned as they are met, and forgotten when others were of more use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from millstream.connectors.base import BadRecord, Decoded
from millstream.connectors.cells import MISFIT, Array, Field, no_columns
from millstream.connectors.json_layout import Layout, Match, NotALayout, Path
from millstream.connectors.json_rows import RowDecoder
from millstream.connectors.json_scan import Scan
from millstream.connectors.json_values import (
    Unfit,
    ValueReader,
    are_lists,
    are_values,
    equals,
    read_present,
    reader_for,
    unescaped,
    value_reader,
)
from millstream.connectors.text import Offsets

_MAX_LAYOUTS = 16
_TRIED_A_BLOCK = 8
_LEARNED_A_BLOCK = 4
_FEW = 1 / 10
_MAX_BLOCK_BYTES = 1 << 30
"""Arrow's strings have offsets of 32 bits."""


class _Part(NamedTuple):
    """Some lines of a block, ascending, and their rows."""

    lines: Offsets
    columns: pa.RecordBatch


class ColumnDecoder:
    """Reads blocks of JSON lines by layout. Its answers do not depend on which blocks it has seen before."""

    @classmethod
    def for_schema(cls, schema: pa.Schema, rows: RowDecoder, few: float = _FEW) -> ColumnDecoder | None:
        """
        Args:
            schema: the fields to read.
            rows: reads what has no layout.
            few: the share of a block's lines that is not worth looking at their layout.

        Returns:
            The decoder, or None where a field has a type that only ``rows`` can read.
        """
        readers: dict[Path, ValueReader] = {}
        return cls(schema, readers, rows, few) if _collect(list(schema), (), readers) else None

    def __init__(self, schema: pa.Schema, readers: dict[Path, ValueReader], rows: RowDecoder, few: float) -> None:
        self._few = few
        self._schema = schema
        self._readers = readers
        self._rows = rows
        self._layouts: list[Layout] = []  # the last used first

    def decode(self, data: bytes) -> Decoded:
        """Decode whole lines. Never raises for what they hold."""
        if not data or len(data) > _MAX_BLOCK_BYTES:
            return self._rows.decode(data)
        scan = Scan(data)
        parts = self._parts(scan)
        if 2 * sum(len(part.lines) for part in parts) < len(scan.ends):
            return self._rows.decode(data)
        return self._with_rest(scan, parts)

    # ------------------------------------------------------------ lines by layout

    def _parts(self, scan: Scan) -> list[_Part]:
        """The rows of the lines whose layout is known or can be learned."""
        lines = np.arange(len(scan.ends))
        if len(scan.doubtful):
            lines = np.delete(lines, scan.doubtful)
        few = len(lines) * self._few
        parts: list[_Part] = []
        for layout in self._layouts[:_TRIED_A_BLOCK]:
            if len(lines) > few:
                lines = self._take_part(layout, scan, lines, parts)
        for _ in range(_LEARNED_A_BLOCK):
            if len(lines) <= few:
                break
            try:
                layout = Layout(scan.data[scan.starts[lines[0]] : scan.ends[lines[0]] + 1])
            except NotALayout:
                lines = lines[1:]
            else:
                lines = self._take_part(layout, scan, lines, parts)
        return parts

    def _take_part(self, layout: Layout, scan: Scan, lines: Offsets, parts: list[_Part]) -> Offsets:
        """Read those of the lines that have a layout; what is left."""
        try:
            part = self._read(layout, scan, lines)
        except MISFIT:
            return lines
        if not len(part.lines):
            return lines
        parts.append(part)
        self._layouts = [layout, *(other for other in self._layouts if other is not layout)][:_MAX_LAYOUTS]
        if len(part.lines) == len(lines):
            return lines[:0]
        left = np.ones(len(lines), np.bool_)
        left[np.searchsorted(lines, part.lines)] = False
        return lines[left]

    def _read(self, layout: Layout, scan: Scan, lines: Offsets) -> _Part:
        """Raises one of `MISFIT` when a value does not fit the field it is read for."""
        match = layout.match(scan, lines)
        match = self._with_good_values(layout, match)
        source = _Source(layout, match, scan.has_escapes, self._readers)
        if not len(match.lines) or not len(self._schema):
            return _Part(match.lines, no_columns(len(match.lines)))
        columns = [source.column(field, (field.name,)) for field in self._schema]
        return _Part(match.lines, pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def _with_good_values(self, layout: Layout, match: Match) -> Match:
        """Without the lines in which a value without quotes that nobody reads is no JSON."""
        read = {slot for path, slot in layout.slot_at.items() if path in self._readers}
        alike: dict[Any, list[int]] = {}
        for number, slot in enumerate(layout.slots):
            if slot.kind != "quoted" and number not in read:
                alike.setdefault(None if slot.kind == "list" else reader_for(slot.example), []).append(number)
        for reader, slots in alike.items():
            if not len(match.lines):
                break
            text = match.text(slots)
            good = are_lists(text) if reader is None else are_values(text, reader)
            if not good.all():
                whole: NDArray[np.bool_] = np.logical_and.reduce(good.reshape(len(slots), -1))
                match = match.only(whole)
        return match

    # ------------------------------------------------------------ all lines

    def _with_rest(self, scan: Scan, parts: list[_Part]) -> Decoded:
        """The rows of all parts, and those of the lines in none of them, in the order of the block."""
        lines = np.concatenate([part.lines for part in parts])
        bad: list[BadRecord] = []
        if len(lines) < len(scan.ends):
            known = np.zeros(len(scan.ends), np.bool_)
            known[lines] = True
            rest, bad = self._rest(scan, np.flatnonzero(~known))
            parts = [*parts, rest]
        return Decoded(self._in_order(parts, len(scan.ends)), bad)

    def _rest(self, scan: Scan, lines: Offsets) -> tuple[_Part, list[BadRecord]]:
        starts, ends = scan.starts[lines].tolist(), scan.ends[lines].tolist()
        texts = [scan.data[start:end] for start, end in zip(starts, ends, strict=True)]
        decoded = self._rows.decode(b"\n".join(texts))
        bad = [record._replace(offset=starts[record.line], line=int(lines[record.line])) for record in decoded.bad]
        good = np.array([bool(text.strip(b" \t\r")) for text in texts])
        good[[record.line for record in decoded.bad]] = False
        return _Part(lines[good], decoded.columns), bad

    def _in_order(self, parts: Sequence[_Part], lines: int) -> pa.RecordBatch:
        if len(parts) == 1:
            return parts[0].columns
        if not len(self._schema):
            return no_columns(sum(len(part.lines) for part in parts))
        at = np.concatenate([part.lines for part in parts])
        position = np.full(lines, -1)
        position[at] = np.arange(len(at))
        order: Array = pa.array(position[position >= 0])
        pieces = zip(*(part.columns.columns for part in parts), strict=True)
        columns: list[Array] = [pa.concat_arrays(list(of_parts)).take(order) for of_parts in pieces]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


class _Source(NamedTuple):
    """Where the columns of a layout's lines come from."""

    layout: Layout
    match: Match
    has_escapes: bool
    readers: dict[Path, ValueReader]

    def column(self, field: Field, path: Path) -> Array:
        """The column of the field at a path. Raises one of `MISFIT` when one of its values does not fit."""
        layout, rows = self.layout, len(self.match.lines)
        reader = self.readers.get(path)
        if path in layout.arrays or (path in layout.objects and reader is not None):
            raise Unfit("an array, or an object where a single value is expected")
        if path in layout.objects:
            children = [self.column(child, (*path, child.name)) for child in field.type]
            return pa.StructArray.from_arrays(children, fields=list(field.type))
        if path not in layout.slot_at:
            return pa.nulls(rows, field.type)
        slot = layout.slot_at[path]
        text = self.match.text([slot])
        quoted = layout.slots[slot].kind == "quoted"
        if reader is not None and reader.quoted and quoted:
            return reader.read(unescaped(text) if self.has_escapes else text)
        if reader is not None and reader.quoted == quoted:
            return read_present(text, reader.read)
        if quoted or not pc.all(equals(text, "null")).as_py():
            raise Unfit("another type")
        return pa.nulls(rows, field.type)


def _collect(fields: Sequence[Field], path: Path, readers: dict[Path, ValueReader]) -> bool:
    """Add the readers of all fields within; False where one has none."""
    for field in fields:
        here = (*path, field.name)
        if pa.types.is_struct(field.type):
            if not field.type.num_fields or not _collect(list(field.type), here, readers):
                return False
        elif (reader := value_reader(field)) is not None:
            readers[here] = reader
        else:
            return False
    return True
