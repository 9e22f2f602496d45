"""What a connector is: the contract between the runtime and everything that reads or writes.

A source is declared in the user's process (`Source`, plain data, pickled with the plan), split into
partitions, and read in the coordinator or the source host: one `Reader` a partition gives blocks, which
a `Decoder` turns into columns, there or in a worker. A sink is declared likewise (`Sink`); its
`Encoder` runs in every worker, its `Writer` in one worker or in each (`Placement`).

Readers and writers never block for longer than a read or write of a local file takes: a reader that has
nothing returns None and says what to wait for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import pyarrow as pa

from millstream.connectors.file_range import FileRange
from millstream.times import MIN_US

if TYPE_CHECKING:
    import zmq

    from millstream.connectors.journal import Journal


Offset = dict[str, Any]
"""Where a reader goes on after a restart: plain JSON, written into checkpoints. What is in it is the reader's affair."""


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a source partition, in order: whole records only.

    Attributes:
        payload: undecoded text (bytes, record boundaries at both ends) or columns; where the text is to be found, in a
            block that came from another process.
        offset: where it starts: bytes from the start of the (uncompressed) file for text, rows for columns.
        line: the number of its first line, from 1, for text; 0 where there are no lines.
        origin: the file or endpoint it came from; names it in dead letters.
        found_at: where another process can read the payload for itself; None: it has to be sent.
        replayed: the payload is dead letters, which go again to the operators that had refused them.
        watermark_us: before the block, where they go on behind an ``event_time()``; `MIN_US`: it is not known yet.
    """

    payload: bytes | memoryview | pa.Buffer | pa.RecordBatch | FileRange
    offset: int
    line: int
    origin: str
    found_at: FileRange | None = None
    replayed: bool = False
    watermark_us: int = MIN_US

    @property
    def nbytes(self) -> int:
        payload = self.payload
        if isinstance(payload, pa.RecordBatch):
            return int(payload.nbytes)
        if isinstance(payload, bytes | memoryview):
            return len(payload)
        return int(payload.size) if isinstance(payload, pa.Buffer) else payload.nbytes

    def text(self) -> bytes | memoryview | pa.Buffer:
        """The payload of a block of text, read now where the block only says where it is.

        Raises:
            SourceError: it cannot be read there.
        """
        assert not isinstance(self.payload, pa.RecordBatch)
        return self.payload.read() if isinstance(self.payload, FileRange) else self.payload


class BadRecord(NamedTuple):
    """A record that could not be decoded.

    Attributes:
        offset: bytes from the start of its block.
        line: lines from the start of its block, from 0.
        raw: the record's bytes, cut to 64 KiB.
        reason: a sentence: what was expected, what was found.
    """

    offset: int
    line: int
    raw: bytes
    reason: str


class Decoded(NamedTuple):
    columns: pa.RecordBatch
    bad: list[BadRecord]


class Decoder(Protocol):
    """From a block to columns; the same records in any cut of the input."""

    def decode(self, block: bytes | memoryview | pa.Buffer) -> Decoded: ...


class Reader(ABC):
    """One open source partition.

    Attributes:
        ended: whether everything was read. A live partition never ends.
    """

    ended: bool = False

    @abstractmethod
    def read(self, max_rows: int, max_bytes: int) -> Block | None:
        """The next block of at most so many rows and about so many bytes; None when there is nothing now.

        Raises:
            SourceError: it cannot be read any further.
        """

    def offset(self) -> Offset | None:
        """Where to go on behind the last block that was read; None: what was read cannot be read again."""
        return None

    def due_s(self) -> float | None:
        """When to ask again although nothing arrives: a reading of `time.monotonic`; None: no need."""
        return None

    def wait_on(self) -> int | zmq.Socket[bytes] | None:
        """A file descriptor or ZeroMQ socket that becomes readable when there is more; None: ask by `due_s`."""
        return None

    @abstractmethod
    def close(self) -> None: ...


class Source(ABC):
    """A source as the user declared it: plain data, pickled with the plan.

    Attributes:
        live: events arrive as they happen: idleness, linger and the wall clock apply. False for replays.
        in_caller: it must be read in the process that called `Flow.run` (Python iterables).
        hosted: it runs the user's code, and so is read in the source host, away from the coordinator.
        replayable: its readers say where they are, and reading can go on from there (`open_at`).
        journaled: what it gives comes once, but can be kept in a journal as it is read (`open_journaled`).
        taken_once: another run never reads again what one has read. Not so for a pipe, which its user may fill anew.
        calls_python: each row passes through a function of the user's.
    """

    live: bool = False
    in_caller: bool = False
    hosted: bool = False
    replayable: bool = False
    journaled: bool = False
    taken_once: bool = False
    calls_python: bool = False

    @abstractmethod
    def label(self) -> str:
        """What it reads, for errors and `explain`: ``read_csv('flights.csv')``."""

    @abstractmethod
    def schema(self) -> pa.Schema | None:
        """The fields, declared or inferred (this may read the input's start); None: known with the first block.

        Raises:
            SourceError: there is nothing to read.
        """

    @abstractmethod
    def partitions(self) -> Sequence[str]:
        """The names of the source partitions, at least one."""

    @abstractmethod
    def open(self, partition: str) -> Reader:
        """Start reading a partition from its beginning."""

    def open_at(self, partition: str, offset: Offset) -> Reader:
        """Go on reading a partition from where a reader of it said it was.

        Raises:
            SourceError: what was there then is not there any more.
        """
        raise NotImplementedError(f"{self.label()} cannot be read again from the middle")

    def open_journaled(self, partition: str, journal: Journal, offset: Offset | None) -> Reader:
        """Go on reading a partition: first what the journal holds from an offset on, then what comes.

        What comes is in the journal before the reader hands it out. The ``"position"`` in the offsets of such readers is the
        journal's: nothing before it is needed any more.

        Args:
            offset: what a reader of it said; None: from the journal's beginning.
        Raises:
            SourceError: the journal cannot be read.
        """
        raise NotImplementedError(f"{self.label()} keeps no journal")

    def with_fields(self, fields: Sequence[str]) -> Source:
        """The same source reading only ``fields``: for columnar ones, which can leave the others on disk."""
        return self

    def decoder(self, fields: Sequence[str] | None) -> Decoder | None:
        """What turns this source's blocks into columns, reading only ``fields`` (None: all).

        None for sources whose blocks are columns already.
        """
        return None

    def as_block(self, record: bytes) -> bytes:
        """A record that could not be decoded, as `BadRecord` has it, as a block by itself."""
        return record + b"\n"


class Placement(Enum):
    """Where a sink's writer runs."""

    GATHER = "one worker"  # a single file, a socket: every worker encodes, one of them writes
    PARALLEL = "every worker"  # directories of parts, the user's own sinks
    CALLER = "the caller"  # print and collect: rows travel back


class Encoder(Protocol):
    """From columns to the bytes a writer appends."""

    def encode(self, columns: pa.RecordBatch) -> bytes | pa.Buffer: ...


class Guarantee(Enum):
    """How often a row is in the output when processes fail and the run goes on from a checkpoint."""

    EXACTLY_ONCE = "exactly once"
    AFTER_RECOVERY = (
        "exactly once after a recovery"  # who reads meanwhile may see rows that are taken back and come again
    )
    AT_LEAST_ONCE = "at least once"


class Prepared(NamedTuple):
    """What a writer says at a checkpoint.

    Attributes:
        state: what another writer goes on from after a failure; plain JSON.
        commits: what `Sink.commit` does when the checkpoint is complete; plain JSON, each by itself.
    """

    state: dict[str, Any]
    commits: list[Any]


class Writer(ABC):
    """An open sink."""

    @abstractmethod
    def write(self, columns: pa.RecordBatch) -> None:
        """Write rows: for sinks without an encoder.

        Raises:
            SinkError: disk full, no permission; the message names the path.
        """

    def append(self, encoded: bytes | memoryview | pa.Buffer, rows: int) -> None:
        """Append what the sink's encoder made of ``rows`` rows."""
        raise NotImplementedError

    def flush(self) -> None:
        """Make what was written visible to readers; called when the input pauses and at least once a second."""
        return None

    def prepare(self, *, last: bool) -> Prepared:
        """Make durable what was written so far, for a checkpoint; called between rows.

        Args:
            last: the run has ended: `close` follows when the checkpoint is complete.
        """
        self.flush()
        return Prepared({}, [])

    @abstractmethod
    def close(self) -> None:
        """Finish and make the result visible: the end of a run that went well."""

    def abort(self) -> None:
        """Give up without making unfinished output look finished: the end of a run that failed."""
        return None


class Sink(ABC):
    """A sink as the user declared it: plain data, pickled with the plan.

    Attributes:
        calls_python: each row passes through a function of the user's.
    """

    placement: Placement = Placement.PARALLEL
    calls_python: bool = False
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE

    @abstractmethod
    def label(self) -> str:
        """What it writes, for errors and `explain`: ``write_jsonl('out/delays.jsonl')``."""

    def encoder(self) -> Encoder | None:
        """What makes bytes of rows, in every worker, where one writer then puts them in place; None: rows stay columns."""
        return None

    def owns(self) -> str | None:
        """What no other sink of the flow may write, as a name that is the same however it was written; None: nothing."""
        return None

    def check(self) -> None:
        """Find out before anything starts whether it can be written.

        Raises:
            SinkError: it cannot; the message says why and what to do.
        """
        return None

    def needs_retractions(self, keys: Sequence[str] | None) -> bool:
        """Whether rows that revise earlier ones must first take them back.

        Args:
            keys: the fields by which a row replaces another; None: there are no such fields any more.
        """
        return False

    def told(self, where: str, schema: pa.Schema | None, keys: Sequence[str] | None, *, signed: bool) -> Self:
        """The same, with what planning has found out of the rows that it writes.

        Args:
            where: the operator's name and the user's line, for errors.
            schema: their fields; None: not known before the first row.
            keys: the fields by which a row replaces an earlier one; None: there are none.
            signed: rows say in a first field whether they count or take an earlier one back.
        Raises:
            FlowError, SchemaError: they cannot be written so.
        """
        return copy(self)

    @abstractmethod
    def open(self, worker: int, workers: int) -> Writer:
        """Start writing, in this worker."""

    def open_staged(self, worker: int, workers: int, states: Sequence[dict[str, Any]] | None) -> Writer:
        """Start writing in a run with checkpoints: what must not be seen twice appears by `commit` alone.

        Args:
            states: what all writers of this sink said at the checkpoint from which the run goes on; None: it
                starts anew.
        """
        return self.open(worker, workers)

    def commit(self, action: Any) -> None:
        """Do one of the commits that a writer asked for. It may have been done before, in part or whole.

        Raises:
            SinkError: it cannot be done.
        """
        raise NotImplementedError(f"{self.label()} asks for no commits")
