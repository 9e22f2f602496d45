"""Sums of integers that never wrap: int64 while it fits, 128 or 256 bits where it does not.

A wide integer is a row of 64-bit words, lowest first, in two's complement, which is how Arrow stores
decimals. To add up a group, the words are cut into 32-bit limbs, each limb is summed in int64 (exact for
up to 2^31 rows), and the carries are passed on once at the end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import Array
from millstream.grouping import BoolArray, Groups

Int64Array = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_LOW = np.int64(0xFFFF_FFFF)


def sum_int64(
    values: npt.NDArray[np.integer], groups: Groups, sign: npt.NDArray[np.int8] | None = None
) -> Int64Array | None:
    """The sum of each group, int64[groups]; None where one might not fit."""
    if len(values) and max(int(values.max()), -int(values.min())) * len(values) > np.iinfo(np.int64).max:
        return None
    sums = np.zeros(groups.count, np.int64)
    whole = values.astype(np.int64, copy=False)
    np.add.at(sums, groups.codes, whole if sign is None else whole * sign)
    return sums


def sum_words(words: Words, groups: Groups, width: int) -> Words | None:
    """The sum of each group in ``width`` words, uint64[groups, width]; None where one does not fit."""
    limbs = []
    for sums in _limbs(words):
        total = np.zeros(groups.count, np.int64)
        np.add.at(total, groups.codes, sums)
        limbs.append(total)
    carry = np.zeros(groups.count, np.int64)
    out = np.empty((groups.count, width), np.uint64)
    for i in range(2 * width):
        total = limbs[i] + carry if i < len(limbs) else carry
        limb, carry = total & _LOW, total >> 32
        if i % 2:
            out[:, i // 2] |= limb.view(np.uint64) << np.uint64(32)
        else:
            out[:, i // 2] = limb.view(np.uint64)
    sign = out[:, -1].view(np.int64) >> 63 if width else carry
    return out if (carry == sign).all() else None


def words_of(values: npt.NDArray[np.integer]) -> Words:
    """Integers of any width as two words each."""
    if values.dtype.kind == "u":
        low = values.astype(np.uint64, copy=False)
        return np.stack([low, np.zeros_like(low)], axis=1)
    signed = values.astype(np.int64, copy=False)
    return np.stack([signed.view(np.uint64), (signed >> 63).view(np.uint64)], axis=1)


def negated(words: Words, rows: BoolArray) -> Words:
    """The same numbers with those of some rows negated."""
    result = words.copy()
    part = ~words[rows]
    carry = np.ones(len(part), np.uint64)
    for word in range(part.shape[1]):
        part[:, word] += carry
        carry &= (part[:, word] == 0).astype(np.uint64)
    result[rows] = part
    return result


def words_of_decimals(array: Array) -> Words:
    """The unscaled values of decimals without nulls, two or four words each."""
    width = array.type.byte_width // 8
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.zeros((0, width), np.uint64)
    words = np.frombuffer(memoryview(buffer), np.uint64, count=len(array) * width, offset=array.offset * width * 8)
    return words.reshape(-1, width)


def decimals_of(words: Words, kind: pa.DataType, present: BoolArray) -> Array:
    """Decimals from their unscaled values; null where ``present`` is false."""
    width = kind.byte_width // 8
    if words.shape[1] < width:
        sign = (words[:, -1].view(np.int64) >> 63).view(np.uint64)
        words = np.concatenate([words, *[sign[:, None]] * (width - words.shape[1])], axis=1)
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little").data)
    return pa.Array.from_buffers(kind, len(words), [validity, pa.py_buffer(np.ascontiguousarray(words).data)])


def fits_int64(words: Words) -> bool:
    """Whether every value would fit one signed word."""
    sign = (words[:, :1].view(np.int64) >> 63).view(np.uint64)
    return bool((words[:, 1:] == sign).all())


def _limbs(words: Words) -> list[Int64Array]:
    """The 32-bit limbs, lowest first; the highest carries the sign."""
    limbs = []
    last = words.shape[1] - 1
    for i in range(last + 1):
        signed = np.ascontiguousarray(words[:, i]).view(np.int64)
        high = signed >> 32
        limbs += [signed & _LOW, high if i == last else high & _LOW]
    return limbs
