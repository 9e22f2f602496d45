"""Every message between the processes of a run: layout, encode and decode.

A message is one msgpack header frame, an array ``[tag, version, attempt, ...]``, plus raw frames. Rows
travel as Arrow IPC record batch messages, so a received column is a view of its frame. Nothing here is
ever unpickled, and a message that does not fit raises `WireError` before anything is done with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, cast, get_args

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.batch import EMPTY_COLUMNS, Batch, Keys, as_numpy
from millstream.connectors.base import Block
from millstream.connectors.file_range import FileRange
from millstream.errors import WireError
from millstream.schema import plain_schema
from millstream.watermarks import InputStatus

VERSION: Final = 1

Frame = bytes | memoryview | pa.Buffer

NO_MORE_BLOCKS: Final = -1
"""The partition of the message that ends a deal exchange: no block of any partition will follow."""

BARRIER_MARK: Final = -2
"""The partition of the message that tells a receiver of a deal exchange where the barrier is: all blocks that were dealt
before it belong to the checkpoint."""

_UNMEASURED: Final = -1
_HEADER_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Data:
    """Sender to receiver: a piece of one input, in sequence; it needs credit unless it carries nothing.

    Header: [tag, version, attempt, exchange, sender, origin, sequence, more, watermark_us, status, barrier, read_us,
    payload, size_bytes], where payload is None, ["batch", ...] or ["block", ...]; frames as the payload says.

    Attributes:
        exchange: which exchange of the plan it belongs to.
        sender: the name of the sending process, to which credit returns.
        origin: [upstream stage, partition]: the input whose sequence this is. A partition is a source
            partition, or the sending worker's index behind a keyed stage.
        sequence: 0, 1, 2... within the origin; every receiver gets every number, empty if need be.
        more: whether further messages with this number follow.
        watermark_us: of the input, after this message (meaningful when ``more`` is false).
        barrier: the epoch whose barrier passes with the end of this number; 0: none does.
        size_bytes: what it counts for in credit: measured once, by the sender, so that exactly what was
            taken returns.
        read_us: when the oldest of what it comes of was read from its source, by the wall clock; 0: not known. For
            measuring how old rows are where they leave the run.
    """

    TAG: ClassVar[int] = 1
    exchange: int
    sender: str
    origin: tuple[int, int]
    sequence: int
    more: bool
    watermark_us: int
    status: InputStatus
    payload: Batch | Block | None
    barrier: int = 0
    size_bytes: int = _UNMEASURED
    read_us: int = 0

    def __post_init__(self) -> None:
        if self.size_bytes == _UNMEASURED:
            size_bytes = 0 if self.payload is None else self.payload.nbytes + _HEADER_BYTES
            object.__setattr__(self, "size_bytes", size_bytes)

    def encode(self, attempt: int) -> list[Frame]:
        described: list[Any] | None = None
        frames: list[Frame] = []
        if isinstance(self.payload, Batch):
            described = _encode_batch(self.payload, frames)
        elif self.payload is not None:
            described = _encode_block(self.payload, frames)
        header = (
            self.TAG, VERSION, attempt, self.exchange, self.sender, self.origin, self.sequence, self.more,
            self.watermark_us, int(self.status), self.barrier, self.read_us, described, self.size_bytes,
        )  # fmt: skip
        return [_pack(header), *frames]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Data:
        fields = _fields("data", header, 11)
        exchange, sender, origin, sequence, more, watermark_us, status, barrier, read_us, described, size_bytes = fields
        payload: Batch | Block | None = None
        if described is not None:
            kind, *rest = described
            payload = _decode_batch(rest, frames) if kind == "batch" else _decode_block(rest, frames)
        elif frames:
            raise WireError(f"data: {len(frames)} frames where the header announces none")
        if not isinstance(size_bytes, int) or size_bytes < 0:
            raise WireError(f"data: a size of {size_bytes!r} bytes")
        input_ = (origin[0], origin[1])
        known = InputStatus(status)
        return cls(exchange, sender, input_, sequence, more, watermark_us, known, payload, barrier, size_bytes, read_us)


@dataclass(frozen=True, slots=True)
class Credit:
    """Receiver to sender: ``grant_bytes`` of ``exchange`` were finished, and so much may be in flight from now on.

    Header: [tag, version, attempt, exchange, stage, receiver, grant_bytes, window_bytes]; no frames.

    Attributes:
        stage: the sending stage. Two stages of one process that feed one exchange have credit of their own:
            while one waits behind a barrier, the other must be able to send what is before it.
    """

    TAG: ClassVar[int] = 2
    exchange: int
    stage: int
    receiver: str
    grant_bytes: int
    window_bytes: int

    def encode(self, attempt: int) -> list[Frame]:
        fields = (self.exchange, self.stage, self.receiver, self.grant_bytes, self.window_bytes)
        return [_pack((self.TAG, VERSION, attempt, *fields))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Credit:
        return cls(*_fields("credit", header, 5, frames))


@dataclass(frozen=True, slots=True)
class TimeReport:
    """Worker to coordinator: the event times of a block, at one ``event_time()``.

    Header: [tag, version, attempt, node, worker, partition, sequence, max_us, resolved]; no frames.

    Attributes:
        max_us: the largest time of the block, `MIN_US` when it has none.
        resolved: whether rows too far ahead were taken out already (the answer to a `ClockReading`
            that asked for it).
    """

    TAG: ClassVar[int] = 3
    node: int
    worker: str
    partition: int
    sequence: int
    max_us: int
    resolved: bool

    def encode(self, attempt: int) -> list[Frame]:
        header = (
            self.TAG, VERSION, attempt, self.node, self.worker, self.partition, self.sequence, self.max_us,
            self.resolved,
        )  # fmt: skip
        return [_pack(header)]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> TimeReport:
        return cls(*_fields("time report", header, 6, frames))


@dataclass(frozen=True, slots=True)
class ClockReading:
    """Coordinator to worker: what a block needs to know of its partition's clock.

    Header: [tag, version, attempt, node, partition, sequence, before_us, floor_us, watermark_us, status, resolve].

    Attributes:
        before_us: the largest time of the partition before the block.
        floor_us: the watermark before its rows is at least this (higher than their own after idleness).
        watermark_us: the partition's watermark after the block.
        resolve: True: some row is too far ahead of ``before_us``; take such rows out and report again.
    """

    TAG: ClassVar[int] = 4
    node: int
    partition: int
    sequence: int
    before_us: int
    floor_us: int
    watermark_us: int
    status: InputStatus
    resolve: bool

    def encode(self, attempt: int) -> list[Frame]:
        header = (
            self.TAG, VERSION, attempt, self.node, self.partition, self.sequence, self.before_us, self.floor_us,
            self.watermark_us, int(self.status), self.resolve,
        )  # fmt: skip
        return [_pack(header)]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> ClockReading:
        fields = _fields("clock reading", header, 8, frames)
        node, partition, sequence, before_us, floor_us, watermark_us, status, resolve = fields
        return cls(node, partition, sequence, before_us, floor_us, watermark_us, InputStatus(status), resolve)


@dataclass(frozen=True, slots=True)
class Hello:
    """A process is up and listening. Header: [tag, version, attempt, process, pid]; no frames."""

    TAG: ClassVar[int] = 5
    process: str
    pid: int

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.process, self.pid))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Hello:
        return cls(*_fields("hello", header, 2, frames))


@dataclass(frozen=True, slots=True)
class Start:
    """Coordinator to everyone: all are up, this is what will come. Header: [tag, version, attempt, partitions].

    Said again where a closing checkpoint was given up: what stopped behind its barrier goes on.

    Attributes:
        partitions: how many source partitions there are; they are numbered from 0.
    """

    TAG: ClassVar[int] = 6
    partitions: int

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.partitions))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Start:
        return cls(*_fields("start", header, 1, frames))


@dataclass(frozen=True, slots=True)
class Beat:
    """A process is alive, and what it has done so far. Header: [tag, version, attempt, process, figures]."""

    TAG: ClassVar[int] = 7
    process: str
    figures: dict[str, Any]

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.process, self.figures))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Beat:
        return cls(*_fields("beat", header, 2, frames))


@dataclass(frozen=True, slots=True)
class Failed:
    """A process cannot go on. Header: [tag, version, attempt, process, error]; no frames.

    Attributes:
        error: [class name, *arguments] of a `MillstreamError`, or ["InternalError", traceback].
    """

    TAG: ClassVar[int] = 8
    process: str
    error: list[str]

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.process, self.error))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Failed:
        return cls(*_fields("failed", header, 2, frames))


@dataclass(frozen=True, slots=True)
class Finished:
    """A process has done all of its work; its last figures. Header: [tag, version, attempt, process, figures]."""

    TAG: ClassVar[int] = 9
    process: str
    figures: dict[str, Any]

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.process, self.figures))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Finished:
        return cls(*_fields("finished", header, 2, frames))


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop: the sources end here and the rest is finished (``drain``), or everything ends at once.

    Header: [tag, version, attempt, drain]; no frames.
    """

    TAG: ClassVar[int] = 10
    drain: bool

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.drain))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Stop:
        return cls(*_fields("stop", header, 1, frames))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Coordinator to everyone: a checkpoint is under way. Header: [tag, version, attempt, epoch, last, closing]; no frames.

    Attributes:
        last: all input has ended and everything was worked on: there will be no barrier, and none after this.
        closing: nothing is done behind its barrier: the run stops there, or goes on with another number of workers.
    """

    TAG: ClassVar[int] = 11
    epoch: int
    last: bool
    closing: bool = False

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.epoch, self.last, self.closing))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Checkpoint:
        return cls(*_fields("checkpoint", header, 3, frames))


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A process has its part of a checkpoint on disk.

    Header: [tag, version, attempt, process, epoch, tables, sinks, failure, counters]; no frames.

    Attributes:
        tables: of each state table the fields of a `millstream.checkpoints.manifest.TableFile`.
        sinks: by operator, what its writer said: [state, commits].
        counters: by operator, what it had counted.
        failure: why it has not, so that there will be no such checkpoint; empty: it has.
    """

    TAG: ClassVar[int] = 12
    process: str
    epoch: int
    tables: list[list[Any]]
    sinks: dict[str, list[Any]]
    failure: str = ""
    counters: dict[str, dict[str, int]] = field(default_factory=dict)

    def encode(self, attempt: int) -> list[Frame]:
        header = (
            self.TAG, VERSION, attempt, self.process, self.epoch, self.tables, self.sinks, self.failure, self.counters,
        )  # fmt: skip
        return [_pack(header)]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Acknowledged:
        return cls(*_fields("acknowledged", header, 6, frames))


