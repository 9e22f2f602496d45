"""The automaton of a pattern: for each key the matches under way, moved on event by event.

Pure logic over numbers: an event is its time, its row number, and a set of bits that says which of the pattern's
conditions it meets. Rows are numbered by whoever keeps them.

A match under way waits for one step. All that wait for the same step stand in one list, the oldest first; the
lists are visited from the last step to the first, so that no event serves two steps of one match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from millstream.patterns import Pattern

Extra = Callable[[int, tuple[int, ...], int], bool]
"""(condition, rows matched so far, row) -> whether a condition in Python is met."""


class Partial(NamedTuple):
    """A match under way: the rows so far, and the times of the first and last of them."""

    rows: tuple[int, ...]
    first_us: int
    last_us: int


class Match(NamedTuple):
    """A match that is complete.

    Attributes:
        end_us: the time of its last event, or the moment at which the time was over in which nothing might come.
    """

    rows: tuple[int, ...]
    start_us: int
    end_us: int


class _Step(NamedTuple):
    """One step, its conditions as bits; ``asks`` where Python has to be asked, too."""

    bit: int
    asks: int | None
    guards: int
    asked_guards: tuple[int, ...]
    strict: bool
    within_us: int | None


@dataclass(slots=True)
class KeyState:
    """One key's matches under way.

    Attributes:
        waiting: by the step that they wait for; the last list holds those that only wait for time to pass.
        due_us: when `Automaton.on_time` is due, as whoever drives the automaton has noted it.
    """

    waiting: list[list[Partial]] = field(default_factory=list)
    due_us: int | None = None

    @property
    def empty(self) -> bool:
        return not any(self.waiting)


class Automaton:
    def __init__(self, pattern: Pattern, overlapping: bool, asked: frozenset[int], extra: Extra | None = None) -> None:
        """
        Args:
            asked: which of the pattern's conditions are Python functions, by their place in ``pattern.conditions``.
            extra: asks one of those.
        """
        self.overlapping = overlapping
        self.within_us = pattern.within_us
        self.absent_us = pattern.absent_us
        self._extra = extra
        self.steps: list[_Step] = []
        place = 0
        for step in pattern.steps:
            guards = list(range(place, place + len(step.guards)))
            place += len(guards)
            self.steps.append(
                _Step(
                    1 << place, place if place in asked else None, _bits(g for g in guards if g not in asked),
                    tuple(g for g in guards if g in asked), step.strict, step.within_us,
                )
            )  # fmt: skip
            place += 1
        absent = range(place, place + len(pattern.absent))
        self._absent = _bits(g for g in absent if g not in asked)
        self._asked_absent = tuple(g for g in absent if g in asked)
        self.last = len(self.steps)

    def new_key(self) -> KeyState:
        return KeyState([[] for _ in range(self.last + 1)])

    def on_event(self, state: KeyState, time_us: int, row: int, met: int) -> Iterator[Match]:
        """Take the next event of a key; gives the matches that are complete by it or before it."""
        if state.waiting[self.last]:
            yield from self._still_absent(state, time_us, row, met)
        for number in range(self.last - 1, 0, -1):
            if state.waiting[number]:
                match = self._advance(state, number, time_us, row, met)
                if match:
                    yield from match
                    if not self.overlapping:
                        return
        first = self.steps[0]
        if met & first.bit and (first.asks is None or self._asks(first.asks, (), row)):
            yield from self._moved(state, 0, Partial((), time_us, time_us), time_us, row)

    def on_time(self, state: KeyState, before_us: int) -> Iterator[Match]:
        """No event with time < ``before_us`` will come: what waited for that is complete, what is too old is gone."""
        if self.absent_us is not None and state.waiting[self.last]:
            yield from self._over(state, before_us)
        for number in range(1, self.last):
            waiting = state.waiting[number]
            if waiting:
                state.waiting[number] = [p for p in waiting if self._deadline_us(number, p) >= before_us]

    def deadline_us(self, state: KeyState) -> int | None:
        """The first moment behind which `on_time` has something to do."""
        times = [self._deadline_us(n, p) for n in range(1, self.last + 1) for p in state.waiting[n]]
        return min(times, default=None)

    # --- one step ---

    def _advance(self, state: KeyState, number: int, time_us: int, row: int, met: int) -> list[Match]:
        """The matches that wait for a step look at an event; those that it ends are returned, the earliest begun first."""
        step = self.steps[number]
        fits = met & step.bit
        if not (fits or step.strict or met & step.guards or step.asked_guards):
            return []
        waiting, state.waiting[number] = state.waiting[number], []
        done: list[Match] = []
        stay = state.waiting[number]
        for at, partial in enumerate(waiting):
            if self._deadline_us(number, partial) < time_us:
                continue
            if fits and (step.asks is None or self._asks(step.asks, partial.rows, row)):
                done += self._moved(state, number, partial, time_us, row)
                if done and not self.overlapping:
                    stay += waiting[at + 1 :]
                    self._pass_over(state, row)
                    return done
            elif not (
                step.strict
                or met & step.guards
                or any(met & 1 << g and self._asks(g, partial.rows, row) for g in step.asked_guards)
            ):
                stay.append(partial)
        return done

    def _moved(self, state: KeyState, number: int, partial: Partial, time_us: int, row: int) -> list[Match]:
        moved = Partial((*partial.rows, row), partial.first_us if number else time_us, time_us)
        if number + 1 < self.last or self.absent_us is not None:
            state.waiting[number + 1].append(moved)
            return []
        return [Match(moved.rows, moved.first_us, time_us)]

    def _deadline_us(self, number: int, partial: Partial) -> int:
        """The last moment at which the event that a match waits for may happen."""
        if number == self.last:
            assert self.absent_us is not None
            return partial.last_us + self.absent_us
        limits = [_FOR_EVER]
        if self.within_us is not None:
            limits.append(partial.first_us + self.within_us)
        within_us = self.steps[number].within_us
        if within_us is not None:
            limits.append(partial.last_us + within_us)
        return min(limits)

    def _still_absent(self, state: KeyState, time_us: int, row: int, met: int) -> Iterator[Match]:
        """Complete what waited for its time to be over before this event, and end what this event must not follow."""
        yield from self._over(state, time_us)
        if not (met & self._absent or self._asked_absent):
            return
        state.waiting[self.last] = [
            p
            for p in state.waiting[self.last]
            if not (met & self._absent or any(met & 1 << g and self._asks(g, p.rows, row) for g in self._asked_absent))
        ]

    def _over(self, state: KeyState, before_us: int) -> Iterator[Match]:
        waiting = state.waiting[self.last]
        over = [p for p in waiting if self._deadline_us(self.last, p) < before_us]
        if not over:
            return
        state.waiting[self.last] = waiting[len(over) :]  # in the order of their last event, so in that of their end
        passed = -1
        for partial in over:
            if self.overlapping or partial.rows[0] > passed:
                yield Match(partial.rows, partial.first_us, self._deadline_us(self.last, partial))
                passed = partial.rows[-1]
        if not self.overlapping:
            self._pass_over(state, passed)

    def _pass_over(self, state: KeyState, row: int) -> None:
        """Forget the matches that began up to this row, the last one of a match that is complete."""
        state.waiting = [[p for p in waiting if p.rows[0] > row] for waiting in state.waiting]

    def _asks(self, condition: int, rows: tuple[int, ...], row: int) -> bool:
        assert self._extra is not None
        return self._extra(condition, rows, row)


_FOR_EVER = 2**63 - 1


def _bits(places: Iterable[int]) -> int:
    return sum(1 << p for p in places)


def rows_of_partials(states: Iterable[KeyState]) -> Iterator[int]:
    """The rows that matches under way refer to."""
    for state in states:
        for waiting in state.waiting:
            for partial in waiting:
                yield from partial.rows
