"""What a `Process` keeps: for each key the handles of its states and its timers, and one shared set for all keys.

A key is there as long as it has something: `ProcessState.sweep` forgets those whose states are all as they were before
the first event and that have no timer. Every record can be written as bytes and read again (`encode`, `restore`):
a snapshot is one row a key, key columns in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

from millstream.errors import FlowError
from millstream.operators.migration import Migrator
from millstream.operators.timers import Due, TimerKey, Timers
from millstream.operators.ttl import Expiries, Moment, TtlHandle, TtlList, TtlMap, TtlValue
from millstream.state.pieces import KeyPieces
from millstream.state_codec import StateCodec, StateError
from millstream.state_handles import Default, Kind, ListState, MapState, StateDeclaration, ValueState

_SAMPLE: Final = 16
_LOOK_EVERY: Final = 20
_RECORD_BYTES: Final = 200  # a key, its record, and its handles, before anything is in them


class KeyRecord:
    """What is kept for one key.

    Attributes:
        handles: of its states, in the order of their declaration.
        timers: those that are set, of either clock; None when there are none.
    """

    __slots__ = ("handles", "key", "timers")

    def __init__(self, key: Any, handles: tuple[Any, ...]) -> None:
        self.key = key
        self.handles = handles
        self.timers: dict[TimerKey, Due] | None = None


class NoKey:
    """Stands for state while no key is at hand."""

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, attribute: str) -> Any:
        name = object.__getattribute__(self, "_name")
        raise FlowError(f"{name} is state of a key, and there is no key here: use ctx.for_each_key(...)")

    def __setattr__(self, attribute: str, value: Any) -> None:
        self.__getattr__(attribute)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__getattr__("__iter__"))

    def __len__(self) -> int:
        return int(self.__getattr__("__len__"))

    def __getitem__(self, index: Any) -> Any:
        return self.__getattr__("__getitem__")

    def __setitem__(self, index: Any, value: Any) -> None:
        self.__getattr__("__setitem__")

    def __contains__(self, item: Any) -> bool:
        return bool(self.__getattr__("__contains__"))


class SharedValue:
    """A shared value as events see it: to be read."""

    __slots__ = ("_of",)

    def __init__(self, of: ValueState[Any]) -> None:
        self._of = of

    @property
    def value(self) -> Any:
        return self._of.value


def _read_only(handle: Any) -> Any:
    if isinstance(handle, ValueState):
        return SharedValue(handle)
    return MappingProxyType(handle) if isinstance(handle, MapState) else tuple(handle)


class ProcessState:
    """The records of one operator, by key.

    Args:
        declared: the states by name.
        timed: whether the stream has event time: the clock of a ttl that names none.
    Attributes:
        names: of the states of a key.
        records: by key, in the order in which keys came.
        expiries: by clock.
        suspects: records that may have nothing any more.
        restored_others: whether a record that was restored was of other states than those that are declared, or other versions.
    """

    def __init__(self, declared: Mapping[str, StateDeclaration], timed: bool, codec: StateCodec, where: str) -> None:
        self.codec = codec
        self.where = where
        self.records: dict[Any, KeyRecord] = {}
        self.suspects: dict[int, KeyRecord] = {}
        self.moments = {"event": Moment(), "processing": Moment()}
        self.expiries = {clock: Expiries(moment, self.changing) for clock, moment in self.moments.items()}
        self.timers = {clock: Timers(clock, self.changing) for clock in self.moments}
        keyed = {n: d for n, d in declared.items() if not d.shared}
        self.names = tuple(keyed)
        self.declared = tuple(keyed.values())
        self._kinds = tuple(self._handle_class(d, timed) for d in self.declared)
        self._shared_declared = {n: d for n, d in declared.items() if d.shared}
        self.shared = {n: self._handle_class(d, timed)() for n, d in self._shared_declared.items()}
        self._pickled = tuple(d.pickle for d in self.declared)
        self._migrators = {n: Migrator(where, n, d.version, d.migrate) for n, d in declared.items()}
        self._versions = {n: d.version for n, d in keyed.items() if d.version != 1}
        self._shared_versions = {n: d.version for n, d in self._shared_declared.items()}
        self._names_kept = frozenset(self.names)
        self.restored_others = False
        self.pieces: KeyPieces[KeyRecord, bytes] = KeyPieces(self._encoder())
        self._looks = 0
        self._seen_keys = 0
        self._per_key = [0.0, 0.0]

    def _handle_class(self, declaration: StateDeclaration, timed: bool) -> type[Any]:
        """The class of the handles of one declaration: what they have in common stands there once."""
        kept = {Kind.VALUE: ValueState, Kind.LIST: ListState, Kind.MAP: MapState}
        expiring = {Kind.VALUE: TtlValue, Kind.LIST: TtlList, Kind.MAP: TtlMap}
        members: dict[str, Any] = {"__slots__": ()}
        if declaration.kind is Kind.VALUE:
            members["default"] = Default(declaration.default)
        if declaration.ttl_us is None:
            return type(kept[declaration.kind].__name__, (kept[declaration.kind],), members)
        clock = declaration.ttl_clock or ("event" if timed else "processing")
        if clock == "event" and not timed:
            raise FlowError(f"{self.where}: a state has ttl_clock='event', and the stream has no event time; "
                            "call event_time() before key_by(), or use ttl_clock='processing'")  # fmt: skip
        members |= {"ttl_us": declaration.ttl_us, "expiries": self.expiries[clock]}
        return type(expiring[declaration.kind].__name__, (expiring[declaration.kind],), members)

    # --- records ---

    def record(self, key: Any) -> KeyRecord:
        """The record of a key, which is made if there is none."""
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = KeyRecord(key, tuple(kind() for kind in self._kinds))
            self.suspects[id(record)] = record
        return record

    def changing(self, record: KeyRecord) -> None:
        """A record is about to change; snapshots need to know it before."""
        self.pieces.changing((record.key,))

    def may_be_blank(self, record: KeyRecord) -> None:
        """Look at a record again with the next `sweep`."""
        self.suspects[id(record)] = record

    def sweep(self) -> None:
        """Forget the keys that have nothing."""
        if not self.suspects:
            return
        for record in self.suspects.values():
            if self.is_blank(record) and self.records.get(record.key) is record:
                self.changing(record)
                del self.records[record.key]
        self.suspects = {}

    def is_blank(self, record: KeyRecord) -> bool:
        return record.timers is None and all(handle.blank for handle in record.handles)

    def free(self, clock: str, now_us: int) -> None:
        """Free what has expired by a clock."""
        for record in self.expiries[clock].free(now_us):
            self.may_be_blank(record)

    def readable_shared(self) -> dict[str, Any]:
        """Shared state as events see it."""
        return {name: _read_only(handle) for name, handle in self.shared.items()}

    # --- as bytes ---

    def check(self, records: Iterable[KeyRecord]) -> None:
        """Make sure that what these keys hold can be kept, where it is of a type not seen before.

        Raises:
            StateError: it cannot, with the state, its type, and what to do.
        """
        for number, name in enumerate(self.names):
            if self._pickled[number]:
                continue
            kind = self.declared[number].kind
            for record in records:
                for value in _newest(record.handles[number], kind):
                    try:
                        self.codec.check(name, value)
                    except StateError as error:
                        raise StateError(f"{error} (key {record.key!r})") from error

    def check_all(self, record: KeyRecord) -> None:
        """Make sure that everything a key holds can be kept, whether its types were seen before or not.

        Raises:
            StateError: something does not come back as it went.
        """
        for name, handle, pickled in zip(self.names, record.handles, self._pickled, strict=True):
            if not pickled:
                self.codec.compare(name, _export(handle))

    def check_shared(self) -> None:
        """The same for shared state."""
        for name, handle in self.shared.items():
            declaration = self._shared_declared[name]
            if not declaration.pickle:
                for value in _newest(handle, declaration.kind):
                    self.codec.check(name, value)

    def _encoder(self) -> Callable[[Any, KeyRecord], bytes]:
        """What snapshots keep of a record; called beside the operator."""
        codec = self.codec.beside()
        return lambda key, record: self.encode(record, codec)

    def encode(self, record: KeyRecord, codec: StateCodec | None = None) -> bytes:
        """A record without its key.

        Args:
            codec: another than the operator's own.
        Raises:
            StateError: it holds what cannot be kept, with the key.
        """
        codec = codec or self.codec
        states = {
            name: codec.pickled(_export(handle)) if pickled else _export(handle)
            for name, pickled, handle in zip(self.names, self._pickled, record.handles, strict=True)
        }
        timers = [[*key, entry[0]] for key, entry in (record.timers or {}).items()]
        try:
            return codec.encode([states, timers, self._versions])
        except StateError as error:
            raise StateError(f"{error} (key {record.key!r})") from error

    def restore(self, key: Any, encoded: bytes) -> KeyRecord:
        """Put a record back as it was encoded, in place of what the key has."""
        old = self.records.pop(key, None)
        if old is not None:
            for clock, time_us, name in list(old.timers or ()):
                self.timers[clock].cancel(old, time_us, name)
            for handle in old.handles:
                if isinstance(handle, TtlHandle):
                    handle.clear()
        states, timers, versions = self.codec.decode(encoded)
        self.restored_others |= versions != self._versions or states.keys() != self._names_kept
        record = self.record(key)
        for name, handle in zip(self.names, record.handles, strict=True):
            if name not in states:
                continue  # declared since
            _restore(handle, self._migrated(name, states[name], versions.get(name, 1)))
            if isinstance(handle, TtlHandle) and not handle.blank:
                handle.expiries.schedule(record, handle, handle.next_us)
        for clock, time_us, name, due_us in timers:
            self.timers[clock].set(record, time_us, name, due_us - 1)
        return record

    def encode_shared(self) -> bytes:
        """Shared state, by the names of the states.

        Raises:
            StateError: it holds what cannot be kept.
        """
        exported = {name: _export(handle) for name, handle in self.shared.items()}
        pickled = {n: self.codec.pickled(e) if self._shared_declared[n].pickle else e for n, e in exported.items()}
        return self.codec.encode([pickled, self._shared_versions])

    def restore_shared(self, encoded: bytes) -> None:
        states, versions = self.codec.decode(encoded)
        for name, exported in states.items():
            if name in self.shared:
                handle = self.shared[name]
                handle.clear()
                _restore(handle, self._migrated(name, exported, versions[name]))

    def _migrated(self, name: str, exported: Any, version: int) -> Any:
        """What a state was written as, its values of the version that is declared.

        Raises:
            StateError: they cannot be brought to that.
        """
        migrator = self._migrators[name]
        if version == migrator.version:
            return exported
        declared = self._shared_declared.get(name) or self.declared[self.names.index(name)]
        migrated = _with_values(exported, declared, lambda old: migrator(old, version))
        if not declared.pickle:
            self.codec.compare(name, migrated)
        return migrated

    # --- what there is to know ---

    def figures(self) -> dict[str, int]:
        """How much is kept: keys and timers; entries and bytes as far as a few keys can tell, looked at now and then."""
        keys = len(self.records)
        if self._looks % _LOOK_EVERY == 0 or not self._seen_keys <= keys <= 2 * self._seen_keys:
            self._seen_keys = keys
            sample = list(islice(reversed(self.records.values()), _SAMPLE))
            sizes = [_size(self, h, d.kind) for r in sample for h, d in zip(r.handles, self.declared, strict=True)]
            self._per_key = [sum(part) / max(1, len(sample)) for part in zip(*sizes, strict=True)] or [0.0, 0.0]
        self._looks += 1
        entries, size = self._per_key
        figures = {
            "keys": keys,
            "state_entries": round(entries * keys),
            "state_bytes": round((size + _RECORD_BYTES) * keys),
            "timers": sum(t.count for t in self.timers.values()),
            "expired": sum(e.freed for e in self.expiries.values()),
        }
        return {name: figure for name, figure in figures.items() if figure}

    def view(self, key: Any) -> dict[str, Any] | None:
        """What a key has, as plain values by the name of the state; None: nothing."""
        record = self.records.get(key)
        if record is None:
            return None
        return {n: _plain(h, d.kind) for n, h, d in zip(self.names, record.handles, self.declared, strict=True)}


def _newest(handle: Any, kind: Kind) -> Iterable[Any]:
    """What was written last, to judge its types by; nothing, where nothing is there."""
    if isinstance(handle, TtlHandle):
        return handle.newest()
    match kind:
        case Kind.VALUE:
            return (handle.value,)
        case Kind.LIST:
            return handle[-1:]  # type: ignore[no-any-return]
        case Kind.MAP:
            return next(reversed(handle.items()), ())


def _export(handle: Any) -> Any:
    """What a handle holds; nothing where it holds nothing, be it that its value is the default."""
    if isinstance(handle, TtlHandle):
        return handle.export()
    if isinstance(handle, ValueState):
        return () if handle.blank else (handle.value,)
    return list(handle.items()) if isinstance(handle, MapState) else list(handle)


def _restore(handle: Any, exported: Any) -> None:
    if isinstance(handle, TtlHandle):
        handle.restore(exported)
    elif isinstance(handle, ValueState):
        if exported:
            (handle.value,) = exported
    elif isinstance(handle, MapState):
        handle.update(exported)
    else:
        handle.extend(exported)


def _with_values(exported: Any, declared: StateDeclaration, change: Callable[[Any], Any]) -> Any:
    """What a handle was exported as, with other values: the value, each element of a list, each value of a dict."""
    if not exported:
        return exported
    expires = declared.ttl_us is not None
    match declared.kind:
        case Kind.VALUE:
            return (change(exported[0]), *exported[1:])
        case Kind.LIST:
            changed = [change(value) for value in (exported[0] if expires else exported)]
            return (changed, *exported[1:]) if expires else changed
        case Kind.MAP:
            entries = [(key, change(value), *rest) for key, value, *rest in (exported[0] if expires else exported)]
            return (entries,) if expires else entries


def _plain(handle: Any, kind: Kind) -> Any:
    if isinstance(handle, TtlHandle):
        return handle.peek()
    match kind:
        case Kind.VALUE:
            return handle.value
        case Kind.LIST:
            return list(handle)
        case Kind.MAP:
            return dict(handle)


def _size(state: ProcessState, handle: Any, kind: Kind) -> tuple[int, int]:
    """How many entries a handle has, and about how many bytes: as if all were like the newest."""
    newest = tuple(_newest(handle, kind))
    if isinstance(handle, TtlHandle):
        entries = handle.held
    else:
        entries = 1 if kind is Kind.VALUE else len(handle)
    try:
        return entries, entries * len(state.codec.encode(newest))
    except StateError:
        return entries, 0  # what cannot be kept has an error of its own, where it is written; or is pickled
