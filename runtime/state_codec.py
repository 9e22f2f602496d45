"""The encoding of state that the user's Python makes: msgpack, with what Python has and msgpack has not.

Encoded state is what a checkpoint holds, so it must come back as it went: the same types and equal values, nested
ones included. Beside None, bool, int, float, str, bytes, list and dict there are tuple, set, frozenset, deque,
integers of any size, datetime, date, time, timedelta, timezones, Decimal, UUID, events (`Row`), named
tuples, dataclasses, enums, and NumPy scalars and arrays. Anything else is refused by name: subclasses too, which
would come back as what they derive from. `StateCodec.check` finds out at once, when a type is first seen, and not
at the first checkpoint an hour later.

Decoding makes objects of no class that it was not given: the name of a dataclass in a file is looked up among the
classes that the codec has seen or that are loaded already, and nothing is imported for it. Only values of states
that were declared with ``pickle=True`` are pickled.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pyarrow as pa

from millstream.errors import MillstreamError
from millstream.rows import Row, row_class


class StateError(MillstreamError):
    """State that cannot be kept: of a type that does not come back as it went, or that cannot be read."""


class _Code(IntEnum):
    """The msgpack extension types, as they are in files: numbers are never given to another type."""

    TUPLE = 1
    SET = 2
    FROZENSET = 3
    DEQUE = 4
    BIG_INT = 6
    DATETIME = 7
    DATE = 8
    TIME = 9
    TIMEDELTA = 10
    ZONE = 11
    DECIMAL = 12
    UUID = 13
    ROW = 14
    NAMED_TUPLE = 15
    DATACLASS = 16
    ENUM = 17
    SCALAR = 18
    ARRAY = 19
    PICKLE = 20


_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes))
"""Types that need no look: msgpack has them."""

_DEPTH_LIMIT: Final = 200
_BUFFER_BYTES: Final = 1 << 20
"""A packer that has packed more than this is let go, because its buffer stays as large."""
_ENCODE_FAILURES: Final = (TypeError, ValueError, OverflowError, RecursionError, AttributeError, UnicodeError)


class StateCodec:
    """Encodes and decodes the states of one operator.

    Args:
        where: the operator, for errors.
        namespace: where classes are looked up that no encoded value has shown yet, by their names: what the
            user's functions refer to.
        pickles: whether a state was declared with ``pickle=True``; else nothing is ever unpickled.
    """

    def __init__(self, where: str, namespace: Mapping[str, Any] | None = None, *, pickles: bool = False) -> None:
        self.where = where
        self._pickles = pickles
        self._namespace = namespace or {}
        self._classes: dict[str, type] = {}
        self._checked: set[tuple[str, type]] = set()
        self._depth = 0
        self._packers: list[msgpack.Packer] = []  # by depth: making one costs more than most states do

    def beside(self) -> StateCodec:
        """The same for another thread, which may encode at the same time."""
        other = StateCodec(self.where, self._namespace, pickles=self._pickles)
        other._classes, other._checked = self._classes, self._checked
        return other

    # --- encoding ---

    def encode(self, value: Any) -> bytes:
        """
        Raises:
            StateError: a type that is not supported, by name.
        """
        self._depth = 0
        try:
            return self._pack(value)
        except StateError:
            raise
        except _ENCODE_FAILURES as error:
            raise StateError(f"{self.where}: state cannot be kept: {error}") from error

    def decode(self, data: bytes) -> Any:
        """
        Raises:
            StateError: it is no state, or has a class that is not there.
        """
        try:
            return self._unpack(data)
        except StateError:
            raise
        except Exception as error:
            raise StateError(f"{self.where}: state cannot be read: {type(error).__name__}: {error}") from error

    def pickled(self, value: Any) -> msgpack.ExtType:
        """A value for `encode` that goes by pickle: for states whose user has asked for it."""
        try:
            return msgpack.ExtType(_Code.PICKLE, pickle.dumps(value))
        except Exception as error:
            raise StateError(f"{self.where}: state cannot be pickled: {error}") from error

    def check(self, name: str, value: Any) -> None:
        """`compare` a value where a state shows its type for the first time."""
        kind = type(value)
        if kind not in _PLAIN and (name, kind) not in self._checked:
            self.compare(name, value)
            self._checked.add((name, kind))

    def compare(self, name: str, value: Any) -> None:
        """Make sure that a value comes back as it went.

        Args:
            name: of the state, for errors.
        Raises:
            StateError: it does not, with the type that is to blame and what to do.
        """
        kind = type(value)
        try:
            back = self.decode(self.encode(value))
        except StateError as error:
            reason = str(error).removeprefix(f"{self.where}: ")
            raise StateError(f"{self.where}: state {name!r} holds {_name(kind)}: {reason}") from error
        culprit = difference(value, back)
        if culprit is not None:
            raise StateError(
                f"{self.where}: state {name!r} holds {_name(kind)}: {culprit} does not come back from a checkpoint as "
                "it went (by type and ==); keep plain values, or declare the state with pickle=True"
            )

    def learn(self, classes: Iterable[type]) -> None:
        """Classes that encoded values may be of."""
        for kind in classes:
            self._classes[_name(kind)] = kind

    def _pack(self, value: Any) -> bytes:
        depth = self._depth
        if depth == _DEPTH_LIMIT:
            raise StateError(f"{self.where}: state cannot be kept: it is nested more than {_DEPTH_LIMIT} deep, "
                             "or contains itself")  # fmt: skip
        if depth == len(self._packers):
            self._packers.append(msgpack.Packer(default=self._extension, strict_types=True, use_bin_type=True))
        self._depth = depth + 1
        packed: bytes = self._packers[depth].pack(value)
        self._depth = depth
        if len(packed) > _BUFFER_BYTES:
            del self._packers[depth:]
        return packed

    def _extension(self, value: Any) -> msgpack.ExtType:
        kind = type(value)
        write = _WRITERS.get(kind)
        if write is not None:
            code, inner = write(value)
            return msgpack.ExtType(code, inner if isinstance(inner, bytes) else self._pack(inner))
        if isinstance(value, tzinfo):
            return msgpack.ExtType(_Code.ZONE, self._pack(_zone_name(value)))
        if isinstance(value, np.generic | np.ndarray):
            return self._of_numpy(value)
        if isinstance(value, Row):
            stored = list(tuple.__iter__(value))
            raw = [(i, getattr(t, "tz", None), isinstance(t, pa.TimestampType)) for i, t in kind._raw.items()]
            return msgpack.ExtType(_Code.ROW, self._pack([list(kind._fields), [list(r) for r in raw], stored]))
        inner = self._of_class(value, kind)
        if inner is None:
            raise StateError(
                f"{self.where}: state cannot be kept: {_name(kind)} is no type that checkpoints know; keep plain "
                "values, dataclasses or named tuples of them, or declare the state with pickle=True"
            )
        self._classes[_name(kind)] = kind
        return inner

    def _of_class(self, value: Any, kind: type) -> msgpack.ExtType | None:
        name = _name(kind)
        if isinstance(value, Enum):
            return msgpack.ExtType(_Code.ENUM, self._pack([name, value._value_]))
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return msgpack.ExtType(_Code.NAMED_TUPLE, self._pack([name, list(value)]))
        if dataclasses.is_dataclass(kind):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
            return msgpack.ExtType(_Code.DATACLASS, self._pack([name, fields]))
        return None

    def _of_numpy(self, value: Any) -> msgpack.ExtType:
        if value.dtype.hasobject or value.dtype.names is not None or type(value) not in (np.ndarray, value.dtype.type):
            raise StateError(f"{self.where}: state cannot be kept: a NumPy {type(value).__name__} of {value.dtype} is "
                             "more than numbers; keep its parts")  # fmt: skip
        if isinstance(value, np.ndarray):
            return msgpack.ExtType(_Code.ARRAY, self._pack([value.dtype.str, list(value.shape), value.tobytes()]))
        return msgpack.ExtType(_Code.SCALAR, self._pack([value.dtype.str, value.tobytes()]))

    # --- decoding ---

    def _unpack(self, data: bytes) -> Any:
        return msgpack.unpackb(data, ext_hook=self._read, strict_map_key=False, raw=False)

    def _read(self, code: int, data: bytes) -> Any:
        read = _READERS.get(code)
        if read is not None:
            return read(data if code in _RAW else self._unpack(data))
        match code:
            case _Code.PICKLE if self._pickles:
                return pickle.loads(data)
            case _Code.PICKLE:
                raise StateError(f"{self.where}: state cannot be read: it was pickled, and pickle=True is gone")
            case _Code.ENUM:
                name, value = self._unpack(data)
                return self._class(name)(value)
            case _Code.NAMED_TUPLE:
                name, values = self._unpack(data)
                return tuple.__new__(self._class(name), values)
            case _Code.DATACLASS:
                name, fields = self._unpack(data)
                return _rebuilt(self._class(name), fields)
        raise StateError(f"{self.where}: state cannot be read: extension type {code} is not known")

    def _class(self, name: str) -> Any:
        known = self._classes.get(name)
        if known is None:
            module, _, path = name.partition(":")
            for root in (sys.modules.get(module), self._namespace):
                found: Any = root
                for part in path.split("."):
                    found = found.get(part) if isinstance(found, Mapping) else getattr(found, part, None)
                if isinstance(found, type) and _name(found) == name:
                    known = self._classes[name] = found
                    break
        if known is None:
            raise StateError(
                f"{self.where}: state cannot be read: its class {name} is not there; has it been renamed or moved?"
            )
        return known


def difference(value: Any, back: Any) -> str | None:
    """What in a value came back different: in words, the innermost part; None: it is the same, types included."""
    if type(value) is not type(back):
        return f"{_name(type(value))} (it comes back as {_name(type(back))})"
    if isinstance(value, list | tuple | deque) and not isinstance(value, Row):
        if len(value) != len(back):
            return f"a {_name(type(value))} of {len(value)} elements"
        return next((d for a, b in zip(value, back, strict=True) if (d := difference(a, b))), None)
    if isinstance(value, dict):
        if list(value) != list(back):
            return f"a dict with keys {list(value)!r:.100}"
        keys = (difference(a, b) for a, b in zip(value, back, strict=True))
        values = (difference(v, back[k]) for k, v in value.items())
        return next((d for d in (*keys, *values) if d), None)
    if isinstance(value, np.ndarray):
        same = value.dtype == back.dtype and value.shape == back.shape and value.tobytes() == back.tobytes()
        return None if same else f"an array of {value.dtype}"
    if dataclasses.is_dataclass(value):
        pairs = ((getattr(value, f.name, None), getattr(back, f.name, None)) for f in dataclasses.fields(value))
        inner = next((d for a, b in pairs if (d := difference(a, b))), None)
        if inner is not None or type(value).__eq__ is object.__eq__:
            return inner
    if isinstance(value, Decimal):
        return None if str(value) == str(back) else f"Decimal {value}"
    if value != value:  # NaN, or what has one inside
        return None if back != back else f"{value!r:.100}"
    return None if bool(value == back) else f"{_name(type(value))} {value!r:.100}"


def _name(kind: type) -> str:
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}:{kind.__qualname__}"


def _rebuilt(kind: type, fields: dict[str, Any]) -> Any:
    """A dataclass instance as it was: no ``__init__``, which may compute; frozen and slotted ones, too."""
    made: Any = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


# --- times ---


def _zone_name(zone: tzinfo | None) -> str | int | None:
    """How a time zone is written: the key of a ``ZoneInfo``, or the seconds of a fixed offset."""
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    if type(zone) is timezone and zone == timezone(zone.utcoffset(None)):
        return round(zone.utcoffset(None).total_seconds() * 1_000_000)
    raise StateError(f"state cannot be kept: a time zone of type {_name(type(zone))}; use zoneinfo or a fixed offset")


def _zone(name: str | int | None) -> tzinfo | None:
    if name is None:
        return None
    return ZoneInfo(name) if isinstance(name, str) else timezone(timedelta(microseconds=name))


def _write_datetime(value: datetime) -> tuple[int, Any]:
    return _Code.DATETIME, [value.replace(tzinfo=None).isoformat(), _zone_name(value.tzinfo), value.fold]


def _read_datetime(parts: list[Any]) -> datetime:
    text, zone, fold = parts
    return datetime.fromisoformat(text).replace(tzinfo=_zone(zone), fold=fold)


def _write_time(value: time) -> tuple[int, Any]:
    return _Code.TIME, [value.replace(tzinfo=None).isoformat(), _zone_name(value.tzinfo), value.fold]


def _read_time(parts: list[Any]) -> time:
    text, zone, fold = parts
    return time.fromisoformat(text).replace(tzinfo=_zone(zone), fold=fold)


def _read_row(parts: list[Any]) -> Row:
    fields, raw, values = parts
    kinds = tuple((i, pa.timestamp("us", tz) if is_time else pa.duration("us")) for i, tz, is_time in raw)
    return tuple.__new__(row_class(tuple(fields), kinds), values)


def _read_scalar(parts: list[Any]) -> Any:
    kind, data = parts
    return np.frombuffer(data, np.dtype(kind))[0]


def _read_array(parts: list[Any]) -> Any:
    kind, shape, data = parts
    return np.frombuffer(data, np.dtype(kind)).reshape(shape).copy()  # writable, as it was


_WRITERS: Final[dict[type, Callable[[Any], tuple[int, Any]]]] = {
    tuple: lambda v: (_Code.TUPLE, list(v)),
    set: lambda v: (_Code.SET, list(v)),
    frozenset: lambda v: (_Code.FROZENSET, list(v)),
    deque: lambda v: (_Code.DEQUE, [list(v), v.maxlen]),
    int: lambda v: (_Code.BIG_INT, str(v).encode()),
    datetime: _write_datetime,
    date: lambda v: (_Code.DATE, v.isoformat().encode()),
    time: _write_time,
    timedelta: lambda v: (_Code.TIMEDELTA, [v.days, v.seconds, v.microseconds]),
    Decimal: lambda v: (_Code.DECIMAL, str(v).encode()),
    UUID: lambda v: (_Code.UUID, v.bytes),
}

_RAW: Final = frozenset((_Code.BIG_INT, _Code.DATE, _Code.DECIMAL, _Code.UUID))
"""Extensions whose data is no msgpack of its own."""

_READERS: Final[dict[int, Callable[[Any], Any]]] = {
    _Code.TUPLE: tuple,
    _Code.SET: set,
    _Code.FROZENSET: frozenset,
    _Code.DEQUE: lambda parts: deque(parts[0], parts[1]),
    _Code.BIG_INT: lambda data: int(data.decode()),
    _Code.DATETIME: _read_datetime,
    _Code.DATE: lambda data: date.fromisoformat(data.decode()),
    _Code.TIME: _read_time,
    _Code.TIMEDELTA: lambda parts: timedelta(parts[0], parts[1], parts[2]),
    _Code.ZONE: _zone,
    _Code.DECIMAL: lambda data: Decimal(data.decode()),
    _Code.UUID: lambda data: UUID(bytes=data),
    _Code.ROW: _read_row,
    _Code.SCALAR: _read_scalar,
    _Code.ARRAY: _read_array,
}
