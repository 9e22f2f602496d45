"""What Python makes comes back from the state codec as it went, or is refused by name."""

from __future__ import annotations

import contextlib
import enum
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.rows import rows_of
from millstream.state_codec import StateCodec, StateError, difference


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Place(NamedTuple):
    x: int
    name: str


@dataclass(frozen=True, slots=True)
class Frozen:
    a: int
    b: tuple[Decimal, ...] = ()


@dataclass
class Computed:
    a: int
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.a


class Plain:
    pass


ROW = rows_of(pa.RecordBatch.from_pylist([{"at": datetime(2024, 1, 1, tzinfo=UTC), "x": 1, "s": "a"}]))[0]

KEPT: list[Any] = [
    None, True, 0, -1, 2**63, -(2**200), 1.5, math.inf, "text", "é", b"bytes",
    [1, [2, (3, {4})]], (), (1, (2,)), {1, 2}, frozenset({"a"}), deque([1, 2], maxlen=3), {"a": {(1, "b"): [None]}},
    {1: "int", "1": "text", None: 0, 1.5: 2, date(2024, 1, 1): 3},
    datetime(2024, 2, 29, 12, 30, 1, 999_999), datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    date(1, 1, 1), time(23, 59, tzinfo=UTC), timedelta(days=-1, microseconds=7), ZoneInfo("Asia/Tokyo"), UTC,
    Decimal("1.50"), Decimal("-Infinity"), UUID(int=7), Colour.RED, Level.LOW, Rights.READ | Rights.WRITE,
    Place(1, "here"), Frozen(1, (Decimal(1),)), Computed(4), ROW,
    np.int64(3), np.float32(1.5), np.bool_(True), np.datetime64("2024-01-01T00:00:00", "us"),
    np.arange(6, dtype=np.int16).reshape(2, 3), np.array([], np.float64), np.array(["a", "bc"]), np.array(5),
]  # fmt: skip


@pytest.mark.parametrize("value", KEPT, ids=lambda v: f"{type(v).__name__}-{str(v)[:20]}")
def test_what_is_kept_comes_back_with_its_type(value: Any) -> None:
    codec = StateCodec("op")
    back = codec.decode(codec.encode([value, {"inner": value}]))
    assert difference([value, {"inner": value}], back) is None
    codec.check("state", [value])


def test_nan_and_minus_zero_come_back() -> None:
    codec = StateCodec("op")
    codec.check("state", [math.nan, np.float64("nan"), Decimal("NaN")])
    assert math.copysign(1, codec.decode(codec.encode(-0.0))) == -1


def test_an_array_that_comes_back_can_be_written() -> None:
    codec = StateCodec("op")
    codec.decode(codec.encode(np.zeros(3)))[0] = 1


@pytest.mark.parametrize(
    "value, named",
    [
        (Plain(), "Plain"), ([1, (Plain(),)], "Plain"), (defaultdict(list), "defaultdict"), (Counter("aa"), "Counter"),
        (OrderedDict(a=1), "OrderedDict"), (1j, "complex"), (lambda: 1, "function"), (object(), "object"),
        (np.array([Plain()]), "ndarray of object"), (iter([]), "iterator"), (["\ud800"], "surrogate"), (bytearray(b"x"), "bytearray"),
    ],
)  # fmt: skip
def test_what_would_not_come_back_is_refused_by_name(value: Any, named: str) -> None:
    with pytest.raises(StateError, match=rf"(?s)my op.*'mine'.*{named}"):
        StateCodec("my op").check("mine", value)


def test_a_class_that_cannot_be_told_from_its_base_is_refused() -> None:
    class Text(str):
        pass

    with pytest.raises(StateError, match="Text"):
        StateCodec("op").check("state", {"a": Text("x")})


def test_a_dataclass_whose_equality_notices_what_a_checkpoint_loses_is_refused() -> None:
    @dataclass
    class Cached:
        a: int

        def __eq__(self, other: object) -> bool:
            return self.__dict__ == other.__dict__

    value = Cached(1)
    value.extra = 2  # type: ignore[attr-defined]
    with pytest.raises(StateError, match=r"Cached.*does not come back"):
        StateCodec("op").check("state", value)


def test_state_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append((value,))
    with pytest.raises(StateError, match="nested"):
        StateCodec("op").encode(value)


def test_a_class_is_found_by_what_the_users_functions_see_and_never_imported() -> None:
    encoded = StateCodec("op").encode([Frozen(1), Place(1, "a")])
    assert StateCodec("op", {"Frozen": Frozen, "Place": Place}).decode(encoded) == [Frozen(1), Place(1, "a")]
    Lost = namedtuple("Lost", "a")
    Lost.__module__ = "a_module_that_nobody_has"
    encoded = StateCodec("op").encode(Lost(1))
    with pytest.raises(StateError, match=r"a_module_that_nobody_has:Lost.*renamed or moved"):
        StateCodec("op").decode(encoded)


def test_pickled_values_come_back_where_that_was_asked_for() -> None:
    codec = StateCodec("op", pickles=True)
    encoded = codec.encode([codec.pickled(Counter("aab"))])
    assert codec.decode(encoded) == [Counter("aab")]
    with pytest.raises(StateError, match="pickled"):
        StateCodec("op").decode(encoded)


@given(st.binary(max_size=40))
def test_bytes_that_are_no_state_are_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(StateError):
        StateCodec("op").decode(data)


_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | st.datetimes() | st.dates() | st.timedeltas() | st.decimals() | st.uuids()
)  # fmt: skip


@given(
    st.recursive(
        _LEAVES,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=3) | st.integers() | st.dates(), inner, max_size=4)
            | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_nesting_comes_back(value: Any) -> None:
    codec = StateCodec("op")
    assert difference(value, codec.decode(codec.encode(value))) is None
