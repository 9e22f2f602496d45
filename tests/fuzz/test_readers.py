"""Bytes from a file or a socket, however damaged, give an answer or an error that was told of: no crash, no hang, no bomb."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.readers import TARGETS, try_reader

LONGEST_S = 5.0
MOST_BYTES = 1 << 30
"""What a reader may take beside what there is already; the input is a few kilobytes."""

_NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]


@st.composite
def damaged(draw: st.DrawFn, sound: tuple[bytes, ...]) -> bytes:
    """Sound input after a few accidents."""
    data = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "cut", "insert", "repeat", "number", "remove", "other"])):
            case "flip" if at < len(data):
                data[at] ^= draw(st.integers(1, 255))
            case "cut":
                del data[at:]
            case "insert":
                data[at:at] = draw(st.binary(max_size=9))
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 40))] * draw(st.integers(1, 50))
            case "number":
                number = draw(st.sampled_from(_NUMBERS)).to_bytes(8, draw(st.sampled_from(["little", "big"])))
                data[at : at + 8] = number[: draw(st.sampled_from([1, 2, 4, 8]))]
            case "remove":
                del data[at : at + draw(st.integers(1, 16))]
            case "other":
                data[at:] = draw(st.sampled_from(sound))[at:]
    return bytes(data)


@contextmanager
def bounded() -> Iterator[None]:
    """Neither long nor large."""
    with open("/proc/self/statm") as statm:
        there = int(statm.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (there + MOST_BYTES, before[1]))
    started_s = time.thread_time()
    try:
        yield
        assert time.thread_time() - started_s < LONGEST_S
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", TARGETS)
def test_sound_input_is_read(name: str) -> None:
    for data in TARGETS[name].sound:
        TARGETS[name].read(data)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_damaged_input_is_refused_as_documented(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    bytes_ = data.draw(damaged(target.sound) | st.binary(max_size=200))
    with bounded():
        try_reader(target, bytes_)
