"""The manifest: what a checkpoint consists of. A checkpoint exists when its manifest does, and not before.

JSON, for people and other programs to read; its last field is a checksum of all others.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import xxhash

from millstream.checkpoints.shape import Shape
from millstream.errors import CheckpointError

FORMAT: Final = 2


Change = Literal["adds", "replaces", "removes"]
"""What a table does: its rows come beside what there is, or in the place of all rows of their keys, or those just go."""


@dataclass(frozen=True)
class TableFile:
    """One table of an operator's state: a file, or some rows of one that an earlier checkpoint has written.

    Attributes:
        operator: the operator's name in the flow.
        table: the name of the table.
        worker, workers: who wrote it, of how many: so which key groups can be in it.
        path: relative to the directory of the checkpoints.
        rows: how many of the file's rows count; first: the first of them.
        size_bytes: of the whole file.
        checksum: XXH3 (128 bits) of the file, in hex.
        change: what becomes of the rows that tables of this name before it have for its keys.
    """

    operator: str
    table: str
    worker: int
    workers: int
    path: str
    rows: int
    size_bytes: int
    checksum: str
    first: int = 0
    change: Change = "adds"


@dataclass(frozen=True)
class PartitionState:
    """Where a source partition is.

    Attributes:
        source: the name of its source in the flow; partition: its own.
        offset: what its reader goes on from; what is in there is the reader's affair.
        sequence: the number of its next block.
        clocks: for each ``event_time()`` that it reaches, by name, what its clock had seen.
        ended: everything of it was read.
    """

    source: str
    partition: str
    offset: Any
    sequence: int
    clocks: dict[str, Any]
    ended: bool


@dataclass(frozen=True)
class SinkState:
    """What one writer of a sink said; see `millstream.connectors.base.Prepared`."""

    state: dict[str, Any]
    commits: list[Any]


@dataclass(frozen=True)
class Manifest:
    """Attributes:
    flow: the name of the flow; operators: what it consisted of: name -> what it does, in words.
    shapes: what the state of those that have one depends on; sources and sinks are among them.
    epoch: counts the checkpoints of a flow; attempt: the life of the run that made it.
    created_us: when, in microseconds since 1970.
    sinks: by operator, what each of its writers said: what it goes on from, and what is made visible now that the
        checkpoint is complete (a restart does it again).
    finished: the input had ended and everything was put out: there is nothing to go on with.
    counters: by operator, what it had counted since the run began; seconds: how long that was.
    replayed: by source, up to which byte its log of dead letters that are to be replayed was worked on.
    """

    flow: str
    epoch: int
    attempt: int
    workers: int
    created_us: int
    operators: dict[str, str]
    tables: tuple[TableFile, ...] = ()
    partitions: tuple[PartitionState, ...] = ()
    sinks: dict[str, list[SinkState]] = field(default_factory=dict)
    finished: bool = False
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: float = 0.0
    shapes: dict[str, Shape] = field(default_factory=dict)
    replayed: dict[str, int] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(t.size_bytes for t in self.tables)

    def to_json(self) -> bytes:
        content = {"format": FORMAT, **asdict(self)}
        # Not indented: that is done in Python, and leaves cycles which are not collected for a long time.
        return json.dumps({**content, "checksum": _checksum(content)}).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """
        Args:
            where: the file's name, for errors.
        Raises:
            CheckpointError: it is damaged, of a newer version, or no manifest.
        """
        try:
            content = json.loads(data)
            version = content["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{where}: not a manifest, or cut short: {error}") from error
        if version != FORMAT:
            raise CheckpointError(
                f"{where}: written in format {version!r}, and this release reads {FORMAT}; "
                "use the release that wrote it, or start anew with --fresh"
            )
        checksum = content.pop("checksum", None)
        if checksum != _checksum(content):
            raise CheckpointError(f"{where}: damaged: its checksum does not fit its content")
        del content["format"]
        try:
            content["tables"] = tuple(TableFile(**t) for t in content["tables"])
            content["partitions"] = tuple(PartitionState(**p) for p in content["partitions"])
            content["sinks"] = {name: [SinkState(**s) for s in states] for name, states in content["sinks"].items()}
            content["shapes"] = {name: Shape(**shape) for name, shape in content["shapes"].items()}
            return cls(**content)
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{where}: damaged: {error}") from error


def _checksum(content: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())