@dataclass(frozen=True, slots=True)
class Completed:
    """Coordinator to everyone: a checkpoint exists; sinks commit. Header: [tag, version, attempt, epoch]; no frames."""

    TAG: ClassVar[int] = 13
    epoch: int

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.epoch))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Completed:
        return cls(*_fields("completed", header, 1, frames))


@dataclass(frozen=True, slots=True)
class Committed:
    """A process has done the commits of a checkpoint. Header: [tag, version, attempt, process, epoch]; no frames."""

    TAG: ClassVar[int] = 14
    process: str
    epoch: int

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.process, self.epoch))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Committed:
        return cls(*_fields("committed", header, 2, frames))


@dataclass(frozen=True, slots=True)
class Ask:
    """Supervisor to coordinator: somebody wants something of the run. Header: [tag, version, attempt, number, what, epoch].

    Attributes:
        number: by which it is answered.
        what: one of the constants below.
        epoch: for RELEASE, of the checkpoint; else 0.
    """

    CHECKPOINT: ClassVar[str] = "checkpoint"  # make one now
    SAVEPOINT: ClassVar[str] = "savepoint"  # make one now, and remove nothing of it until it is released
    RELEASE: ClassVar[str] = "release"  # that one is not needed any longer
    REPLAY: ClassVar[str] = "replay"  # make one now, by which it is known which dead letters count
    PAUSE: ClassVar[str] = "pause"
    RESUME: ClassVar[str] = "resume"

    TAG: ClassVar[int] = 15
    number: int
    what: str
    epoch: int = 0

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.number, self.what, self.epoch))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Ask:
        return cls(*_fields("ask", header, 3, frames))


