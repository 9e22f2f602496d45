"""The hash of keys: the same in every process, version and representation."""

from __future__ import annotations

import datetime
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import SchemaError
from millstream.keys import KEY_GROUPS, LANE_LIMIT_BYTES, group_owners, hash_keys, key_groups, of_one_length

INTEGERS: list[pa.DataType] = [
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
]
STRINGS: list[pa.DataType] = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
]


def hashes(*columns: Any) -> list[int]:
    return [int(h) for h in hash_keys([c if isinstance(c, pa.Array) else pa.array(c) for c in columns])]


# A change of any of these moves keys to other key groups, and makes every checkpoint worthless.
KNOWN: list[tuple[Any, pa.DataType, int]] = [
    ("a", pa.string(), 0xB253CD81A55B0828),
    ("", pa.string(), 0xE220A8397B1DCDAF),
    ("eight by", pa.string(), 0xE1F61CD312405E2B),
    ("longer than eight bytes", pa.string(), 0x83EF4471900C7DA1),
    ("é€😀", pa.large_string(), 0x9A0EF2826B5A2294),
    ("x" * 128, pa.string(), 0x44DB9B43F75F339B),
    ("x" * 129, pa.string(), 0xA3A5EED8B914DE18),
    (b"\x00\xff", pa.binary(), 0xC74FF0E6A85F02D2),
    (b"abc", pa.binary(3), 0x6A72C84A7B9FD2FA),
    (0, pa.int8(), 0xE220A8397B1DCDAF),
    (1, pa.int64(), 0xE4D971771B652C20),
    (-1, pa.int16(), 0xDE0A564CBCD060C4),
    (9223372036854775807, pa.int64(), 0x39CA3C835068D818),
    (-9223372036854775808, pa.int64(), 0x481EC0A212A9F3DB),
    (18446744073709551615, pa.uint64(), 0xDE0A564CBCD060C4),
    (0.0, pa.float64(), 0xE220A8397B1DCDAF),
    (0.5, pa.float64(), 0xB8BBCB010D5173AC),
    (0.5, pa.float32(), 0xB8BBCB010D5173AC),
    (float("nan"), pa.float64(), 0x8709D8D19B4C0AC2),
    (float("inf"), pa.float64(), 0xA9FE2C7F019F06DA),
    (True, pa.bool_(), 0xE4D971771B652C20),
    (False, pa.bool_(), 0xE220A8397B1DCDAF),
    (None, pa.null(), 0x6A09E667F3BCC909),
    (None, pa.int64(), 0x6A09E667F3BCC909),
    (datetime.date(2024, 2, 29), pa.date32(), 0xE774C656B66050CA),
    (datetime.date(2024, 2, 29), pa.date64(), 0xDB0C3F0585529753),
    (datetime.time(1, 2, 3), pa.time32("s"), 0xD9B282615B07BD08),
    (datetime.time(1, 2, 3), pa.time64("us"), 0xFFADE726BF1A97B5),
    (datetime.datetime(1969, 12, 31, 23, 59, 59), pa.timestamp("ms"), 0x59702A5CB2234E3B),
    (datetime.timedelta(days=-1, seconds=86397), pa.duration("s"), 0x0A033D7E56F3690D),
    (Decimal("1.50"), pa.decimal128(10, 2), 0x3CFF53B9B8BA8560),
    (Decimal("-1.50"), pa.decimal256(50, 2), 0x881BA8DFBD6F0A3C),
]
COMPOSITE = 0x52866C0767E8B902
GROUPS = [178, 128, 40, 106]


@pytest.mark.parametrize(("value", "kind", "expected"), KNOWN, ids=[f"{v!r:.20} {t}" for v, t, _ in KNOWN])
def test_hashes_are_those_of_every_version(value: Any, kind: pa.DataType, expected: int) -> None:
    assert hashes(pa.array([value], kind)) == [expected]


def test_the_hash_of_several_fields_is_that_of_every_version() -> None:
    assert hashes(["a"], [1]) == [COMPOSITE]
    assert hashes([1], ["a"]) != [COMPOSITE]


def test_key_groups_are_those_of_every_version() -> None:
    assert key_groups(hash_keys([pa.array(["a", "b", "c", None])])).tolist() == GROUPS


# --- one key, many representations ---


