"""State that expires: when what was written is forgotten, and the handles of such state.

What is written at t expires at t + ttl: from then on nobody sees it. Time is that of the event or timer at hand
(a late event counts as the watermark that it missed), so what an event sees depends on its own key's events
alone, and not on how far the watermark happened to be.

Seeing is one thing and freeing another. `Expiries` is a heap with one entry for each handle that holds
something, so that passing time costs what expires and not what is there. An entry whose handle was written again
in the meantime is put back, not sooner than a sixteenth of the ttl later: what has expired may lie in memory for
so long, unseen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSequence
from heapq import heappop, heappush
from itertools import compress, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar, overload

from millstream.state_handles import Default
from millstream.times import MAX_US, MIN_US, saturating_add

if TYPE_CHECKING:
    from millstream.operators.process_state import KeyRecord

_SLACK: Final = 16
_UNSET: Final = object()

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Moment:
    """Where a process stands: by one clock, with one key.

    Attributes:
        now_us: the time of the event or timer at hand.
        record: what is kept for the key at hand.
    """

    __slots__ = ("now_us", "record")

    def __init__(self) -> None:
        self.now_us = MIN_US
        self.record: KeyRecord | None = None


class Expiries:
    """Which handles hold something that expires, by the moment at which the first of it does.

    Args:
        changing: is told of each record before something of it is freed.
    Attributes:
        moment: gives the time at which handles are read and written.
        freed: how many values and entries have been freed.
    """

    def __init__(self, moment: Moment, changing: Callable[[KeyRecord], None]) -> None:
        self.moment = moment
        self.freed = 0
        self._changing = changing
        self._heap: list[tuple[int, int, KeyRecord, TtlHandle]] = []
        self._number = 0

    def schedule(self, record: KeyRecord, handle: TtlHandle, expires_us: int) -> None:
        handle.scheduled = True
        self._number += 1
        heappush(self._heap, (expires_us, self._number, record, handle))

    @property
    def next_us(self) -> int:
        return self._heap[0][0] if self._heap else MAX_US

    def free(self, now_us: int) -> Iterator[KeyRecord]:
        """Free what has expired; yields the records that lost something."""
        heap = self._heap
        while heap and heap[0][0] <= now_us:
            _, _, record, handle = heappop(heap)
            self._changing(record)
            handle.scheduled = False
            self.freed += handle.free(now_us)
            next_us = handle.next_us
            if next_us != MAX_US:
                self.schedule(record, handle, max(next_us, saturating_add(now_us, handle.ttl_us // _SLACK)))
            yield record

    def __len__(self) -> int:
        return len(self._heap)


class Deadlines:
    """Until when each key is kept that is forgotten as a whole.

    Attributes:
        expires_us: by key.
        freed: how many keys have been forgotten.
    """

    def __init__(self, ttl_us: int) -> None:
        self.ttl_us = ttl_us
        self.expires_us: dict[Any, int] = {}
        self.freed = 0
        self._heap: list[tuple[int, int, Any]] = []
        self._number = 0

    def set(self, key: Any, expires_us: int) -> None:
        if key not in self.expires_us:
            self._push(expires_us, key)
        self.expires_us[key] = expires_us

    @property
    def next_us(self) -> int:
        return self._heap[0][0] if self._heap else MAX_US

    def free(self, now_us: int) -> Iterator[Any]:
        """Forget the keys that have expired; yields each before it is forgotten."""
        heap = self._heap
        while heap and heap[0][0] <= now_us:
            _, _, key = heappop(heap)
            expires_us = self.expires_us[key]
            if expires_us > now_us:
                self._push(max(expires_us, saturating_add(now_us, self.ttl_us // _SLACK)), key)
                continue
            yield key
            del self.expires_us[key]
            self.freed += 1

    def _push(self, moment_us: int, key: Any) -> None:
        self._number += 1
        heappush(self._heap, (moment_us, self._number, key))


class TtlHandle(ABC):
    """The base of handles with a ttl. The class of one declaration knows the ttl; a handle, what is in it.

    Attributes:
        scheduled: whether `Expiries` has an entry for it.
    """

    __slots__ = ("scheduled",)
    ttl_us: ClassVar[int]
    expiries: ClassVar[Expiries]

    def __init__(self) -> None:
        self.scheduled = False

    @property
    @abstractmethod
    def next_us(self) -> int:
        """When the first of what it holds expires; `MAX_US` when it holds nothing."""

    @property
    @abstractmethod
    def blank(self) -> bool:
        """Whether it holds nothing."""

    @property
    @abstractmethod
    def held(self) -> int:
        """How many values or entries lie in memory, what has expired included."""

    @abstractmethod
    def peek(self) -> Any:
        """What it holds at the moment at hand, as a plain value, list or dict; looking changes nothing."""

    @abstractmethod
    def free(self, now_us: int) -> int:
        """Forget what has expired; returns how many values or entries that were."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything."""

    @abstractmethod
    def export(self) -> tuple[Any, ...]:
        """What it holds, with the moments of expiry; () for nothing."""

    @abstractmethod
    def newest(self) -> Iterable[Any]:
        """What was written last: a value, an element, a key and its value; () for nothing."""

    @abstractmethod
    def restore(self, exported: tuple[Any, ...]) -> None:
        """Hold what was exported; the caller schedules it."""

    def _drop(self, now_us: int) -> None:
        """Free what somebody has found to have expired."""
        self.expiries.freed += self.free(now_us)

    def _expiry_of_a_write(self) -> int:
        expires_us = self.expiries.moment.now_us + self.ttl_us
        if not self.scheduled:
            record = self.expiries.moment.record
            assert record is not None, "state is written while a key is at hand"
            self.expiries.schedule(record, self, expires_us)
        return expires_us


