"""Patterns: which events, one after another, make a match. What a user writes, as data.

    small_then_large = (
        ms.pattern("small", col("amount") < 1)
        .then("large", col("amount") > 500, within="10m")
        .without("confirmed", col("kind") == "confirmation")   # between the two
    )
    matches = payments.key_by("card").match(small_then_large)

A match is a series of events of one key, in the order of event time. Each event that fits the first step
begins one, and each further step takes the first later event that fits it: events in between are passed
over, unless the step was added with `next`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from millstream.errors import FlowError
from millstream.expr import Expr
from millstream.functions import UserFunction
from millstream.times import Duration, format_duration, positive_us
from millstream.where import caller

Condition = Expr | UserFunction


@dataclass(frozen=True)
class Step:
    """One event of a match.

    Attributes:
        strict: it must be the very next event of the key.
        within_us: how long after the step before it; None: any time.
        guards: conditions that no event between the step before and this one may meet, by name.
    """

    name: str
    where: Condition
    strict: bool = False
    within_us: int | None = None
    guards: tuple[tuple[str, Condition], ...] = ()


@dataclass(frozen=True)
class Pattern:
    """A series of steps; made by `pattern`, and immutable: every method returns a new one.

    Attributes:
        within_us: how long from the first event to the last; None: any time.
        absent: conditions that no event may meet for ``absent_us`` after the last step, by name: then the match is
            complete when that time is over.
    """

    steps: tuple[Step, ...]
    within_us: int | None = None
    absent: tuple[tuple[str, Condition], ...] = ()
    absent_us: int | None = None

    def then(self, name: str, where: Expr | Callable[..., bool], *, within: Duration | None = None) -> Pattern:
        """A later event; those in between are passed over.

        Args:
            name: the field of the result that holds the event; the same name again makes it a list of events.
            where: a condition on the event's fields, or a function ``(event, matched)`` of the event and the
                rows matched so far, by name.
            within: how long after the event before.
        """
        return self._with_step("then", name, where, within, strict=False)

    def next(self, name: str, where: Expr | Callable[..., bool], *, within: Duration | None = None) -> Pattern:
        """The very next event of the key; if it does not fit there is no match."""
        return self._with_step("next", name, where, within, strict=True)

    def times(self, count: int) -> Pattern:
        """The last step, so many times in all; its field is a list of events."""
        if count < 1:
            raise FlowError(f"{caller()} times: {count} is no number of events; use 1 or more")
        if self.absent:
            raise FlowError(f"{caller()} times: the pattern ends with without(); call times() before it")
        last = self.steps[-1]
        again = replace(last, guards=()) if len(self.steps) == 1 else last
        return replace(self, steps=(*self.steps, *[again] * (count - 1)))

    def without(self, name: str, where: Expr | Callable[..., bool], *, within: Duration | None = None) -> Pattern:
        """No such event between the step before this and the step behind it.

        At the end of a pattern it takes ``within=``: no such event for so long after the last step. The match is
        then complete when that time is over.
        """
        condition = (name, _condition("without", name, where))
        if within is not None:
            if self.absent:
                raise FlowError(f"{caller()} without: the pattern ends with another without(within=) already")
            return replace(self, absent=(condition,), absent_us=_within_us("without", within))
        return replace(self, absent=(*self.absent, condition))

    def within(self, duration: Duration) -> Pattern:
        """How long the whole match may take, from its first event to its last."""
        return replace(self, within_us=_within_us("within", duration))

    # --- for the planner ---

    @property
    def names(self) -> tuple[str, ...]:
        """The steps' names, each once, in the order of their first appearance."""
        return tuple(dict.fromkeys(s.name for s in self.steps))

    @property
    def repeated(self) -> frozenset[str]:
        """The names that stand for several events."""
        every = [s.name for s in self.steps]
        return frozenset(n for n in every if every.count(n) > 1)

    @property
    def conditions(self) -> tuple[tuple[str, Condition], ...]:
        """All conditions by name, step by step, each step's guards before it."""
        found: list[tuple[str, Condition]] = []
        for step in self.steps:
            found += [*step.guards, (step.name, step.where)]
        return (*found, *self.absent)

    @property
    def calls_python(self) -> bool:
        """Whether a condition is a function: then rows are made for those events that come to it."""
        return any(isinstance(where, UserFunction) for _, where in self.conditions)

    def __str__(self) -> str:
        parts: list[str] = []
        for step in self.steps:
            parts += [f"without {name}: {where}" for name, where in step.guards]
            verb = "" if not parts else "next " if step.strict else "then "
            parts.append(f"{verb}{step.name}: {step.where}{_limit(step.within_us)}")
        parts += [f"without {name}: {where}{_limit(self.absent_us)}" for name, where in self.absent]
        return ", ".join(parts)

    def _with_step(
        self, verb: str, name: str, where: Expr | Callable[..., bool], within: Duration | None, *, strict: bool
    ) -> Pattern:
        if self.absent_us is not None:
            raise FlowError(f"{caller()} {verb}: nothing can follow a without(within=), which ends the pattern")
        if strict and self.absent:
            raise FlowError(f"{caller()} {verb}: between an event and the very next one there is nothing to be without")
        within_us = None if within is None else _within_us(verb, within)
        step = Step(name, _condition(verb, name, where), strict, within_us, self.absent)
        return replace(self, steps=(*self.steps, step), absent=())


def pattern(name: str, where: Expr | Callable[..., bool]) -> Pattern:
    """Begin a pattern with its first event; see `Pattern.then`."""
    return Pattern((Step(name, _condition("pattern", name, where)),))


def _limit(within_us: int | None) -> str:
    return "" if within_us is None else f" within {format_duration(within_us)}"


def _condition(verb: str, name: str, where: Expr | Callable[..., bool]) -> Condition:
    if not name.isidentifier():
        raise FlowError(f"{caller()} {verb}: {name!r} cannot name a step; use letters, digits and '_'")
    if isinstance(where, Expr):
        return where
    if callable(where):
        return UserFunction(where)
    raise FlowError(f"{caller()} {verb}: {name} takes a condition or a function(event, matched), found {where!r}")


def _within_us(verb: str, within: Duration) -> int:
    return positive_us(within, f"{caller()} {verb}", f"within={within!r} leaves no time")
