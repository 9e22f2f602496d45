"""Everything that reads bytes which others have made, with what it may raise, and sound input to start from.

Each reader takes bytes and returns, or raises what its documentation says. `test_readers.py` gives them damaged input in
CI; `scripts/fuzz` lets atheris look for it for as long as one likes.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from harness.tables import as_file

from millstream import commands, wire
from millstream.batch import Batch, Keys, make_columns
from millstream.checkpoints.manifest import Manifest, PartitionState, SinkState, TableFile
from millstream.checkpoints.tables import StateTable, from_ipc
from millstream.connectors.base import Block
from millstream.connectors.blocks import csv_ends
from millstream.connectors.csv import CsvDecoder
from millstream.connectors.decoders import LineDecoder
from millstream.connectors.infer import infer_csv, infer_json
from millstream.connectors.journal import Journal
from millstream.connectors.jsonl import JsonDecoder
from millstream.connectors.messages import join_messages, message_decoder, message_encoder
from millstream.errors import (
    CheckpointError,
    CommandError,
    MillstreamError,
    SourceError,
    WireError,
)
from millstream.schema import to_schema
from millstream.state_codec import StateCodec, StateError
from millstream.watermarks import InputStatus

SCHEMA = to_schema(
    {"i": int, "f": float, "s": str, "b": bool, "y": bytes, "t": datetime.datetime, "d": Decimal, "l": list[int]}
)
FLAT = pa.schema([f for f in SCHEMA if f.name != "l"])
TIME = datetime.datetime(2024, 5, 14, 18, 58, 20, tzinfo=datetime.UTC)
ROWS: list[dict[str, Any]] = [
    {"i": 1, "f": 1.5, "s": 'x"\n', "b": True, "y": b"\0", "t": TIME, "d": Decimal("1.50"), "l": [1, 2]},
    dict.fromkeys(SCHEMA.names),
]
BATCH = pa.RecordBatch.from_pylist(ROWS, schema=SCHEMA)


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        read: takes the bytes.
        raises: what it may raise; nothing else.
        sound: input that it takes.
    """

    read: Callable[[bytes], object]
    raises: tuple[type[MillstreamError], ...]
    sound: tuple[bytes, ...]


def _frames(data: bytes) -> list[bytes]:
    """Frames with a length of two bytes in front of each; the last one takes what is left."""
    frames: list[bytes] = []
    while len(data) > 2:
        length = int.from_bytes(data[:2], "little")
        frames.append(data[2 : 2 + length])
        data = data[2 + length :]
    return frames


def _framed(message: wire.Message) -> bytes:
    frames = [bytes(memoryview(f)) for f in message.encode(1)]
    return b"".join(len(f).to_bytes(2, "little") + f for f in frames)


def _wire_messages() -> tuple[bytes, ...]:
    keys = Keys(make_columns(["k"], [pa.array(["a", "b"])]), np.array([0, 1], np.int32))
    batch = Batch(BATCH, keys=keys, time_us=np.array([1, 2]), sign=np.array([1, -1], np.int8))
    active = InputStatus.ACTIVE
    return tuple(
        _framed(message)
        for message in (
            wire.Data(1, "worker-0", (0, 1), 2, False, 3, active, batch),
            wire.Data(1, "coordinator", (-1, 0), 2, False, 3, active, Block(b"a\nb\n", 0, 1, "x"), 4),
            wire.Credit(1, 2, "worker-1", 100, 1_000),
            wire.Beat("worker-0", {"rows": 1, "names": ["a"]}),
            wire.Failed("worker-0", ["SinkError", "full"]),
            wire.Acknowledged("worker-0", 3, [["agg", "runs", 0, 1, "data/x", 1, 2, "00"]], {"out": [{}, []]}),
        )
    )


def _decodes(decoder: Any, kept: pa.Schema) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        columns, bad = decoder.decode(data)
        columns.validate(full=True)
        assert columns.schema.names == kept.names
        for record in bad:
            assert record.reason
            assert 0 <= record.offset <= len(data)

    return read


