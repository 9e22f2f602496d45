"""The user's functions called, and called again where they raise, as their `ErrorPolicy` says.

Between two attempts an operator does not sleep: it says until when it waits (`Wait`), and its process goes on with
other work. All events of a slice that failed wait together, so a service that is down holds a slice up for
the sum of the pauses and not for that sum times its events.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from millstream.errors import MillstreamError
from millstream.operators.base import Context, Output, Wait
from millstream.specs.on_error import ErrorPolicy, OnError


def call_each(
    function: Callable[[Any], Any],
    events: Sequence[Any],
    context: Context,
    policy: ErrorPolicy,
    *,
    what: str = "the function",
    event_of: Callable[[Any], object] = lambda event: event,
    row_of: Callable[[int], bytes] = lambda at: b"",
) -> Generator[Output, None, tuple[list[Any], list[int]]]:
    """Call a function with each event.

    Args:
        what: raised, for the reason.
        event_of: an element of ``events`` as errors and dead letters show it.
        row_of: by its index, how a dead letter keeps it.
    Returns:
        The results, and the events (indices) for which there is none.
    Raises:
        UserCodeError: it raised, and the operator does not tolerate that.
    """
    results: list[Any] = []
    failed: dict[int, BaseException] = {}
    append, calls = results.append, iter(events)
    while len(results) < len(events):
        try:
            # Not map(): a StopIteration out of the user's function would end it without a word.
            for event in calls:
                append(function(event))
        except MillstreamError:
            raise
        except (Exception, SystemExit) as error:
            at = len(results)
            if policy.then is OnError.FAIL and not policy.retries:
                context.give_up(policy, error, event_of(events[at]), what)
            failed[at] = error
            append(None)
    for number in range(policy.retries):
        if not failed:
            break
        yield Wait(context.now_us() + policy.pause_us(number))
        context.counters.retried += len(failed)
        for at in list(failed):
            try:
                results[at] = function(events[at])
                del failed[at]
            except MillstreamError:
                raise
            except (Exception, SystemExit) as error:
                failed[at] = error
    for at, raised in failed.items():
        context.give_up(policy, raised, event_of(events[at]), what, partial(row_of, at))
    if failed:
        results = [result for at, result in enumerate(results) if at not in failed]
    return results, list(failed)


def call_together(
    function: Callable[[Any], Any], events: Any, count: int, context: Context, policy: ErrorPolicy
) -> Generator[Output, None, tuple[Any, BaseException | None]]:
    """Call a function with many events at once.

    Args:
        events: what it is called with.
        count: how many they are.
    Returns:
        Its result, or what the last attempt raised.
    """
    for number in range(policy.retries + 1):
        if number:
            yield Wait(context.now_us() + policy.pause_us(number - 1))
            context.counters.retried += count
        try:
            return function(events), None
        except MillstreamError:
            raise
        except (Exception, SystemExit) as error:
            raised: BaseException = error
    return None, raised