@given(st.lists(st.one_of(st.none(), st.integers(0, 127)), min_size=1, max_size=10))
def test_integers_of_any_width_and_whole_floats_are_one_key(values: list[int | None]) -> None:
    expected = hashes(pa.array(values, pa.int64()))
    for kind in [*INTEGERS, pa.float32(), pa.float64()]:
        assert hashes(pa.array(values, kind)) == expected, kind


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), min_size=1, max_size=10))
def test_text_of_any_kind_is_one_key(values: list[str | None]) -> None:
    expected = hashes(pa.array(values, pa.string()))
    encoded = [None if v is None else v.encode() for v in values]
    for kind in STRINGS:
        rows: list[Any] = list(encoded if "binary" in str(kind) else values)
        assert hashes(pa.array(rows, kind)) == expected, kind
    assert hashes(pa.array(values, pa.string()).dictionary_encode()) == expected
    assert hashes(pa.array(values, pa.string()).dictionary_encode(null_encoding="encode")) == expected


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=20)), min_size=1, max_size=12),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_a_slice_has_the_hashes_of_its_rows(values: list[str | None], start: int, length: int) -> None:
    expected = hashes(values)[start : start + length]
    numbers = [None if v is None else len(v) for v in values]
    assert hashes(pa.array(values, pa.string()).slice(start, length)) == expected
    assert hashes(pa.array(values, pa.string()).dictionary_encode().slice(start, length)) == expected
    assert (
        hashes(pa.array(numbers, pa.int32()).slice(start, length))
        == hashes(pa.array(numbers, pa.int64()))[start : start + length]
    )


def test_zero_nan_and_null_are_one_key_each() -> None:
    negative_nan = np.array([0xFFF8000000000001], np.uint64).view(np.float64)[0]
    zero, minus_zero, nan, other_nan, null, other_null = hashes(
        pa.array([0.0, -0.0, float("nan"), negative_nan, None, None])
    )
    assert zero == minus_zero
    assert nan == other_nan
    assert null == other_null
    assert len({zero, nan, null}) == 3
    assert null == hashes(pa.array([None], pa.string()))[0] == hashes(pa.nulls(1))[0]
    assert null == hashes(pa.array([None], pa.string()).dictionary_encode())[0]


def test_times_of_any_unit_are_one_key() -> None:
    moment = datetime.datetime(2024, 3, 1, 12, tzinfo=datetime.UTC)
    kinds = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Paris")]
    assert len({hashes(pa.array([moment], kind))[0] for kind in kinds}) == 1
    assert hashes(pa.array([True])) == hashes(pa.array([1]))


def test_floats_at_the_edge_of_integers_do_not_wrap() -> None:
    edges = [2.0**63, -(2.0**63), np.nextafter(2.0**63, 0), float("inf"), float("-inf"), 0.5, 1e300]
    assert len(set(hashes(pa.array(edges)))) == len(edges)


@pytest.mark.parametrize(
    "length", [0, 1, 7, 8, 9, 15, 16, 17, LANE_LIMIT_BYTES - 1, LANE_LIMIT_BYTES, LANE_LIMIT_BYTES + 1, 5_000]
)
def test_every_byte_of_a_text_counts_at_any_length(length: int) -> None:
    text = "x" * length
    others = [
        text + "\0",
        text + "x",
        *(text[:i] + "y" + text[i + 1 :] for i in {0, length // 2, length - 1} if 0 <= i < length),
    ]
    assert len(set(hashes([text, *others]))) == 1 + len(set(others))
    # Alone and among longer ones: the number of lanes depends on the batch.
    assert hashes([text]) == hashes([text, "z" * 300])[:1]


@given(
    st.sampled_from([1, 7, 8, 9, 15, 16, 17, 36, LANE_LIMIT_BYTES - 1, LANE_LIMIT_BYTES, LANE_LIMIT_BYTES + 1]),
    st.sampled_from([pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]),
    st.randoms(use_true_random=False),
)
def test_texts_of_one_length_have_the_hashes_that_they_have_among_others(
    length: int, kind: pa.DataType, random: Random
) -> None:
    texts = ["".join(random.choices("ab\0", k=length)) for _ in range(5)]
    rows: list[Any] = [t.encode() for t in texts] if "binary" in str(kind) else texts
    assert of_one_length(pa.array(rows, kind)) == (8 <= length <= LANE_LIMIT_BYTES)
    others = hashes([*texts, "of another length" * 9])
    assert hashes(pa.array(rows, kind)) == others[:-1]
    assert hashes(pa.array(rows, kind).slice(2, 2)) == others[2:4]


def test_a_type_that_cannot_be_a_key_is_refused_with_a_way_out() -> None:
    with pytest.raises(SchemaError, match=r"list<.*> cannot be a key; use .cast"):
        hash_keys([pa.array([[1]])])


# --- spread ---


@pytest.mark.parametrize(
    "keys",
    [range(100_000), [f"user-{i}" for i in range(100_000)], [i / 8 for i in range(100_000)], range(0, 2**40, 2**24)],
)
def test_keys_spread_evenly_over_key_groups(keys: Any) -> None:
    counts = np.bincount(key_groups(hash_keys([pa.array(list(keys))])), minlength=KEY_GROUPS)
    mean = len(keys) / KEY_GROUPS
    # Chi-squared with 255 degrees of freedom is above 360 once in 30,000 times.
    assert ((counts - mean) ** 2 / mean).sum() < 360


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64, 256])
def test_workers_own_contiguous_ranges_of_key_groups_as_equal_as_they_come(workers: int) -> None:
    owners = group_owners(workers)
    assert len(owners) == KEY_GROUPS
    assert (np.diff(owners.astype(int)) >= 0).all()
    counts = np.bincount(owners, minlength=workers)
    assert counts.max() - counts.min() <= 1