class TtlValue(TtlHandle, Generic[T]):
    """A value that is forgotten a while after it was last assigned.

    A default that can be changed in place is assigned by being read: what is done to it has to stay.
    """

    __slots__ = ("_value", "expires_us")
    default: ClassVar[Default]

    def __init__(self) -> None:
        super().__init__()
        self._value: Any = _UNSET
        self.expires_us = MIN_US

    @property
    def value(self) -> T:
        if self._value is not _UNSET:
            if self.expires_us > self.expiries.moment.now_us:
                return self._value  # type: ignore[no-any-return]
            self._drop(self.expires_us)
        made: T = self.default.make()
        if self.default.mutable:
            self.value = made
        return made

    @value.setter
    def value(self, value: T) -> None:
        expires_us = self._expiry_of_a_write()
        self._value = value
        if expires_us > self.expires_us:
            self.expires_us = expires_us

    def clear(self) -> None:
        """Back to the default."""
        self._value = _UNSET
        self.expires_us = MIN_US

    @property
    def next_us(self) -> int:
        return MAX_US if self._value is _UNSET else self.expires_us

    def free(self, now_us: int) -> int:
        if self._value is _UNSET or self.expires_us > now_us:
            return 0
        self.clear()
        return 1

    @property
    def blank(self) -> bool:
        return self._value is _UNSET

    @property
    def held(self) -> int:
        return 0 if self._value is _UNSET else 1

    def peek(self) -> T:
        alive = self._value is not _UNSET and self.expires_us > self.expiries.moment.now_us
        return self._value if alive else self.default.make()  # type: ignore[no-any-return]

    def newest(self) -> Iterable[Any]:
        return () if self._value is _UNSET else (self._value,)

    def export(self) -> tuple[Any, ...]:
        return () if self._value is _UNSET else (self._value, self.expires_us)

    def restore(self, exported: tuple[Any, ...]) -> None:
        self._value, self.expires_us = exported or (_UNSET, MIN_US)

    def __repr__(self) -> str:
        return f"ValueState({self.value!r})"


