"""Connectors in the user's own Python.

A source is an object, or a class without arguments, with ``read(partition)`` that gives rows, and
``partitions()`` if there are several; or just a function that gives rows. Where its ``replayable`` is true, it gives the
same rows whenever it is read, and a run goes on in the middle of them. A sink is an object, or a class,
with ``write(rows)``, and ``open(worker, workers)``, ``flush()``, ``close()`` and ``abort()`` where it wants
them. What they raise ends the run with their own traceback.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from millstream.connectors.base import Offset, Reader, Sink, Source, Writer
from millstream.connectors.memory import RowReader
from millstream.errors import FlowError
from millstream.functions import UserFunction, user_error
from millstream.rows import Row, rows_of

_ONE = "python"


class PythonSource(Source):
    """The user's source; runs in the source host."""

    calls_python = True
    live = True
    hosted = True

    def __init__(self, source: UserFunction, *, schema: pa.Schema | None = None) -> None:
        self.source, self.declared = source, schema
        self.replayable = bool(getattr(source.load(), "replayable", False))

    def label(self) -> str:
        return f"source({self.source.name})"

    def schema(self) -> pa.Schema | None:
        return self.declared

    def partitions(self) -> Sequence[str]:
        source = self._instance()
        ask = getattr(source, "partitions", None)
        if ask is None:
            return [_ONE]
        try:
            names = [str(name) for name in ask()]
        except Exception as error:
            raise user_error(self.label(), "partitions()", error) from error
        if not names:
            raise FlowError(f"{self.label()}: partitions() returned none; a source has at least one")
        return names

    def open(self, partition: str) -> Reader:
        return self._reader(partition, 0)

    def open_at(self, partition: str, offset: Offset) -> Reader:
        return self._reader(partition, offset["row"])

    def _reader(self, partition: str, skip: int) -> Reader:
        source = self._instance()
        try:
            if hasattr(source, "read"):
                rows = source.read(partition)
            else:
                rows = source(partition) if inspect.signature(source).parameters else source()
            return RowReader(self._guarded(iter(rows)), self.declared, self.label(), live=True, skip=skip)
        except Exception as error:
            raise user_error(self.label(), f"partition {partition!r}", error) from error

    def _instance(self) -> Any:
        source = _made(self.source.load(), self.label())
        if not hasattr(source, "read") and not callable(source):
            raise FlowError(f"{self.label()}: expected an object with read(partition), or a function that gives rows")
        return source

    def _guarded(self, rows: Iterator[Any]) -> Iterator[Any]:
        number = 0
        try:
            for row in rows:
                yield row
                number += 1
        except GeneratorExit:
            raise
        except Exception as error:
            raise user_error(self.label(), f"row {number}", error) from error
        finally:
            close = getattr(rows, "close", None)
            if close is not None:
                close()


class PythonSink(Sink):
    """The user's sink; one in every worker."""

    calls_python = True

    def __init__(self, sink: UserFunction) -> None:
        self.sink = sink

    def label(self) -> str:
        return f"sink({self.sink.name})"

    def open(self, worker: int, workers: int) -> Writer:
        sink = _made(self.sink.load(), self.label())
        if not callable(getattr(sink, "write", None)):
            raise FlowError(f"{self.label()}: expected an object with write(rows)")
        return _SinkWriter(sink, self.label(), worker, workers)


class PythonWriter(Writer):
    """Hands rows to the user's Python. What that raises is handled by whoever calls, as the flow says (``on_error``)."""

    @abstractmethod
    def write_rows(self, rows: list[Row]) -> None:
        """Hand over rows, all of which count as not written when this raises."""

    def write(self, columns: pa.RecordBatch) -> None:
        self.write_rows(rows_of(columns))


class RowWriter(PythonWriter):
    """Hands rows over one by one, each for itself."""

    @abstractmethod
    def write_row(self, row: Row) -> None: ...

    def write_rows(self, rows: list[Row]) -> None:
        for row in rows:
            self.write_row(row)


class _SinkWriter(PythonWriter):
    def __init__(self, sink: Any, label: str, worker: int, workers: int) -> None:
        self._sink, self._label = sink, label
        self._call("open", worker, workers)

    def write_rows(self, rows: list[Row]) -> None:
        self._sink.write(rows)

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")

    def abort(self) -> None:
        self._call("abort")

    def _call(self, method: str, *arguments: int) -> None:
        function = getattr(self._sink, method, None)
        if function is None:
            return
        try:
            function(*arguments)
        except Exception as error:
            raise user_error(self._label, f"{method}{arguments or '()'}", error) from error


class ForEachSink(Sink):
    """Calls a function with every row, in the worker that has it."""

    calls_python = True

    def __init__(self, function: UserFunction) -> None:
        self.function = function

    def label(self) -> str:
        return f"for_each({self.function.name})"

    def open(self, worker: int, workers: int) -> Writer:
        return _ForEachWriter(self.function.load())


class _ForEachWriter(RowWriter):
    def __init__(self, function: Any) -> None:
        self._function = function

    def write_row(self, row: Row) -> None:
        self._function(row)

    def close(self) -> None:
        pass


def _made(value: Any, label: str) -> Any:
    """An object as it is, a class as an object of it."""
    if not isinstance(value, type):
        return value
    try:
        return value()
    except Exception as error:
        raise user_error(label, f"{value.__qualname__}()", error) from error
