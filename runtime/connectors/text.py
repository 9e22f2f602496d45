"""Cutting text into records: where a block of lines or of CSV may end.

A source reads bytes in pieces of any size; a record must never be torn between two blocks. Both cuts
below depend on the bytes of the file alone and not on how they were read, so the same records come out
wherever the pieces end.

CSV is the harder one: a newline inside a quoted field ends nothing, and a quote means something only at
the start of a field (``5" pipe`` is plain data). Where all quotes stand where RFC 4180 wants them, their
parity decides, which NumPy finds at memory speed; otherwise a regular expression walks the records.
A quote that is never closed would swallow the file: a record that does not end within
`MAX_RECORD_BYTES` is taken to end at its first newline instead. So one broken line costs one line.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MAX_RECORD_BYTES = 1 << 20
RAW_BYTES = 64 << 10
"""How much of a bad record is kept for the dead letters."""

BOM = b"\xef\xbb\xbf"
"""The byte order mark: may open a file, and is then the source's to remove."""

Payload = bytes | memoryview | pa.Buffer

Offsets = NDArray[np.int64]

_NEWLINE = 0x0A


def as_bytes(block: Payload) -> bytes:
    """The block as bytes, without a copy where it is bytes already."""
    return block if isinstance(block, bytes) else bytes(memoryview(block))


def is_utf8(data: bytes) -> bool:
    """Whether all of ``data`` is valid UTF-8; next to free for ASCII."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def cut_lines(data: bytes | memoryview, *, at_end: bool) -> int:
    """The length of the prefix that holds whole lines.

    Args:
        data: the bytes from the start of a line.
        at_end: nothing follows, so a last line without a newline is whole.
    """
    return len(data) if at_end else as_bytes(data).rfind(b"\n") + 1


def cut_csv(data: bytes | memoryview, *, at_end: bool, quote: bytes = b'"', delimiter: bytes = b",") -> int:
    """The length of the prefix that holds whole CSV records.

    Args:
        data: the bytes from the start of a record.
        at_end: nothing follows, so whatever is left belongs to the prefix.
        quote: one byte, or none where the format has no quotes.
        delimiter: one byte.
    """
    if at_end:
        return len(data)
    data = as_bytes(data)
    if not quote or quote not in data:
        return data.rfind(b"\n") + 1
    ends = csv_records(data, at_end=False, quote=quote, delimiter=delimiter).ends
    return int(ends[-1]) if len(ends) else 0


class Records(NamedTuple):
    """Where the records of a block end, and which of them cannot be decoded whatever they hold."""

    ends: Offsets
    """int64[n]: for each record the offset just after its newline."""
    broken: dict[int, str]
    """Record number -> why: a quote that is not closed, or too long."""


def csv_records(data: bytes, *, at_end: bool, quote: bytes = b'"', delimiter: bytes = b",") -> Records:
    """The records of ``data``, which starts with one. Without ``at_end`` an unfinished last one is left out."""
    ends = _ends_by_parity(data, quote, delimiter)
    if ends is not None:
        start = int(ends[-1]) if len(ends) else 0
        # An open quote at the end is settled by the walk: more may come, or it never closes.
        if at_end and start < len(data) and (not quote or data.count(quote, start) % 2 == 0):
            ends, start = np.append(ends, len(data)), len(data)
        pending = len(data) - start
        lengths = np.diff(ends, prepend=0)
        if (pending == 0 or (not at_end and pending <= MAX_RECORD_BYTES)) and (lengths <= MAX_RECORD_BYTES).all():
            return Records(ends, {})
    return _walk(data, at_end, quote, delimiter)


def _ends_by_parity(data: bytes, quote: bytes, delimiter: bytes) -> Offsets | None:
    """The newlines with an even number of quotes before them, or None where a quote stands inside a plain field."""
    raw = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(raw == _NEWLINE)
    if not quote or quote not in data:
        return newlines + 1
    quotes = np.flatnonzero(raw == ord(quote))
    opening, closing = quotes[::2], quotes[1::2]
    # An even one opens a field or is the second of a doubled pair; an odd one closes a field or is the first of a pair.
    before = raw[np.maximum(opening - 1, 0)]
    after = raw[np.minimum(closing + 1, len(raw) - 1)]
    opens = _is_one_of(delimiter + quote + b"\n")[before] | (opening == 0)
    closes = _is_one_of(delimiter + quote + b"\r\n")[after] | (closing == len(raw) - 1)
    if not (opens.all() and closes.all()):
        return None
    inside = np.searchsorted(quotes, newlines) & 1
    ends: Offsets = newlines[inside == 0] + 1
    return ends


@cache
def _is_one_of(chars: bytes) -> NDArray[np.bool_]:
    """bool[256]: a table to look bytes up in."""
    table = np.zeros(256, np.bool_)
    table[list(chars)] = True
    return table


def _walk(data: bytes, at_end: bool, quote: bytes, delimiter: bytes) -> Records:
    """The records one after the other: for data with stray or open quotes, or with very long records."""
    pattern = record_pattern(quote, delimiter)
    ends: list[int] = []
    broken: dict[int, str] = {}
    start = 0
    while start < len(data):
        limit = min(start + MAX_RECORD_BYTES, len(data))
        match = pattern.match(data, start, limit)
        end = match.end() if match else start
        if match and (data[end - 1] == _NEWLINE or (at_end and end == len(data))):
            ends.append(end)
            start = end
            continue
        if not at_end and len(data) - start <= MAX_RECORD_BYTES:
            break
        newline = data.find(b"\n", start)
        if newline < 0 and not at_end:
            break
        end = newline + 1 or len(data)
        long = end - start > MAX_RECORD_BYTES
        broken[len(ends)] = f"longer than {MAX_RECORD_BYTES} bytes" if long else "a quote is not closed"
        ends.append(end)
        start = end
    return Records(np.array(ends, np.int64), broken)


@cache
def record_pattern(quote: bytes, delimiter: bytes, plain: bytes = rb"[^%b\n]") -> re.Pattern[bytes]:
    """One record with its newline. Possessive throughout: it never backtracks, and an open quote is no match.

    Args:
        quote: one byte, or none.
        delimiter: one byte.
        plain: what stands outside quotes, with %b for the delimiter.
    """
    q, d = re.escape(quote), re.escape(delimiter)
    outside = plain % d + rb"*+"
    field = rb"(?:%b(?:[^%b]++|%b%b)*+%b%b|(?!%b)%b)" % (q, q, q, q, q, outside, q, outside) if quote else outside
    return re.compile(rb"%b(?:%b%b)*+(?:\n|\Z)" % (field, d, field))
