"""Every error that Millstream raises: one small tree, sorted by whose fault it is.

A message says what was expected, what was found, where, and what to do about it. The command line
prints the message alone for everything but `InternalError`, which is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MillstreamError(Exception):
    """The root of all errors raised by Millstream."""


class FlowError(MillstreamError):
    """The user's flow asks for something that cannot be done; found when the flow is built."""


class SchemaError(FlowError):
    """A field is missing or has a type that the operation does not take."""


class SourceError(MillstreamError):
    """A source cannot be opened or read: a missing file, no permission, an address in use."""


class SinkError(MillstreamError):
    """A sink cannot be written: disk full, no permission."""


class UserCodeError(MillstreamError):
    """A function of the user's raised. Carries the operator, the event and the user's traceback."""

    def __init__(self, operator: str, event: str, traceback: str) -> None:
        super().__init__(operator, event, traceback)
        self.operator = operator
        self.event = event
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.operator}: the function raised on {self.event}\n{self.traceback.rstrip()}"


class TooManyErrors(MillstreamError):
    """A larger share of an operator's events failed than the flow allows (``most_errors``)."""


class ProcessError(MillstreamError):
    """A process of the run died or hung."""


class CheckpointError(MillstreamError):
    """A checkpoint cannot be used: it is damaged, of another flow, or of a newer release."""


class CommandError(MillstreamError):
    """A command to a running flow cannot be carried out: there is no such run, it is over, or it said no."""


class QueryError(CommandError):
    """A question about state has no answer: a key that does not fit, an operator that keeps nothing of the kind."""


class ProcessLost(ProcessError):
    """A process of the run died or hung by no fault of the flow's: another may take its place."""


class WireError(MillstreamError):
    """A peer sent a message that the protocol does not allow."""


class InternalError(MillstreamError):
    """An invariant of Millstream's own does not hold: this is a bug in Millstream."""


class UnboundedStateWarning(UserWarning):
    """An operator of a flow that never ends keeps more and more: told when the flow is planned, not when memory is out."""


def unknown_field(name: str, known: Iterable[str], where: str) -> SchemaError:
    """The error for a field that is not there, with the nearest names that are.

    Args:
        name: the field that was asked for.
        known: the fields that exist, in order.
        where: the operator or expression that asks, as the user wrote it.
    """
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(repr(n) for n in near)}?"
        if near
        else f"there are {', '.join(map(repr, names)) or 'none'}"
    )
    return SchemaError(f"{where}: no field {name!r}; {hint}")


def described(error: BaseException, traceback: str) -> list[str]:
    """An error as it travels between processes: [class name, *arguments], or the traceback of a foreign one."""
    if isinstance(error, MillstreamError):
        return [type(error).__name__, *map(str, error.args)]
    return ["InternalError", traceback]


def restored(described_error: list[str]) -> MillstreamError:
    """The error that another process described."""
    name, *arguments = described_error
    kinds = {k.__name__: k for k in _all_kinds(MillstreamError)}
    try:
        return kinds[name](*arguments)
    except (KeyError, TypeError):
        return InternalError(": ".join(described_error))


def _all_kinds(kind: type[MillstreamError]) -> list[type[MillstreamError]]:
    return [kind, *(k for sub in kind.__subclasses__() for k in _all_kinds(sub))]