@dataclass(frozen=True, slots=True)
class Answered:
    """Coordinator to supervisor: what was asked for is done. Header: [tag, version, attempt, number, epoch, failure, took].

    Attributes:
        epoch: of the checkpoint that was made; 0: none was asked for.
        failure: why it could not be done; empty: it is done.
        took_us: for how long nothing was read, for `Rescale`.
    """

    TAG: ClassVar[int] = 16
    number: int
    epoch: int = 0
    failure: str = ""
    took_us: int = 0

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.number, self.epoch, self.failure, self.took_us))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Answered:
        return cls(*_fields("answered", header, 4, frames))


@dataclass(frozen=True, slots=True)
class Rescale:
    """Supervisor to coordinator: go on with another number of workers. Header: [tag, version, attempt, number, workers, next].

    Attributes:
        number: by which it is answered, by whoever leads the run then.
        next_attempt: the number of the life in which the run goes on.
    """

    TAG: ClassVar[int] = 17
    number: int
    workers: int
    next_attempt: int

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.number, self.workers, self.next_attempt))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Rescale:
        return cls(*_fields("rescale", header, 3, frames))


@dataclass(frozen=True, slots=True)
class Switch:
    """Coordinator to everyone: nothing is in flight; go on from a checkpoint, in another life with other workers.

    Header: [tag, version, attempt, epoch, workers, next]; no frames. What is sent from here on is of the next attempt.
    """

    TAG: ClassVar[int] = 18
    epoch: int
    workers: int
    next_attempt: int

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.epoch, self.workers, self.next_attempt))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Switch:
        return cls(*_fields("switch", header, 3, frames))


