"""Made-up events: columns by rule, the same for the same seed, whatever the size of the blocks.

A column is a rule: `Counter`, `Uniform`, `Choice`, `Zipf` or `EventTime`; a (low, high) pair is a Uniform,
a list a Choice, and any other value a constant. Rows are made in chunks of a fixed size, and each (column,
chunk) has random numbers of its own, so a column does not change when others are added or left unread.
"""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.connectors.base import Block, Offset, Reader, Source
from millstream.errors import FlowError
from millstream.schema import narrow
from millstream.times import SECOND_US, Duration, datetime_us, duration_us

CHUNK_ROWS: Final = 65_536
LINGER_S: Final = 0.005
FIRST_EVENT: Final = datetime(2025, 1, 1, tzinfo=UTC)

Index = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
Column: TypeAlias = "pa.Array[Any]"


def _array(values: Any) -> Column:
    made: Column = pa.array(values)
    return made


class Rule(ABC):
    """How one column is made."""

    @abstractmethod
    def column(self, index: Index, random: np.random.Generator) -> Column:
        """The values of the rows with these numbers, int64[n]."""


@dataclass(frozen=True)
class Counter(Rule):
    """``start``, ``start + step``, and so on."""

    start: int = 0
    step: int = 1

    def column(self, index: Index, random: np.random.Generator) -> Column:
        return _array(self.start + index * self.step)


