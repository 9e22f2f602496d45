"""Calls to the outside world in simulated runs: a seed says which of those under way has ended, and in which order.

In the thread of `millstream.operators.calls` it would be the machine that says so, and no seed would replay.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

from millstream.operators import asynchronous
from millstream.operators.calls import Outcome
from millstream.rows import Row
from millstream.specs.on_error import ErrorPolicy


@contextmanager
def calls_by(dice: random.Random) -> Iterator[None]:
    """Operators that begin to call in here are answered as the dice say."""

    def made(function: Callable[[Row], Any], *, capacity: int, timeout_s: float, policy: ErrorPolicy) -> _Calls:
        return _Calls(function, capacity, dice)

    with mock.patch.object(asynchronous, "Calls", made):
        yield


class _Calls:
    """What an operator sees of `millstream.operators.calls.Calls`."""

    def __init__(self, function: Callable[[Row], Coroutine[Any, Any, Any]], capacity: int, dice: random.Random) -> None:
        self._function, self._capacity, self._dice = function, capacity, dice
        self._under_way: list[tuple[tuple[int, int], Row]] = []

    def start(self, tokens: Sequence[tuple[int, int]], rows: Sequence[Row]) -> None:
        self._under_way += zip(tokens, rows, strict=True)
        assert len(self._under_way) <= self._capacity, "more calls are under way than may be"

    def finished(self, wait_s: float) -> list[Outcome]:
        count = self._dice.randint(0, len(self._under_way))
        self._dice.shuffle(self._under_way)
        ended, self._under_way = self._under_way[:count], self._under_way[count:]
        return [self._outcome(token, row) for token, row in ended]

    def close(self) -> None:
        self._under_way = []

    def _outcome(self, token: tuple[int, int], row: Row) -> Outcome:
        try:
            self._function(row).send(None)
        except StopIteration as answer:
            return Outcome(token, answer.value, None, 0)
        except Exception as error:
            return Outcome(token, None, error, 0)
        raise AssertionError("a function that waits cannot be called in a simulation")
