"""State of a `Process`: what it declares, and the handles that its methods work with.

A process declares its state as class attributes; its methods see, under the same names, the state of the
key at hand:

    class Alerts(ms.Process):
        count = ms.value_state(0)
        recent = ms.list_state(ttl="1h")

        def on_event(self, event, ctx):
            self.count.value += 1
            self.recent.append(event.amount)

A handle *is* the state of one key: a `ValueState` has one slot, a `ListState` is a list and a `MapState` a dict,
so that reading and writing cost what they cost in Python. Handles of state with a TTL are in operators/ttl.py.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar, cast, overload
from uuid import UUID

from millstream.errors import FlowError
from millstream.times import Duration, duration_us, format_duration
from millstream.where import caller

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")

TtlClock = Literal["event", "processing"]

Migration = Callable[[Any, int], Any]
"""From a value of an older version, and the number of that, to what the version at hand has."""

_IMMUTABLE: Final = frozenset(
    (int, float, bool, str, bytes, type(None), datetime, date, time, timedelta, Decimal, UUID, frozenset)
)


class Kind(Enum):
    """What a state holds for each key."""

    VALUE = "value"
    LIST = "list"
    MAP = "map"


class Default:
    """What a value is before anything was written: a value that every key gets for itself."""

    __slots__ = ("_reference", "make", "mutable")

    def __init__(self, default: Any) -> None:
        if callable(default):
            self.make: Callable[[], Any] = default
        elif type(default) in _IMMUTABLE or isinstance(default, Enum):
            self.make = lambda: default
        else:
            self.make = lambda: deepcopy(default)  # keys must not share a list or a dict
        self._reference = self.make()
        self.mutable = type(self._reference) not in _IMMUTABLE

    def equals(self, value: Any) -> bool:
        """Whether a value need not be kept, because it is the default."""
        if type(value) is not type(self._reference):
            return False
        try:
            return bool(value == self._reference)
        except Exception:  # a NumPy array, or a class with an opinion: keep it
            return False


@dataclass(frozen=True)
class StateDeclaration:
    """One declared state.

    Attributes:
        default: of a value state.
        ttl_us: how long what was written stays; None: until it is removed.
        ttl_clock: by which time; None: event time where the stream has one, else processing time.
        shared: one for all keys, the same in every worker; written in ``on_control`` only.
        pickle: values that the codec does not know are pickled.
        version: what its values look like, counted by the user; migrate: brings those of older versions to it.
    """

    kind: Kind
    default: Any = None
    ttl_us: int | None = None
    ttl_clock: TtlClock | None = None
    shared: bool = False
    pickle: bool = False
    version: int = 1
    migrate: Migration | None = None

    @property
    def form(self) -> str:
        """What it holds, as far as a checkpoint depends on it."""
        with_ttl = "" if self.ttl_us is None else " with ttl"
        return f"{'shared ' if self.shared else ''}{self.kind.value}{with_ttl}"

    def __str__(self) -> str:
        ttl = "" if self.ttl_us is None else f", ttl {format_duration(self.ttl_us)}"
        return f"{'shared ' if self.shared else ''}{self.kind.value}{ttl}"


class ValueState(Generic[T]):
    """One value for each key: read and assign ``value``."""

    __slots__ = ("value",)
    default: ClassVar[Default]

    def __init__(self) -> None:
        self.value: T = self.default.make()

    def clear(self) -> None:
        """Back to the default; a key without other state or timers is forgotten."""
        self.value = self.default.make()

    @property
    def blank(self) -> bool:
        return self.default.equals(self.value)

    def __repr__(self) -> str:
        return f"ValueState({self.value!r})"


class ListState(list[T]):
    """A list for each key. It is a Python list, and does all that a list does."""

    __slots__ = ()

    @property
    def blank(self) -> bool:
        return not self


class MapState(dict[K, V]):
    """A dict for each key. It is a Python dict, and does all that a dict does."""

    __slots__ = ()

    @property
    def blank(self) -> bool:
        return not self


@overload
def value_state(
    default: None = None,
    *,
    ttl: Duration | None = None,
    ttl_clock: TtlClock | None = None,
    shared: bool = False,
    pickle: bool = False,
    version: int = 1,
    migrate: Migration | None = None,
) -> ValueState[Any]: ...
@overload
def value_state(
    default: T | Callable[[], T],
    *,
    ttl: Duration | None = None,
    ttl_clock: TtlClock | None = None,
    shared: bool = False,
    pickle: bool = False,
    version: int = 1,
    migrate: Migration | None = None,
) -> ValueState[T]: ...
def value_state(
    default: Any = None,
    *,
    ttl: Duration | None = None,
    ttl_clock: TtlClock | None = None,
    shared: bool = False,
    pickle: bool = False,
    version: int = 1,
    migrate: Migration | None = None,
) -> ValueState[Any]:
    """Declare a value for each key of a `Process`; its methods read and assign ``self.<name>.value``.

    Args:
        default: what it is before anything was assigned, a copy for each key; or a function that makes it.
        ttl: how long after it was last assigned the value is forgotten, as "1h" or a ``timedelta``.
        ttl_clock: "event" or "processing"; by default event time where the stream has one.
        shared: one value for all keys, the same in every worker: assigned in ``on_control`` only.
        pickle: keep values of types that the state codec does not know, by pickling them.
        version: what the values look like, counted by you; they are kept with it.
        migrate: ``migrate(old, old_version)`` returns what this version has for a value of an older one. It is called
            for a value other than the default, each element of a list, each value of a dict, when a flow goes on from an
            older checkpoint.
    Raises:
        FlowError: ``ttl`` is not a duration, shared state is given one, or ``version`` is no whole number from 1 on.
    """
    return cast("ValueState[Any]", _declare(Kind.VALUE, default, ttl, ttl_clock, shared, pickle, version, migrate))


def list_state(
    *,
    ttl: Duration | None = None,
    ttl_clock: TtlClock | None = None,
    shared: bool = False,
    pickle: bool = False,
    version: int = 1,
    migrate: Migration | None = None,
) -> ListState[Any]:
    """Declare a list for each key of a `Process`: ``self.<name>`` is a list.

    Args:
        ttl: how long after it was added each element is forgotten.
        ttl_clock, shared, pickle, version, migrate: see `value_state`.
    Raises:
        FlowError: as `value_state`.
    """
    return cast("ListState[Any]", _declare(Kind.LIST, None, ttl, ttl_clock, shared, pickle, version, migrate))


def map_state(
    *,
    ttl: Duration | None = None,
    ttl_clock: TtlClock | None = None,
    shared: bool = False,
    pickle: bool = False,
    version: int = 1,
    migrate: Migration | None = None,
) -> MapState[Any, Any]:
    """Declare a dict for each key of a `Process`: ``self.<name>`` is a dict.

    Args:
        ttl: how long after it was last assigned each entry is forgotten.
        ttl_clock, shared, pickle, version, migrate: see `value_state`.
    Raises:
        FlowError: as `value_state`.
    """
    return cast("MapState[Any, Any]", _declare(Kind.MAP, None, ttl, ttl_clock, shared, pickle, version, migrate))


def _declare(
    kind: Kind,
    default: Any,
    ttl: Duration | None,
    ttl_clock: TtlClock | None,
    shared: bool,
    pickle: bool,
    version: int,
    migrate: Migration | None,
) -> StateDeclaration:
    where = f"{caller()} {kind.value}_state"
    ttl_us = None if ttl is None else lifetime_us(ttl, where)
    if ttl_clock not in (None, "event", "processing"):
        raise FlowError(f"{where}: ttl_clock={ttl_clock!r}: expected 'event' or 'processing'")
    if shared and ttl is not None:
        raise FlowError(f"{where}: shared state has no ttl; remove what is old in on_control")
    check_version(version, migrate, where)
    return StateDeclaration(kind, default, ttl_us, ttl_clock, shared, pickle, version, migrate)


def check_version(version: Any, migrate: Any, where: str) -> None:
    """
    Raises:
        FlowError: they are no version and no migration.
    """
    if type(version) is not int or version < 1:
        raise FlowError(f"{where}: version={version!r}: expected a whole number from 1 on")
    if migrate is not None and not callable(migrate):
        raise FlowError(f"{where}: migrate={migrate!r}: expected a function(old, old_version)")
    if migrate is not None and version == 1:
        raise FlowError(f"{where}: migrate= brings states of older versions to this one, and there is none before 1")


def lifetime_us(ttl: Duration, where: str) -> int:
    """A ``ttl=`` in microseconds.

    Raises:
        FlowError: it is no duration, or none that anything could live for.
    """
    ttl_us = duration_us(ttl, where)
    if ttl_us <= 0:
        raise FlowError(f"{where}: ttl={ttl!r}: expected a duration longer than nothing")
    return ttl_us
