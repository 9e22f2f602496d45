"""`Process`: keyed state, timers and several outputs, in the user's Python. What the user derives from and is given.

`KeyedStream.process` runs one; the operator is operators/process.py, and docs/state.md is the manual.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from millstream.errors import FlowError
from millstream.state_handles import StateDeclaration

TimerClock = Literal["event", "processing"]


class Timer(NamedTuple):
    """A timer that has fired, as ``on_timer`` sees it.

    Attributes:
        time: when it was set for, UTC.
        name: what it was called when it was set; "" by default.
        clock: "event" or "processing".
    """

    time: datetime
    name: str
    clock: TimerClock


class ProcessContext(ABC):
    """What a process can do, and ask, while it handles an event or a timer of one key."""

    __slots__ = ()

    @property
    @abstractmethod
    def key(self) -> Any:
        """The key: a value, or a tuple where there are several key fields."""

    @property
    @abstractmethod
    def time(self) -> datetime | None:
        """The event time of the event or timer at hand; None where the stream has no event time."""

    @property
    @abstractmethod
    def watermark(self) -> datetime | None:
        """No event before this time comes any more, late ones aside; None before the first one.

        With ``order="event_time"`` it is the time of the event or timer at hand, and does not depend on how
        the stream was cut. With ``order="arrival"`` it is how far the input has come.
        """

    @property
    @abstractmethod
    def now(self) -> datetime:
        """Processing time, UTC: of the machine, or virtual in tests."""

    @abstractmethod
    def emit(self, row: Any, to: str | None = None) -> None:
        """Put out a row: a dict, a dataclass, a named tuple, or an event as it came or ``with_`` changes.

        It gets the event time of the event or timer at hand.

        Args:
            to: one of the ``outputs`` of the process; None: its main output.
        Raises:
            FlowError: there is no such output, or no key (in ``on_control``, outside of ``for_each_key``).
        """

    @abstractmethod
    def set_timer(self, at: datetime | timedelta | int, *, clock: TimerClock = "event", name: str = "") -> None:
        """Have ``on_timer`` called once for this key at a time.

        The same name and time set again is one timer. A timer fires when the watermark has come to its time,
        before events of that time. One set for a time that has passed, or for now, fires as soon as time moves on.

        Args:
            at: a time (a naive one is UTC), microseconds since the epoch, or a ``timedelta`` from now: from
                the event or timer at hand, or from the clock for ``clock="processing"``.
            clock: "event" or "processing".
            name: tells several timers of a key apart.
        Raises:
            FlowError: an event-time timer on a stream without event time.
        """

    @abstractmethod
    def cancel_timer(self, at: datetime | int | None = None, *, clock: TimerClock = "event", name: str = "") -> None:
        """Take back the timer of this name and time, or with ``at=None`` all of this name; none is no error."""

    @abstractmethod
    def for_each_key(self, function: Callable[[Any], None]) -> None:
        """In ``on_control``: call ``function(key)`` for each key that has state or timers.

        While it runs, the process and this context are those of that key. Each worker calls it for its own keys.

        Raises:
            FlowError: called outside of ``on_control``.
        """


class Process:
    """Derive from this, declare state as class attributes, and give it to `KeyedStream.process`.

    One object serves all keys of a worker: only the declared state belongs to a key, and only it is kept.
    """

    def open(self) -> None:
        """Called once in every worker before the first event: the place to load a model, say."""

    def on_event(self, event: Any, ctx: ProcessContext) -> None:
        """Take one event of the key at hand; put results out by ``ctx.emit``."""
        raise NotImplementedError

    def on_timer(self, timer: Timer, ctx: ProcessContext) -> None:
        """A timer of the key at hand has fired."""
        raise FlowError(f"{type(self).__name__} sets timers and has no on_timer(self, timer, ctx) that they call")

    def on_control(self, event: Any, ctx: ProcessContext) -> None:
        """Take one event of the control stream; every worker gets all of them."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(inspect.getattr_static(type(self), name, None), StateDeclaration):
            raise AttributeError(
                f"{type(self).__name__}.{name} is state of a key and cannot be replaced; "
                f"assign self.{name}.value, or change the list or dict in place"
            )
        object.__setattr__(self, name, value)


def declared_states(kind: type[Process]) -> dict[str, StateDeclaration]:
    """The states of a process class by name, those of its bases first."""
    names: dict[str, None] = {}
    for base in reversed(kind.__mro__):
        names.update(dict.fromkeys(vars(base)))
    found = {name: inspect.getattr_static(kind, name) for name in names}
    return {name: state for name, state in found.items() if isinstance(state, StateDeclaration)}


def checked_process(process: Any, where: str) -> type[Process]:
    """The class of what was given to ``process(...)``.

    Raises:
        FlowError: it is no `Process`, or one whose methods cannot work.
    """
    kind = process if isinstance(process, type) else type(process)
    if not issubclass(kind, Process):
        raise FlowError(f"{where}: expected a class derived from millstream.Process, or an object of one, "
                        f"found {process!r}")  # fmt: skip
    if kind.on_event is Process.on_event:
        raise FlowError(f"{where}: {kind.__name__} has no on_event(self, event, ctx)")
    if isinstance(process, type):
        try:
            inspect.signature(kind).bind()
        except TypeError as error:
            raise FlowError(
                f"{where}: {kind.__name__} cannot be made without arguments ({error}); give an object: "
                f"process({kind.__name__}(...))"
            ) from error
    for name in ("on_event", "on_timer", "on_control", "open"):
        method = getattr(kind, name)
        if inspect.isgeneratorfunction(method) or inspect.iscoroutinefunction(method):
            raise FlowError(
                f"{where}: {kind.__name__}.{name} is a generator or a coroutine, whose body would never run; "
                "put rows out by ctx.emit(...)"
            )
    return kind