@dataclass(frozen=True, slots=True)
class Look:
    """Supervisor to everyone: somebody looks at the rows of an operator. Header: [tag, version, attempt, operator].

    For a few seconds each process that runs it then tells its last rows with its figures.
    """

    TAG: ClassVar[int] = 20
    operator: str

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.operator))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Look:
        return cls(*_fields("look", header, 1, frames))


@dataclass(frozen=True, slots=True)
class Query:
    """Supervisor to a worker: what do you hold of these keys? Header: [tag, version, attempt, number, operator, keys, at, most].

    Attributes:
        number: by which it is answered.
        keys: as `queries.Question` has them; None: all.
        at_us: only windows that hold this time; None: all that are open.
        most: how many rows the answer may have.
    """

    TAG: ClassVar[int] = 21
    number: int
    operator: str
    keys: list[Any] | None
    at_us: int | None
    most: int

    def encode(self, attempt: int) -> list[Frame]:
        return [_pack((self.TAG, VERSION, attempt, self.number, self.operator, self.keys, self.at_us, self.most))]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Query:
        return cls(*_fields("query", header, 5, frames))


@dataclass(frozen=True, slots=True)
class Found:
    """Worker to supervisor: the answer to a `Query`. Header: [tag, version, attempt, number, process, more, failure].

    Further frames: the schema and the rows, where there are any.

    Attributes:
        rows: columns with names, key fields among them; None: nothing is held of these keys.
        more: there are more rows than were asked for, or than go into an answer.
        failure: why there is no answer; empty: there is one.
    """

    TAG: ClassVar[int] = 22
    number: int
    process: str
    rows: pa.RecordBatch | None = None
    more: bool = False
    failure: str = ""

    def encode(self, attempt: int) -> list[Frame]:
        frames: list[Frame] = []
        if self.rows is not None:
            _encode_columns(self.rows, frames)
        return [_pack((self.TAG, VERSION, attempt, self.number, self.process, self.more, self.failure)), *frames]

    @classmethod
    def decode(cls, header: Sequence[Any], frames: Sequence[Frame]) -> Found:
        number, process, more, failure = _fields("found", header, 4, ())
        return cls(number, process, _decode_columns(iter(frames)) if frames else None, more, failure)


Message = (
    Data | Credit | TimeReport | ClockReading | Hello | Start | Beat | Failed | Finished | Stop
    | Checkpoint | Acknowledged | Completed | Committed | Ask | Answered | Rescale | Switch | Look | Query | Found
)  # fmt: skip

_MESSAGES: dict[int, Any] = {m.TAG: m for m in get_args(Message)}


def decode(frames: Sequence[Frame], attempt: int) -> Message | None:
    """A message of this attempt; None for one of another attempt, which nobody waits for any more.

    Raises:
        WireError: not a message, or of another version of the protocol.
    """
    try:
        header = msgpack.unpackb(frames[0], use_list=True, strict_map_key=False)
        tag, version, theirs = header[:3]
    except Exception as error:
        raise WireError(f"not a message: {error}") from error
    if version != VERSION:
        raise WireError(f"protocol version {version!r}, expected {VERSION}: the processes run different releases")
    if not isinstance(tag, int) or tag not in _MESSAGES:
        raise WireError(f"unknown message tag {tag!r}")
    if theirs != attempt:
        return None
    try:
        return cast(Message, _MESSAGES[tag].decode(header, frames[1:]))
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"{_MESSAGES[tag].__name__}: {error}") from error


def _pack(header: Sequence[Any]) -> bytes:
    return cast(bytes, msgpack.packb(header))


def _fields(name: str, header: Sequence[Any], count: int, frames: Sequence[Frame] = ()) -> Sequence[Any]:
    if len(header) != 3 + count or frames:
        raise WireError(f"{name}: {len(header) - 3} fields and {len(frames)} frames, expected {count} and 0")
    return header[3:]