class TtlList(TtlHandle, MutableSequence[T]):
    """A list whose elements are forgotten a while after they were added (or replaced)."""

    __slots__ = ("_expires", "_ordered", "_soonest_us", "_values")

    def __init__(self) -> None:
        super().__init__()
        self._values: list[T] = []
        self._expires: list[int] = []
        self._forget_all()

    def _forget_all(self) -> None:
        self._values.clear()
        self._expires.clear()
        self._ordered = True
        self._soonest_us = MAX_US

    def _live(self) -> list[T]:
        """The elements that have not expired at the moment at hand."""
        if self._soonest_us <= self.expiries.moment.now_us:
            self._drop(self.expiries.moment.now_us)
        return self._values

    def free(self, now_us: int) -> int:
        before = len(self._values)
        if self._ordered:
            at = bisect_right(self._expires, now_us)
            del self._values[:at], self._expires[:at]
        else:
            alive = [e > now_us for e in self._expires]
            self._values[:] = compress(self._values, alive)
            self._expires[:] = compress(self._expires, alive)
        self._look()
        return before - len(self._values)

    def _look(self) -> None:
        if not self._values:
            self._forget_all()
        else:
            self._soonest_us = self._expires[0] if self._ordered else min(self._expires)

    @property
    def next_us(self) -> int:
        return self._soonest_us

    @property
    def blank(self) -> bool:
        return not self._values

    def append(self, value: T) -> None:
        self._live()
        expires_us = self._expiry_of_a_write()
        if self._expires and expires_us < self._expires[-1]:
            self._ordered = False
        self._values.append(value)
        self._expires.append(expires_us)
        if expires_us < self._soonest_us:
            self._soonest_us = expires_us

    def insert(self, index: int, value: T) -> None:
        if index >= len(self._live()):
            self.append(value)
            return
        expires_us = self._expiry_of_a_write()
        self._values.insert(index, value)
        self._expires.insert(index, expires_us)
        self._ordered = False
        self._soonest_us = min(self._soonest_us, expires_us)

    def extend(self, values: Iterable[T]) -> None:
        for value in values:
            self.append(value)

    def clear(self) -> None:
        self._forget_all()

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._live()[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        values = self._live()
        if isinstance(index, slice):
            raise TypeError("a list with a ttl takes elements one by one: assign to an index, or append")
        values[index] = value
        self._expires[index] = self._expiry_of_a_write()
        self._ordered = False
        self._look()

    def __delitem__(self, index: Any) -> None:
        values = self._live()
        del values[index], self._expires[index]
        self._look()

    def __len__(self) -> int:
        return len(self._live())

    def __iter__(self) -> Iterator[T]:
        return iter(self._live())

    def __eq__(self, other: object) -> bool:
        return self._live() == (list(other) if isinstance(other, TtlList) else other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def held(self) -> int:
        return len(self._values)

    def peek(self) -> list[T]:
        now_us = self.expiries.moment.now_us
        return [v for v, expires_us in zip(self._values, self._expires, strict=True) if expires_us > now_us]

    def newest(self) -> Iterable[Any]:
        return self._values[-1:]

    def export(self) -> tuple[Any, ...]:
        return (self._values, self._expires) if self._values else ()

    def restore(self, exported: tuple[Any, ...]) -> None:
        values, expires = exported or ([], [])
        self._values, self._expires = list(values), list(expires)
        self._ordered = all(a <= b for a, b in pairwise(self._expires))
        self._soonest_us = min(self._expires, default=MAX_US)

    def __repr__(self) -> str:
        return f"ListState({self._live()!r})"


class TtlMap(TtlHandle, MutableMapping[K, V]):
    """A dict whose entries are forgotten a while after they were last assigned.

    Entries are in the order in which they were assigned, which is that of their expiry, except where events come
    out of order: then an entry may be freed, but never seen, as late as the one before it.
    """

    __slots__ = ("_expires", "_held", "_ordered")

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[K, V] = {}
        self._expires: dict[K, int] = {}
        self._ordered = True

    def __getitem__(self, key: K) -> V:
        if self._expires.get(key, MIN_US) > self.expiries.moment.now_us:
            return self._held[key]
        raise KeyError(key)

    def __setitem__(self, key: K, value: V) -> None:
        expires_us = max(self._expiry_of_a_write(), self._expires.pop(key, MIN_US))
        if self._expires and expires_us < self._expires[next(reversed(self._expires))]:
            self._ordered = False
        self._held[key] = value
        self._expires[key] = expires_us

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        del self._held[key], self._expires[key]

    def __contains__(self, key: object) -> bool:
        return self._expires.get(key, MIN_US) > self.expiries.moment.now_us  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[K]:
        now_us = self.expiries.moment.now_us
        return (key for key, expires_us in self._expires.items() if expires_us > now_us)

    def __len__(self) -> int:
        if self._ordered:
            self._drop(self.expiries.moment.now_us)
            return len(self._held)
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return next(iter(self), _UNSET) is not _UNSET

    def clear(self) -> None:
        self._held.clear()
        self._expires.clear()
        self._ordered = True

    @property
    def next_us(self) -> int:
        return next(iter(self._expires.values()), MAX_US)

    def free(self, now_us: int) -> int:
        expired: list[K] = []
        for key, expires_us in self._expires.items():
            if expires_us > now_us:
                break
            expired.append(key)
        for key in expired:
            del self._held[key], self._expires[key]
        if not self._held:
            self._ordered = True
        return len(expired)

    @property
    def blank(self) -> bool:
        return not self._held

    @property
    def held(self) -> int:
        return len(self._held)

    def peek(self) -> dict[K, V]:
        return {key: self._held[key] for key in self}

    def newest(self) -> Iterable[Any]:
        return next(reversed(self._held.items()), ())

    def export(self) -> tuple[Any, ...]:
        return ([(k, self._held[k], expires_us) for k, expires_us in self._expires.items()],) if self._held else ()

    def restore(self, exported: tuple[Any, ...]) -> None:
        entries = exported[0] if exported else []
        self._held = {k: v for k, v, _ in entries}
        self._expires = {k: expires_us for k, _, expires_us in entries}
        expires = list(self._expires.values())
        self._ordered = all(a <= b for a, b in pairwise(expires))

    def __repr__(self) -> str:
        return f"MapState({dict(self)!r})"
