"""Sinks of which nothing is lost between the lives of a run: what they wrote is in memory, outside of every process.

They keep the contract of the file sinks: parts appear when a checkpoint that counts them is complete, and a log is
cut back to what the checkpoint counts. What was not made durable may be gone, or torn, after a crash.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar

import pyarrow as pa

from millstream.connectors.base import Guarantee, Placement, Prepared, Sink, Writer
from millstream.errors import SinkError

from .faults import Injected, Trouble

TORN = "<torn>"


@dataclass
class _Part:
    rows: list[str] = field(default_factory=list)
    durable: bool = False
    visible: bool = False


@dataclass
class Ledger:
    """Everything that sinks have written, and what there is to read that comes only once.

    Attributes:
        parts: of every sink in parts, by (worker, number).
        logs: of every sink that is one log; durable_rows: how many rows of it no crash can take.
    """

    trouble: Trouble
    parts: dict[str, dict[tuple[int, int], _Part]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    durable_rows: dict[str, int] = field(default_factory=dict)
    _inputs: dict[str, IO[bytes]] = field(default_factory=dict)

    def comes_once(self, name: str, data: bytes) -> int:
        """A descriptor of this input: what a process has read of it no other gets, as from a pipe."""
        if name not in self._inputs:
            file = self._inputs[name] = TemporaryFile(buffering=0)  # noqa: SIM115  # for as long as the ledger
            file.write(data)
            file.seek(0)
        return self._inputs[name].fileno()

    def rows(self, name: str) -> Counter[str]:
        """What a reader of a sink sees."""
        visible = [row for part in self.parts.get(name, {}).values() if part.visible for row in part.rows]
        return Counter([*visible, *self.logs.get(name, [])])

    @property
    def names(self) -> set[str]:
        return {*self.parts, *self.logs}

    def crash(self, dice: random.Random) -> None:
        """The machine stops: of what was not made durable an arbitrary part is there afterwards."""
        for parts in self.parts.values():
            for part in parts.values():
                if not part.durable:
                    part.rows = [*part.rows[: dice.randint(0, len(part.rows))], TORN]
        for name, log in self.logs.items():
            keep = dice.randint(self.durable_rows[name], len(log))
            if keep < len(log):
                log[keep:] = [TORN]


class LedgerSink(Sink):
    guarantee = Guarantee.EXACTLY_ONCE

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name

    def label(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class PartsSink(LedgerSink):
    """Part files: sealed at a checkpoint, shown by its commits."""

    def open(self, worker: int, workers: int) -> Writer:
        return _Shown(self, worker)

    def open_staged(self, worker: int, workers: int, states: Sequence[dict[str, Any]] | None) -> Writer:
        counted = {s["worker"]: s["next"] for s in states or ()}
        first = max(counted.values(), default=0)
        parts = self.ledger.parts.setdefault(self.name, {})
        for owner, number in list(parts):
            mine = owner == worker or (worker == 0 and owner >= workers)
            part = parts[owner, number]
            if mine and (not part.visible or number >= counted.get(owner, first)):
                del parts[owner, number]
        return _Parts(self, worker, first)

    def commit(self, action: Any) -> None:
        worker, number = action
        part = self.ledger.parts[self.name].get((worker, number))
        if part is None:
            raise AssertionError(f"{self.label()}: part {number} of worker {worker} is to be shown, and is gone")
        if not part.durable:
            raise AssertionError(f"{self.label()}: part {number} of worker {worker} is to be shown, and was not sealed")
        try:
            self.ledger.trouble.before()
            part.visible = True
            self.ledger.trouble.after()
        except Injected as error:
            raise SinkError(f"{self.label()}: {error}") from error


class _Parts(Writer):
    def __init__(self, sink: PartsSink, worker: int, first: int) -> None:
        self._sink, self._worker, self._number = sink, worker, first
        self._part: _Part | None = None
        self._sealed: list[list[int]] = []

    def write(self, columns: pa.RecordBatch) -> None:
        if self._part is None:
            self._part = _Part()
            self._sink.ledger.parts[self._sink.name][self._worker, self._number] = self._part
            self._number += 1
        self._part.rows += map(repr, columns.to_pylist())

    def prepare(self, *, last: bool) -> Prepared:
        if self._part is not None:
            try:
                self._sink.ledger.trouble.before()
            except Injected as error:
                raise SinkError(f"{self._sink.label()}: {error}") from error
            self._part.durable = True
            self._part = None
            self._sealed.append([self._worker, self._number - 1])
        sealed, self._sealed = self._sealed, []
        return Prepared({"worker": self._worker, "next": self._number}, sealed)

    def close(self) -> None:
        assert self._part is None, "rows after the last checkpoint"


class _Shown(Writer):
    """Without checkpoints, everything can be seen at once."""

    def __init__(self, sink: LedgerSink, worker: int) -> None:
        self._part = _Part(visible=True)
        sink.ledger.parts.setdefault(sink.name, {})[worker, 0] = self._part

    def write(self, columns: pa.RecordBatch) -> None:
        self._part.rows += map(repr, columns.to_pylist())

    def close(self) -> None:
        return None


class LogSink(LedgerSink):
    """One file that grows: at a checkpoint it is made durable, after a crash it is cut back."""

    placement: ClassVar[Placement] = Placement.GATHER  # type: ignore[misc]

    def open(self, worker: int, workers: int) -> Writer:
        return _Shown(self, worker)

    def open_staged(self, worker: int, workers: int, states: Sequence[dict[str, Any]] | None) -> Writer:
        log = self.ledger.logs.setdefault(self.name, [])
        length = states[0]["length"] if states else 0
        assert len(log) >= length, f"{self.label()}: {len(log)} rows, and the checkpoint counts on {length}"
        del log[length:]
        assert TORN not in log
        self.ledger.durable_rows[self.name] = length
        return _Log(self, log)


class _Log(Writer):
    def __init__(self, sink: LogSink, log: list[str]) -> None:
        self._sink, self._log = sink, log

    def write(self, columns: pa.RecordBatch) -> None:
        self._log += map(repr, columns.to_pylist())

    def prepare(self, *, last: bool) -> Prepared:
        try:
            self._sink.ledger.trouble.before()
        except Injected as error:
            raise SinkError(f"{self._sink.label()}: {error}") from error
        self._sink.ledger.durable_rows[self._sink.name] = len(self._log)
        return Prepared({"length": len(self._log)}, [])

    def close(self) -> None:
        return None
