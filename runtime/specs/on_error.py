"""What happens when a function of the user's raises: whether it is called again, and what becomes of the event if that is no use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

from millstream.errors import FlowError
from millstream.times import SECOND_US, Duration, duration_us, format_duration
from millstream.where import caller


class OnError(Enum):
    """What becomes of an event for which a function has failed."""

    FAIL = "fail"
    DEAD_LETTER = "dead_letter"
    SKIP = "skip"  # counted, and not kept anywhere

    @classmethod
    def of(cls, value: str, what: str = "on_error") -> OnError:
        """What a user gave.

        Raises:
            FlowError: it is none of these.
        """
        if value not in [kind.value for kind in cls]:
            raise FlowError(f"{caller()} {what}={value!r} is none of 'fail', 'dead_letter' and 'skip'")
        return cls(value)


@dataclass(frozen=True)
class ErrorPolicy:
    """Made by `retry`, or from a word.

    Attributes:
        then: what becomes of the event when the last attempt has failed.
        retries: how often a call that raised is made again.
        backoff_us: how long to wait before the first of them; twice as long before each further one.
        longest_us: how long to wait at most.
    """

    then: OnError = OnError.FAIL
    retries: int = 0
    backoff_us: int = SECOND_US // 10
    longest_us: int = 10 * SECOND_US

    def pause_us(self, retry: int) -> int:
        """How long to wait before a retry, counted from 0."""
        return min(self.backoff_us << min(retry, 40), self.longest_us)

    @property
    def without_retries(self) -> ErrorPolicy:
        return replace(self, retries=0)

    def notes(self) -> Iterator[str]:
        """What `explain` says of it, where there is more to it than a word."""
        if self.retries:
            first, then = format_duration(self.backoff_us), self.then.value
            yield f"calls that raise are made again up to {self.retries} times, first after {first}; then {then!r}"

    @property
    def attempts(self) -> str:
        """What a reason says of how often a function was called: nothing where that was once."""
        return f" (in each of {self.retries + 1} attempts)" if self.retries else ""


Errors = Literal["fail", "dead_letter", "skip"] | ErrorPolicy
"""What a user gives as ``on_error=``."""

FAIL: Final = ErrorPolicy()


def retry(
    times: int = 3,
    *,
    backoff: Duration = "100ms",
    longest: Duration = "10s",
    then: Literal["fail", "dead_letter", "skip"] = "fail",
) -> ErrorPolicy:
    """For ``on_error=``: call a function that raised again, for what passes: a service that restarts, a lock that is held.

        stream.map(ask, on_error=ms.retry(times=3, backoff="100ms", then="dead_letter"))

    The events of a batch on which it raised are tried again together, so they wait together, and the process goes on with
    everything else meanwhile. Events leave in the order in which they came.

    Args:
        times: how often a call is made again, 1 at least.
        backoff: how long to wait before the first retry; twice as long before each further one.
        longest: how long to wait at most.
        then: what becomes of the event when the last attempt failed: "fail" ends the run, "dead_letter" keeps the event
            there, "skip" counts it.
    Raises:
        FlowError: a number or a duration that is not possible.
    """
    where = f"{caller()} retry"
    if times < 1:
        raise FlowError(f"{where}: times={times}: 1 at least is possible")
    backoff_us, longest_us = duration_us(backoff, where), duration_us(longest, where)
    if backoff_us < 0 or longest_us < backoff_us:
        raise FlowError(
            f"{where}: backoff={backoff!r}, longest={longest!r}: a pause is 0 at least, and longest the longest"
        )
    return ErrorPolicy(OnError.of(then, "then"), times, backoff_us, longest_us)


def policy_of(on_error: Errors) -> ErrorPolicy:
    """What a user gave as ``on_error=``.

    Raises:
        FlowError: it is neither a word that is known nor made by `retry`.
    """
    return on_error if isinstance(on_error, ErrorPolicy) else ErrorPolicy(OnError.of(on_error))
