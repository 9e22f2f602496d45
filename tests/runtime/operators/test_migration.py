"""What of the state of an older version is brought to the one that the flow declares."""

from __future__ import annotations

from typing import Any

import pytest

import millstream as ms
from millstream.operators.process_state import ProcessState
from millstream.state_codec import StateCodec
from millstream.state_handles import StateDeclaration


def states(**declared: Any) -> ProcessState:
    assert all(isinstance(d, StateDeclaration) for d in declared.values())
    return ProcessState(declared, True, StateCodec("op", globals(), pickles=True), "op")


@pytest.mark.parametrize("ttl", [None, "1h"])
@pytest.mark.parametrize("pickle", [False, True])
def test_a_value_that_nobody_assigned_is_not_migrated(ttl: str | None, pickle: bool) -> None:
    old = states(count=ms.value_state(0), last=ms.value_state(None, ttl=ttl, pickle=pickle))
    for key in ("assigned", "not assigned"):
        old.record(key).handles[0].value = 7
    old.moments["event"].record = old.record("assigned")
    old.record("assigned").handles[1].value = {"at": 3, "what": "x"}

    last = ms.value_state(None, ttl=ttl, pickle=pickle, version=2, migrate=lambda value, version: value["at"])
    new = states(count=ms.value_state(0), last=last)
    for key, record in old.records.items():
        new.restore(key, old.encode(record))

    assert new.view("assigned") == {"count": 7, "last": 3}
    assert new.view("not assigned") == {"count": 7, "last": None}


def test_a_value_that_is_the_default_is_what_the_default_is_now() -> None:
    old = states(level=ms.value_state("low"), seen=ms.list_state())
    old.record("k").handles[1].append(1)
    new = states(level=ms.value_state("medium"), seen=ms.list_state())
    new.restore("k", old.encode(old.records["k"]))
    assert new.view("k") == {"level": "medium", "seen": [1]}