def _messages(payload: Any) -> Target:
    decoder = message_decoder(payload, SCHEMA, None, "here")
    read = _decodes(decoder, SCHEMA)

    def infer(data: bytes) -> None:
        block = join_messages([data, data])
        read(block)
        message_decoder(payload, None, None, "here").decode(block)

    sound = (*message_encoder(payload, "batch")(BATCH), *message_encoder(payload, "row")(BATCH))
    return Target(infer, (MillstreamError,), sound)


def _with_schema(payload: Any) -> Target:
    read = _decodes(message_decoder(payload, SCHEMA, None, "here"), SCHEMA)
    return Target(lambda data: read(join_messages([data])), (), _messages(payload).sound)


def _manifest() -> Manifest:
    return Manifest(
        flow="f", epoch=3, attempt=1, workers=2, created_us=5, operators={"agg": "agg()"},
        tables=(TableFile("agg", "runs", 0, 2, "data/x.arrow", 1, 2, "00"),),
        partitions=(PartitionState("read", "p", {"offset": 1}, 2, {"event_time": [1, 2]}, False),),
        sinks={"out": [SinkState({"length": 3}, [["a", "b"]])]},
    )  # fmt: skip


def _journal(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"{0:020d}.journal").write_bytes(data)
        journal = Journal(folder)
        try:
            list(journal.records())
            journal.append(b"more")
            assert list(journal.records())[-1] == b"more"
        finally:
            journal.close()


def _a_journal() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        journal = Journal(Path(name))
        for record in (b"one", b"", b"two" * 50):
            journal.append(record)
        journal.close()
        return next(Path(name).iterdir()).read_bytes()


def _tables() -> tuple[bytes, ...]:
    keys = Keys(make_columns(["k"], [pa.array(["a", "b"])]), np.array([0, 1], np.int32))
    flat = make_columns(["n", "s"], [pa.array([1, 2]), pa.array(["x", None])])
    return tuple(as_file(StateTable("t", k, flat)).to_pybytes() for k in (keys, None))


_CODEC = StateCodec("here")
_STATE = (
    {"a": [1, 2.5, None, b"x"], "at": TIME, "n": Decimal("1.5"), "s": {1, 2}, "t": (1, "x")},
    [np.arange(3), np.float32(2), datetime.timedelta(1), 2**70],
)

TARGETS: dict[str, Target] = {
    "wire": Target(lambda data: wire.decode(_frames(data), 1), (WireError,), _wire_messages()),
    "json": _with_schema("json"),
    "msgpack": _with_schema("msgpack"),
    "arrow": _with_schema("arrow"),
    "json without a schema": _messages("json"),
    "msgpack without a schema": _messages("msgpack"),
    "arrow without a schema": _messages("arrow"),
    "json lines": Target(
        _decodes(JsonDecoder(SCHEMA), SCHEMA), (), (b'{"i":1,"f":2.5,"s":"x"}\n{"t":"2024-05-14T18:58:20Z","l":[1]}\n',)
    ),
    "csv": Target(
        _decodes(CsvDecoder(FLAT.names, FLAT), FLAT), (), (b'1,1.5,"x\n""y",true,AA==,2024-05-14,1.5\n,,,,,,\n',)
    ),
    "csv records": Target(lambda data: csv_ends('"', ",")(data, True), (SourceError,), (b'1,"a\nb"\n2,c\n',)),
    "text lines": Target(LineDecoder().decode, (), (b"a\nb\xff\n",)),
    "fields of json": Target(infer_json, (SourceError,), (b'{"a":1,"b":{"c":[1.5]}}\n{"a":"x"}\n',)),
    "fields of csv": Target(infer_csv, (SourceError,), (b"a,b\n1,2024-05-14\n",)),
    "manifest": Target(lambda data: Manifest.from_json(data, "here"), (CheckpointError,), (_manifest().to_json(),)),
    "state table": Target(lambda data: from_ipc("t", pa.py_buffer(data)), (CheckpointError,), _tables()),
    "state": Target(_CODEC.decode, (StateError,), tuple(map(_CODEC.encode, _STATE))),
    "journal": Target(_journal, (SourceError,), (_a_journal(),)),
    "control": Target(commands.decode_command, (CommandError,), (b'{"version":1,"command":{"do":"pause"}}',)),
}


def try_reader(target: Target, data: bytes) -> None:
    """Read bytes; what a reader may raise is as good as an answer."""
    try:
        target.read(data)
    except target.raises:
        return
