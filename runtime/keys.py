"""From key to key group to worker: a hash that is the same in every process, version and restart.

The hash is over a canonical encoding of the key: any integer width as int64, any string type as its
UTF-8 bytes, a float that is a whole number as int64, one NaN, null as a key of its own. It is computed a
column at a time: eight bytes of every key in one NumPy step, mixed as in MurmurHash3 (Appleby, 2011) and
finished with SplitMix64 (Steele et al., OOPSLA 2014). Keys longer than `LANE_LIMIT_BYTES` take BLAKE2b
one by one.

Changing a constant here moves keys to other key groups and so invalidates every checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, as_numpy
from millstream.errors import SchemaError

KEY_GROUPS: Final = 256
LANE_LIMIT_BYTES: Final = 128
_LANE_BYTES: Final = 8

HashArray = npt.NDArray[np.uint64]

_SEED = np.uint64(0x9E3779B97F4A7C15)
_LANE = np.uint64(0x87C37B91114253D5)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_NULL_HASH = np.uint64(0x6A09E667F3BCC909)
_ROUGH = np.random.default_rng(7).integers(2**64, size=LANE_LIMIT_BYTES // _LANE_BYTES, dtype=np.uint64) | np.uint64(1)


def hash_keys(columns: Sequence[Array]) -> HashArray:
    """The stable hash of each row's key, uint64[n].

    Args:
        columns: the key fields, at least one, of equal length. Strings, binary, integers, floats,
            booleans, dates, times, timestamps, durations, decimals, dictionaries of these, and null.
    Raises:
        SchemaError: a type that cannot be a key.
    """
    hashes = _hash_column(columns[0])
    for column in columns[1:]:
        hashes = _finish(hashes * _LANE + _hash_column(column))
    return hashes


def key_groups(hashes: HashArray) -> npt.NDArray[np.uint8]:
    """The key group of each hash, 0 to 255."""
    return (hashes >> np.uint64(56)).astype(np.uint8)


def group_owners(workers: int) -> npt.NDArray[np.uint16]:
    """The worker that owns each key group, uint16[256]: contiguous ranges, as equal as they come."""
    return (np.arange(KEY_GROUPS) * workers // KEY_GROUPS).astype(np.uint16)


def _hash_column(column: Array) -> HashArray:
    kind = column.type
    hashes: HashArray
    if pa.types.is_dictionary(kind):
        assert isinstance(column, pa.DictionaryArray)
        if len(column.dictionary):
            hashes = _hash_column(column.dictionary)[column.indices.fill_null(0).to_numpy(zero_copy_only=False)]
        else:
            hashes = np.zeros(len(column), np.uint64)
    elif pa.types.is_null(kind):
        return np.full(len(column), _NULL_HASH)
    elif _is_plain_text(kind):
        hashes = _hash_binary(column)
    elif pa.types.is_floating(kind):
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False) + 0.0  # -0.0 + 0.0 is 0.0
        hashes = _finish(_float_bits(values) ^ _SEED)
    elif pa.types.is_decimal(kind) or pa.types.is_string_view(kind):
        hashes = _hash_binary(column.cast(pa.string()))
    elif pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind):
        hashes = _hash_binary(column.cast(pa.binary()))
    else:
        hashes = _finish(_as_int64(column).view(np.uint64) ^ _SEED)
    if column.null_count:
        hashes[pc.is_null(column).to_numpy(zero_copy_only=False)] = _NULL_HASH
    return hashes


def _float_bits(values: npt.NDArray[np.float64]) -> HashArray:
    """A whole number as int64, else the bits: streams of integers and of floats may meet in a union."""
    bits: HashArray = np.where(np.isnan(values), np.nan, values).view(np.uint64)
    whole = (values == np.floor(values)) & (np.abs(values) < 2.0**63)
    bits[whole] = values[whole].astype(np.int64).view(np.uint64)
    return bits


def _as_int64(column: Array) -> npt.NDArray[np.int64]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz), safe=False).view(pa.int64())
    elif pa.types.is_duration(kind):
        column = column.cast(pa.duration("us"), safe=False).view(pa.int64())
    elif pa.types.is_date32(kind) or pa.types.is_time32(kind):
        column = column.view(pa.int32())
    elif pa.types.is_date64(kind) or pa.types.is_time64(kind):
        column = column.view(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise SchemaError(f"key_by: a field of type {kind} cannot be a key; use .cast(...) or a field of it")
    return column.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False)


def of_one_length(column: Array) -> bool:
    """Whether a column is of texts that are all of the same length, which makes them several times cheaper to hash."""
    return bool(len(column)) and _is_plain_text(column.type) and _even(_offsets(column))


def _is_plain_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind) or _is_large(kind))


def _is_large(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_large_binary(kind))


def rough_hashes(column: Array) -> HashArray:
    """Hashes of texts of one length that cost half as much: for tables in memory alone, as no other version need have them.

    Their upper bits are the better ones.
    """
    data = _even_content(column, _offsets(column))
    hashes = np.zeros(len(column), np.uint64)
    for (words, _), factor in zip(_even_lanes(data, len(column)), _ROUGH, strict=False):
        hashes ^= words * factor
    return hashes


def _even_content(column: Array, offsets: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.uint8]:
    first, last = int(offsets[0]), int(offsets[-1])
    return as_numpy(column.buffers()[2], np.uint8, last - first, first)


def _offsets(column: Array) -> npt.NDArray[np.signedinteger]:
    dtype: np.dtype[np.signedinteger] = np.dtype(np.int64 if _is_large(column.type) else np.int32)
    return as_numpy(column.buffers()[1], dtype, len(column) + 1, column.offset * dtype.itemsize)


def _even(offsets: npt.NDArray[np.signedinteger]) -> bool:
    first, second, last = offsets[[0, 1, -1]].tolist()
    length = second - first
    if not _LANE_BYTES <= length <= LANE_LIMIT_BYTES or last - first != length * (len(offsets) - 1):
        return False
    return bool((np.diff(offsets) == length).all())


def _hash_binary(column: Array) -> HashArray:
    count = len(column)
    if count == 0:
        return np.zeros(0, np.uint64)
    offsets = _offsets(column)
    if _even(offsets):
        return _hash_even(_even_content(column, offsets), count)
    first, last = int(offsets[0]), int(offsets[-1])
    # Eight spare bytes, so that the last key's last lane can be read whole.
    data = np.zeros(last - first + _LANE_BYTES, np.uint8)
    if last > first:
        data[: last - first] = as_numpy(column.buffers()[2], np.uint8, last - first, first)
    offsets = offsets.astype(np.int64) - first
    return _hash_uneven(data, offsets[:-1], np.diff(offsets))


def _hash_even(data: npt.NDArray[np.uint8], count: int) -> HashArray:
    """The hashes of texts of one length, eight bytes or more, that lie one behind the other: as of any texts, in a
    quarter of the time, for their lanes are read as they lie."""
    length = len(data) // count
    hashes = np.full(count, length, np.uint64) * _LANE ^ _SEED
    for words, known_bytes in _even_lanes(data, count):
        hashes = _mix(hashes, words >> np.uint64(8 * known_bytes) if known_bytes else words)
    return _finish(hashes)


def _even_lanes(data: npt.NDArray[np.uint8], count: int) -> Iterator[tuple[HashArray, int]]:
    """Eight bytes of each text after the other, and how many of these were in the lane before."""
    length = len(data) // count
    for lane in range(0, length, _LANE_BYTES):
        at = min(lane, length - _LANE_BYTES)
        yield np.ndarray((count,), np.uint64, buffer=data.data, offset=at, strides=(length,)), lane - at


def _hash_uneven(data: npt.NDArray[np.uint8], start: npt.NDArray[np.int64], length: npt.NDArray[np.int64]) -> HashArray:
    hashes = length.astype(np.uint64) * _LANE ^ _SEED
    long = np.flatnonzero(length > LANE_LIMIT_BYTES)
    words = np.ndarray((len(data) - _LANE_BYTES + 1,), np.uint64, buffer=data.data, strides=(1,))
    longest = min(int(length.max()), LANE_LIMIT_BYTES)
    for lane in range(0, longest, _LANE_BYTES):
        rest = length - lane
        if (rest > 0).all():
            hashes = _mix(hashes, _lane(words, start + lane, rest))
        else:
            rows = np.flatnonzero(rest > 0)
            hashes[rows] = _mix(hashes[rows], _lane(words, start[rows] + lane, rest[rows]))
    hashes = _finish(hashes)
    for row in long.tolist():
        key = data[start[row] : start[row] + length[row]].tobytes()
        hashes[row] = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
    return hashes


def _lane(words: HashArray, at: npt.NDArray[np.int64], rest: npt.NDArray[np.int64]) -> HashArray:
    """Eight bytes of each key, with zeros past its end."""
    spare_bits = (_LANE_BYTES - np.minimum(rest, _LANE_BYTES)).astype(np.uint64) * np.uint64(8)
    lane: HashArray = (words[at] << spare_bits) >> spare_bits
    return lane


def _mix(hashes: HashArray, lane: HashArray) -> HashArray:
    mixed = lane * _LANE
    mixed ^= hashes
    mixed *= _MIX_1
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _finish(hashes: HashArray) -> HashArray:
    hashes = hashes ^ (hashes >> np.uint64(30))
    hashes *= _MIX_1
    hashes ^= hashes >> np.uint64(27)
    hashes *= _MIX_2
    hashes ^= hashes >> np.uint64(31)
    return hashes
