"""Layouts: what lines of JSON have in common that differ in nothing but their values.

Programs write their records the same way each time: the same keys in the same order, with the same spaces. Such a
line is a row of constant *pieces*, with a *slot* for one value between each two:

    piece {"key":"   slot   piece ","ts":   slot   piece ,"value":   slot   piece }\\n

A layout is learned from one line, which is parsed in full. Which other lines have it is found for all of them at
once and without parsing: each piece must be where the next special is (`json_scan`), a quote or the newline, that it
starts with or holds. So no slot holds a special: one between quotes is one whole string, and the line is one
well-formed record if each slot without quotes holds a number or a word of JSON, which is for `json_values` to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from millstream.connectors.cells import Array
from millstream.connectors.json_scan import Scan
from millstream.connectors.text import Offsets

Path = tuple[str, ...]
"""The names that lead from the record to a value."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[-+.0-9a-zA-Z]+|[{}\[\]:,]|[ \t\r\n]+', re.DOTALL)
_PUNCTUATION = (b"{", b"}", b"[", b"]", b":", b",")
_SPECIAL = re.compile(rb'["\x00-\x1f]')
_REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_parse = msgspec.json.Decoder().decode


class NotALayout(ValueError):
    """Nothing can be learned from this line."""


class Slot(NamedTuple):
    """The place of one value: of a string, whose quotes belong to the pieces, or of a number or a word.

    Numbers and words that follow one another in an array share a slot, with their commas, however many they are.
    """

    kind: Literal["quoted", "plain", "list"]
    example: bytes


class Layout:
    """The pieces and slots of a kind of line. Immutable."""

    slots: list[Slot]
    slot_at: dict[Path, int]
    """Which slot holds a value. Values in arrays have slots, but no path."""
    objects: set[Path]
    arrays: set[Path]

    def __init__(self, line: bytes) -> None:
        """
        Args:
            line: one line, with its newline.

        Raises:
            NotALayout: it is no good record, names a field twice, or has two values with neither a quote nor a
                comma alone in between (a list of lists of numbers).
        """
        try:
            if not isinstance(_parse(line), dict):
                raise NotALayout("not an object")
        except _REFUSED as error:
            raise NotALayout(str(error)) from error
        self.slots, self.slot_at = [], {}
        self.objects, self.arrays = set(), set()
        self._pieces = list(self._learn(line))
        found = [_SPECIAL.search(piece) for piece in self._pieces]
        if not all(found[1:]):
            raise NotALayout("two values without a quote in between")
        self._offsets = [special.start() if special else 0 for special in found]

    def _learn(self, line: bytes) -> Iterator[bytes]:
        """Walk through a well-formed line; note the slots, and yield the pieces."""
        tokens: list[bytes] = _TOKEN.findall(line)
        within: list[tuple[bytes, Path | None]] = [(b"", None)]  # open brackets, and the path of what they are
        names: set[Path] = set()
        path: Path | None = ()
        piece = b""
        for number, token in enumerate(tokens):
            bracket, outer = within[-1]
            if bracket == b"[":
                path = None
            if token in _PUNCTUATION or token.isspace():
                if token in b"{[":
                    if path is not None:
                        (self.objects if token == b"{" else self.arrays).add(path)
                    within.append((token, path))
                elif token in b"}]":
                    within.pop()
                piece += token
            elif token.startswith(b'"') and _is_name(tokens, number):
                path = _member(outer, token)
                if path is not None and path in names:
                    raise NotALayout("a field twice")
                names |= {path} if path is not None else set()
                piece += token
            elif token.startswith(b'"'):
                yield piece + b'"'
                piece = b'"'
                self._add_slot(Slot("quoted", token[1:-1]), path)
            elif bracket != b"[":
                yield piece
                piece = b""
                self._add_slot(Slot("plain", token), path)
            elif self.slots and self.slots[-1].kind == "list" and not piece.strip(b", \t"):
                piece = b""  # goes on with the list that the slot holds
            else:
                yield piece
                piece = b""
                self._add_slot(Slot("list", token), path)
        yield piece

    def _add_slot(self, slot: Slot, path: Path | None) -> None:
        if path is not None:
            self.slot_at[path] = len(self.slots)
        self.slots.append(slot)

    def match(self, scan: Scan, lines: Offsets) -> Match:
        """Those of the lines, ascending, that have this layout, whatever is in slots without quotes."""
        at = scan.starts[lines]
        bounds: list[tuple[Offsets, Offsets]] = []
        for number, piece in enumerate(self._pieces):
            if number:
                start = at
                at = scan.next_special(start)
                if offset := self._offsets[number]:
                    at -= offset
                bounds.append((start, at))
            fits = _holds(scan.data, at, piece)
            # A piece could begin within the one before, at spaces that both have.
            if number and self._offsets[number] and (at < start).any():
                fits = (at >= start) & (fits if fits is not None else True)
            if fits is not None:
                lines, at = lines[fits], at[fits]
                bounds = [(start[fits], end[fits]) for start, end in bounds]
                if not len(lines):
                    break
            at = at + len(piece)
        return Match(scan.data, lines, bounds)


class Match(NamedTuple):
    """The lines of a block that have a layout, and where their slots are."""

    data: bytes
    lines: Offsets
    bounds: Sequence[tuple[Offsets, Offsets]]

    def only(self, rows: NDArray[np.bool_]) -> Match:
        return Match(self.data, self.lines[rows], [(start[rows], end[rows]) for start, end in self.bounds])

    def text(self, slots: Sequence[int]) -> Array:
        """What is in some of the slots, as strings, one slot after the other."""
        rows = len(self.lines) * len(slots)
        # The slots and what lies between them are the strings of one array over the block; every other one is taken.
        offsets = np.empty(2 * rows + 1, np.int32)
        for i, slot in enumerate(slots):
            part = offsets[2 * len(self.lines) * i : 2 * len(self.lines) * (i + 1)]
            part[::2], part[1::2] = self.bounds[slot]
        offsets[-1] = len(self.data)
        strings: Array = pa.StringArray.from_buffers(2 * rows, _buffer(offsets), pa.py_buffer(self.data))
        return strings.take(pa.array(np.arange(0, 2 * rows, 2, dtype=np.int32)))


def _is_name(tokens: Sequence[bytes], number: int) -> bool:
    following = tokens[number + 1 : number + 3]
    return following[0] == b":" or (following[0].isspace() and following[1] == b":")


def _member(within: Path | None, token: bytes) -> Path | None:
    if b"\\" in token:
        raise NotALayout("a name with an escape")
    return None if within is None else (*within, token[1:-1].decode())


def _holds(data: bytes, at: Offsets, piece: bytes) -> NDArray[np.bool_] | None:
    """Whether ``data`` holds ``piece`` at each of the ascending offsets; None: it does at all of them."""
    rows, size = len(at), len(piece)
    if not size or not rows:
        return None
    last = len(data) - size
    if at[-1] > last:
        inside = at <= last
        equal = _holds(data, at[inside], piece)
        inside[inside] = True if equal is None else equal
        return inside
    windows: Any = np.ndarray((last + 1,), f"V{size}", data, strides=(1,))
    same = windows[at].view(np.uint8) == np.frombuffer(piece * rows, np.uint8)
    if same.all():
        return None
    whole: NDArray[np.bool_] = same.reshape(rows, size).all(axis=1)
    return whole


def _buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(array)  # type: ignore[arg-type]
