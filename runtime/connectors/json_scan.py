"""Where the lines and strings of a block of JSON lines begin and end.

All that a parser of JSON must find byte by byte are quotes, escapes and control characters. NumPy compares every byte
of the block with them and packs the answers into words of 64 bits, as simdjson does (Langdale and Lemire,
"Parsing Gigabytes of JSON per Second", VLDB Journal 28, 2019). In these, the next quote after a place is a few operations
away, for any number of places at once.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from millstream.connectors.text import Offsets, is_utf8

Words = NDArray[np.uint64]

_NEWLINE, _BACKSLASH, _U = b"\n\\u"
_ODD_BITS = np.uint64(0xAAAA_AAAA_AAAA_AAAA)
_ONE, _LAST_BIT = np.uint64(1), np.uint64(63)


class Scan:
    """A block of lines, and its *specials*: quotes that are not escaped, and control characters."""

    data: bytes
    """The block; ends with a newline, which is added where the last line has none."""
    starts: Offsets
    """int64[lines]: where each line starts."""
    ends: Offsets
    """int64[lines]: where its newline is."""
    doubtful: Offsets
    """Numbers of the lines, ascending, that hold an escape not known to be good, or perhaps invalid UTF-8."""
    has_escapes: bool

    def __init__(self, data: bytes) -> None:
        """
        Args:
            data: whole lines, at least one byte.
        """
        self.data = data if data.endswith(b"\n") else data + b"\n"
        raw = np.frombuffer(self.data, np.uint8)
        self.ends = positions(raw == _NEWLINE)
        self.starts = np.zeros(len(self.ends), np.int64)
        np.add(self.ends[:-1], 1, out=self.starts[1:])
        # The exclusive or exchanges '"' (0x22) with space (0x20), and control characters with one another.
        special = np.bitwise_xor(raw, np.uint8(0x02))
        specials = _packed(np.less(special, 0x21, out=special.view(np.bool_)))
        doubtful = [np.empty(0, np.int64)]
        self.has_escapes = b"\\" in self.data
        if self.has_escapes:
            escaped, backslashes = _escaped(raw)
            specials &= ~escaped
            doubtful.append(_doubtful_escapes(raw, _bit_positions(escaped & ~backslashes)))
        # Beyond the end, for searches that start in the last word or at the end.
        specials[-1] |= ~np.uint64(0) << np.uint64((len(raw) - 1) & 63)
        self._specials = np.append(specials, [~np.uint64(0)] * 2)
        if not is_utf8(self.data):
            doubtful.append(np.flatnonzero(raw >= 0x80))
        self.doubtful = np.unique(np.searchsorted(self.ends, np.concatenate(doubtful)))

    def next_special(self, at: Offsets) -> Offsets:
        """The offset of the first special at or after each of the offsets in the block; its length for its end."""
        word, bit = at >> 6, (at & 63).view(np.uint64)
        ahead = self._specials.take(word) >> bit
        word += 1
        ahead |= (self._specials.take(word) << _ONE) << (_LAST_BIT - bit)
        found: Offsets = at + np.bitwise_count(~ahead & (ahead - _ONE))
        if not ahead.all():
            far = np.flatnonzero(ahead == 0)
            found[far] = self.next_special(at[far] + 64)
        return found


def escaped_positions(raw: NDArray[np.uint8]) -> Offsets:
    """The offsets of the characters that backslashes escape."""
    return np.sort(_bit_positions(_escaped(raw)[0]))


def _escaped(raw: NDArray[np.uint8]) -> tuple[Words, Words]:
    """Bits for the characters that a backslash escapes, and for the backslashes.

    Within a word a subtraction finds them, as in simdjson: in a run of backslashes every other one, from the first,
    escapes what follows.
    """
    backslashes = _packed(raw == _BACKSLASH)
    escapes, escaped = _escapes(backslashes, np.uint64(0))
    # A word may begin with a character that the last bit of the one before escapes. That may change its own last bit.
    carried = np.zeros(len(backslashes), np.bool_)
    while True:
        carry = escapes.view(np.int64) < 0
        carry[1:], carry[0] = carry[:-1].copy(), False
        changed = np.flatnonzero(carry != carried)
        if not len(changed):
            break
        escapes[changed], escaped[changed] = _escapes(backslashes[changed], carry[changed].astype(np.uint64))
        carried = carry
    return escaped, backslashes


def _escapes(backslashes: Words, first_is_escaped: Words | np.uint64) -> tuple[Words, Words]:
    """Bits for the backslashes that escape, and for the characters that are escaped."""
    potential = backslashes & ~first_is_escaped
    ends = ((potential << _ONE) | _ODD_BITS) - potential
    both = ends ^ _ODD_BITS
    return both & backslashes, both ^ (backslashes | first_is_escaped)


def _doubtful_escapes(raw: NDArray[np.uint8], escaped: Offsets) -> Offsets:
    """The escaped characters that JSON does not know, or that need a closer look."""
    chars = raw[escaped]
    doubtful = escaped[~_is_one_of(b'"\\/bfnrtu')[chars]]
    if not (chars == _U).any():
        return doubtful
    # Four hexadecimal digits must follow, and no half of a surrogate pair.
    unicode = escaped[chars == _U]
    digits = raw[np.minimum(unicode[:, None] + np.arange(1, 5), len(raw) - 1)]
    good = _is_one_of(b"0123456789abcdefABCDEF")[digits].all(axis=1)
    surrogate = _is_one_of(b"dD")[digits[:, 0]] & _is_one_of(b"89abcdefABCDEF")[digits[:, 1]]
    return np.concatenate([doubtful, unicode[~good | surrogate]])


def _packed(mask: NDArray[np.bool_]) -> Words:
    """The mask as bits."""
    words = np.zeros(-(-len(mask) // 64), np.uint64)
    packed = np.packbits(mask, bitorder="little")
    words.view(np.uint8)[: len(packed)] = packed
    return words


def _bit_positions(words: Words) -> Offsets:
    """The numbers of the set bits, in no order."""
    found = [np.empty(0, np.int64)]
    at = np.flatnonzero(words)
    words = words[at]
    while len(at):
        found.append(64 * at + np.bitwise_count(~words & (words - _ONE)))
        words &= words - _ONE
        more = words != 0
        at, words = at[more], words[more]
    return np.concatenate(found)


def positions(mask: NDArray[np.bool_]) -> Offsets:
    """`np.flatnonzero`, but twice as fast where few are set and none within eight bytes of another."""
    whole = len(mask) // 8 * 8
    words = mask[:whole].view(np.uint64)
    some = words != 0
    if np.count_nonzero(some) > len(some) // 16:
        return np.flatnonzero(mask)
    at = np.flatnonzero(some)
    words = words[at]
    if (words & (words - _ONE)).any():
        return np.flatnonzero(mask)
    head = 8 * at + (np.bitwise_count(words - _ONE) >> 3)
    return np.concatenate([head, whole + np.flatnonzero(mask[whole:])])


@cache
def _is_one_of(chars: bytes) -> NDArray[np.bool_]:
    """bool[256]: a table to look bytes up in."""
    table = np.zeros(256, np.bool_)
    table[list(chars)] = True
    return table
