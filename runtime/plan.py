"""The plan: what a flow is, as data. First as the user wrote it, then as the runtime carries it out.

The logical plan is a graph of `Node`s, one for each call on the flow, each with its `Spec`. The physical
plan cuts that graph into `Stage`s (operators that run together, without an exchange between them) joined
by `Exchange`s (where rows change process). Both are plain dataclasses: they pickle, they can be explained,
compared and translated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import pyarrow as pa

from millstream.checkpoints.shape import Shape
from millstream.connectors.base import Source
from millstream.specs.base import MAIN, Bound, Named, Spec
from millstream.specs.ends import ReadSpec

# --- the logical plan ---


@dataclass(frozen=True)
class Port:
    """One output of a node: "main", "late", or a side output by name."""

    node: int
    name: str = MAIN


@dataclass(frozen=True)
class Node:
    """One operator of the flow.

    Attributes:
        name: unique in the flow and stable from run to run: it names the operator in errors, metrics and state.
        where: the line of the user's that made it, "flights.py:12".
    """

    id: int
    name: str
    spec: Spec
    inputs: tuple[Port, ...]
    where: str

    @property
    def title(self) -> str:
        return f"{self.name} ({self.where})"


@dataclass(frozen=True)
class Undeclared:
    """The flow as it was written, for when first rows show the fields that nothing declared.

    Attributes:
        nodes: inputs before those that read them, without the sources.
        sources: what is known of each source's output.
        ports: whose fields rows have to show.
    """

    nodes: tuple[Node, ...]
    sources: dict[Port, Bound]
    ports: frozenset[Port]


# --- the physical plan ---


class ExchangeKind(Enum):
    DEAL = "deal"  # each batch or block goes to whichever worker has room
    KEY = "key"  # each row goes to the owner of its key
    BROADCAST = "broadcast"  # every row goes to everyone
    SPREAD = "spread"  # each batch goes to whichever worker has room, and everyone learns of its watermark
    GATHER = "gather"  # everything goes to one receiver


class Place(Enum):
    COORDINATOR = "coordinator"
    WORKERS = "workers"  # one part in each worker
    ONE_WORKER = "one worker"
    CALLER = "caller"


class StageKind(Enum):
    BLOCKS = "blocks"  # stateless, tied to source partitions and sequence numbers: forwards both
    KEYED = "keyed"  # has state and a watermark of its own


@dataclass(frozen=True)
class Exchange:
    """Where rows go from one stage to another.

    Attributes:
        outputs: (stage, port) pairs that feed it; the stage is None for a source, whose blocks are dealt.
        targets: (node, input number) pairs in the receiving stage.
        keys: what the rows are partitioned by, for `ExchangeKind.KEY`.
        keyed: rows come with their keys (`Batch.keys`).
        keys_where: the name and line of the ``key_by``, for errors.
        fields: the columns that the receiver reads, beside the keys; None: all.
    """

    id: int
    kind: ExchangeKind
    outputs: tuple[tuple[int | None, Port], ...]
    to_stage: int
    targets: tuple[tuple[int, int], ...]
    keys: Named = ()
    keys_where: str = ""
    fields: tuple[str, ...] | None = None
    keyed: bool = False


@dataclass(frozen=True)
class Stage:
    """Operators that run together in one process.

    Attributes:
        nodes: ids in an order in which inputs come first. A node may be in several stages: an operator
            behind a union of two stages runs in both.
        worker: which worker, for `Place.ONE_WORKER`.
    """

    id: int
    kind: StageKind
    place: Place
    nodes: tuple[int, ...]
    worker: int = 0


@dataclass(frozen=True)
class PhysicalPlan:
    """What every process of a run is given.

    Attributes:
        ingest: "coordinator" or "workers": where sources are decoded.
        schemas: of each node's output on its main port, where known before the first row.
        reads: the fields that the plan reads from each source node; None: all.
        partitions: every source partition of the flow, numbered by its place: (source node, name).
        needs_position: whether some operator breaks ties by source position.
        undeclared: what first rows have to show; None: every field is known.
        shapes: by operator with state, source and sink, what that depends on.
        most_errors: the share of an operator's recent events that may fail; None: any.
    """

    name: str
    workers: int
    ingest: str
    batch_rows: int
    nodes: dict[int, Node]
    schemas: dict[int, pa.Schema | None]
    stages: tuple[Stage, ...]
    exchanges: tuple[Exchange, ...]
    partitions: tuple[tuple[int, str], ...]
    reads: dict[int, tuple[str, ...] | None]
    needs_position: bool
    undeclared: Undeclared | None = None
    shapes: dict[str, Shape] = field(default_factory=dict)
    most_errors: float | None = None

    def exchange(self, number: int) -> Exchange:
        return self.exchanges[number]

    def exchanges_into(self, stage: int) -> list[Exchange]:
        return [e for e in self.exchanges if e.to_stage == stage]

    def stage_of_clock(self, node: int) -> int:
        """The stage that assigns this event time."""
        return next(s.id for s in self.stages if node in s.nodes)

    def source_of(self, partition: int) -> Source:
        spec = self.nodes[self.partitions[partition][0]].spec
        assert isinstance(spec, ReadSpec)
        return spec.source