# --- batches and blocks ---

_schemas: dict[bytes, pa.Schema] = {}
_SCHEMAS_KEPT: Final = 256


def _encode_batch(batch: Batch, frames: list[Frame]) -> list[Any]:
    beside = [batch.time_us, batch.before_us, batch.position, batch.sign]
    has_columns = _encode_columns(batch.columns, frames)
    frames += [_buffer(array) for array in beside if array is not None]
    if batch.keys is not None:
        _encode_columns(batch.keys.distinct, frames)
        frames.append(_buffer(batch.keys.codes))
    return ["batch", has_columns, *(a is not None for a in beside), batch.keys is not None]


def _decode_batch(described: Sequence[Any], frames: Sequence[Frame]) -> Batch:
    rest = iter(frames)
    has_columns, has_time, has_before, has_position, has_sign, has_keys = described
    columns = _decode_columns(rest) if has_columns else EMPTY_COLUMNS
    time_us, before_us, position = (
        as_numpy(next(rest), np.int64) if present else None for present in (has_time, has_before, has_position)
    )
    sign = as_numpy(next(rest), np.int8) if has_sign else None
    keys = Keys(_decode_columns(rest), as_numpy(next(rest), np.int32)) if has_keys else None
    batch = Batch(columns, time_us, before_us, position, keys, sign)
    codes = None if keys is None else keys.codes
    lengths = {len(a) for a in (time_us, before_us, position, sign, codes) if a is not None}
    if columns.num_columns:
        lengths.add(columns.num_rows)
    if len(lengths) > 1:
        raise WireError(f"batch: columns and what is beside them have {sorted(lengths)} rows, expected one number")
    # As unsigned numbers, codes below 0 are above every limit.
    if keys is not None and len(keys.codes) and int(keys.codes.view(np.uint32).max()) >= keys.distinct.num_rows:
        raise WireError(f"batch: a key code that is none of {keys.distinct.num_rows} keys")
    if next(rest, None) is not None:
        raise WireError("batch: more frames than the header announces")
    return batch


def _encode_columns(columns: pa.RecordBatch, frames: list[Frame]) -> bool:
    if columns.num_columns == 0:
        return False
    if any(pa.types.is_dictionary(t) or pa.types.is_nested(t) for t in columns.schema.types):
        # A dictionary, also one inside of a list or struct, would be a message of its own.
        plain = plain_schema(columns.schema)
        columns = columns if plain == columns.schema else columns.cast(plain)
    frames.append(columns.schema.serialize())
    frames.append(columns.serialize())
    return True


def _decode_columns(frames: Any) -> pa.RecordBatch:
    described = bytes(next(frames))
    schema = _schemas.get(described)
    if schema is None:
        if len(_schemas) >= _SCHEMAS_KEPT:
            _schemas.clear()
        schema = _schemas[described] = pa.ipc.read_schema(pa.py_buffer(described))
    return pa.ipc.read_record_batch(pa.py_buffer(next(frames)), schema)


def _buffer(array: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")


def _encode_block(block: Block, frames: list[Frame]) -> list[Any]:
    if isinstance(block.payload, pa.RecordBatch):
        # The row count: Arrow forgets it when there are no columns, and a block may carry none that are read.
        has_columns = _encode_columns(block.payload, frames)
        return ["block", block.offset, block.line, block.origin, "columns" if has_columns else "none"]
    if block.found_at is not None:
        return ["block", block.offset, block.line, block.origin, "file", *block.found_at]
    frames.append(block.text())
    if block.replayed:
        return ["block", block.offset, block.line, block.origin, "letters", block.watermark_us]
    return ["block", block.offset, block.line, block.origin, "bytes"]


def _decode_block(described: Sequence[Any], frames: Sequence[Frame]) -> Block:
    offset, line, origin, kind, *more = described
    if len(frames) != {"bytes": 1, "letters": 1, "columns": 2, "none": 0, "file": 0}[kind]:
        raise WireError(f"block: {len(frames)} frames for {kind}")
    if kind == "file":
        return Block(FileRange(*more), offset, line, origin)
    if kind == "letters":
        (watermark_us,) = more
        return Block(pa.py_buffer(frames[0]), offset, line, origin, replayed=True, watermark_us=watermark_us)
    if kind == "bytes":
        return Block(pa.py_buffer(frames[0]), offset, line, origin)
    return Block(_decode_columns(iter(frames)) if kind == "columns" else EMPTY_COLUMNS, offset, line, origin)