@dataclass(frozen=True)
class Uniform(Rule):
    """Numbers from [low, high): integers when both bounds are."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise FlowError(f"generate: Uniform({self.low}, {self.high}): the low bound must be less than the high one")

    def column(self, index: Index, random: np.random.Generator) -> Column:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return _array(random.integers(self.low, self.high, len(index)))
        return _array(random.uniform(self.low, self.high, len(index)))


@dataclass(frozen=True)
class Choice(Rule):
    """One of some values, as often as its weight says."""

    values: Sequence[Any]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not len(self.values):
            raise FlowError("generate: Choice([]): there is nothing to choose from")
        weights = self.weights
        if weights is None:
            return
        if len(weights) != len(self.values) or min(weights) < 0 or not sum(weights):
            expected = f"a weight of at least 0 for each of {len(self.values)} values"
            raise FlowError(f"generate: Choice: expected {expected}, found {weights}")

    @cached_property
    def _distinct(self) -> Column:
        return _array(list(self.values))

    @cached_property
    def _upto(self) -> Weights:
        upto: Weights = np.cumsum(np.asarray(self.weights, np.float64))
        upto /= upto[-1]
        return upto

    def column(self, index: Index, random: np.random.Generator) -> Column:
        if self.weights is None:
            chosen = random.integers(0, len(self.values), len(index))
        else:
            chosen = np.searchsorted(self._upto, random.random(len(index)), side="right")
        return self._distinct.take(_array(chosen))


@dataclass(frozen=True)
class Zipf(Rule):
    """Keys of which a few are frequent: key number k with a weight of 1 / (k + 1) ** exponent.

    Integers from 0, or with a prefix strings: "user-0", "user-1". An exponent of 0 makes all alike.
    """

    keys: int
    exponent: float = 1.0
    prefix: str | None = None

    def __post_init__(self) -> None:
        if self.keys < 1:
            raise FlowError(f"generate: Zipf(keys={self.keys}): expected at least one key")

    @cached_property
    def _upto(self) -> Weights:
        upto: Weights = np.cumsum(np.arange(1, self.keys + 1, dtype=np.float64) ** -self.exponent)
        upto /= upto[-1]
        return upto

    @cached_property
    def _names(self) -> Column:
        return _array([f"{self.prefix}{k}" for k in range(self.keys)])

    def column(self, index: Index, random: np.random.Generator) -> Column:
        if self.exponent:
            chosen = np.searchsorted(self._upto, random.random(len(index)), side="right")
        else:
            chosen = random.integers(0, self.keys, len(index))
        keys = _array(chosen)
        return keys if self.prefix is None else self._names.take(keys)


@dataclass(frozen=True)
class EventTime(Rule):
    """Times that go on with the events: row i happened at ``start + i / rate``.

    Attributes:
        rate: events a second of event time; None: the source's rate, or 1,000.
        start: the time of the first event.
        jitter: each event is earlier by a random part of this: out of order, by less than it.
    """

    rate: float | None = None
    start: datetime = FIRST_EVENT
    jitter: Duration = "0s"

    def column(self, index: Index, random: np.random.Generator) -> Column:
        times = datetime_us(self.start) + (index * (SECOND_US / (self.rate or 1_000))).astype(np.int64)
        jitter_us = duration_us(self.jitter, "generate: EventTime")
        if jitter_us:
            times -= random.integers(0, jitter_us, len(index))
        return _array(times).cast(pa.timestamp("us", "UTC"))


@dataclass(frozen=True)
class Constant(Rule):
    """The same value in every row."""

    value: Any

    def column(self, index: Index, random: np.random.Generator) -> Column:
        same: Column = pa.repeat(pa.scalar(self.value), len(index))
        return same


def rule_of(value: Any) -> Rule:
    """The rule that a value in ``generate(columns=...)`` stands for."""
    if isinstance(value, Rule):
        return value
    if isinstance(value, list | range):
        return Choice(value)
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        return Uniform(*value)
    return Constant(value)


class GeneratorSource(Source):
    """Made-up events, as fast as they are taken or at a rate, without end or up to a count."""

    replayable = True

    def __init__(
        self, columns: Mapping[str, Any], *, rate: float | None = None, count: int | None = None, seed: int = 0
    ) -> None:
        if not columns:
            raise FlowError("generate: no columns given")
        if rate is not None and not rate > 0:
            raise FlowError(f"generate: rate={rate}: expected more than 0 events a second")
        self.rules = {name: _paced(rule_of(value), rate) for name, value in columns.items()}
        self.rate, self.count, self.seed = rate, count, seed
        self.live = rate is not None

    def label(self) -> str:
        return f"generate({', '.join(self.rules)})"

    def schema(self) -> pa.Schema:
        return self.chunk(0, 1).schema

    def partitions(self) -> Sequence[str]:
        return ["generated"]

    def with_fields(self, fields: Sequence[str]) -> GeneratorSource:
        names = narrow(self.schema(), fields, self.label()).names
        narrowed = copy.copy(self)
        # A batch of no columns would not know how long it is, and one column costs next to nothing.
        narrowed.rules = {name: self.rules[name] for name in names or list(self.rules)[:1]}
        return narrowed

    def open(self, partition: str) -> Reader:
        return GeneratorReader(self)

    def open_at(self, partition: str, offset: Offset) -> Reader:
        return GeneratorReader(self, offset["row"])

    def chunk(self, number: int, rows: int = CHUNK_ROWS) -> pa.RecordBatch:
        """Rows ``number * CHUNK_ROWS`` and on."""
        index = np.arange(number * CHUNK_ROWS, number * CHUNK_ROWS + rows)
        columns = {
            name: rule.column(index, np.random.default_rng((self.seed, crc32(name.encode()), number)))
            for name, rule in self.rules.items()
        }
        return pa.RecordBatch.from_pydict(columns)


def _paced(rule: Rule, rate: float | None) -> Rule:
    if isinstance(rule, EventTime) and rule.rate is None and rate is not None:
        return EventTime(rate, rule.start, rule.jitter)
    return rule


class GeneratorReader(Reader):
    """Chunk after chunk; with a rate never ahead of it."""

    def __init__(self, source: GeneratorSource, first: int = 0) -> None:
        self._source = source
        self._chunk = pa.RecordBatch.from_pydict({})
        self._chunk_number = -1
        self._first = self._next = first
        self._started_s = time.monotonic()
        self.ended = first == source.count

    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        rows = min(max_rows, self._allowed())
        if self.ended or rows <= 0:
            return None
        number, row = divmod(self._next, CHUNK_ROWS)
        if number != self._chunk_number:
            self._chunk, self._chunk_number = self._source.chunk(number), number
        per_row = self._chunk.nbytes / CHUNK_ROWS
        rows = max(1, min(rows, CHUNK_ROWS - row, int(max_bytes / per_row) if per_row else rows))
        block = Block(self._chunk.slice(row, rows), self._next, 0, "generate")
        self._next += rows
        self.ended = self._next == self._source.count
        return block

    def offset(self) -> Offset:
        return {"row": self._next}

    def due_s(self) -> float | None:
        rate = self._source.rate
        if self.ended or rate is None:
            return None
        # Not for each event by itself: a few at a time cost the same as one.
        return max(self._started_s + (self._next - self._first + 1) / rate, time.monotonic() + LINGER_S)

    def close(self) -> None:
        self.ended = True

    def _allowed(self) -> int:
        left = self._source.count - self._next if self._source.count is not None else CHUNK_ROWS
        if self._source.rate is None:
            return left
        due = self._first + int((time.monotonic() - self._started_s) * self._source.rate)
        return min(left, due - self._next)
