"""The plan: what a flow is, as data. First as the user wrote it, then as the runtime carries it out.

The logical plan is a graph of `Node`s, one for each call on the flow. The physical plan cuts that graph
into `Stage`s (operators that run together, without an exchange between them) joined by `Exchange`s
(where rows change process). Both are plain dataclasses: they pickle, they can be explained, compared and
translated; only `UserFunction`s inside are opaque.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import pyarrow as pa

from millstream.aggregates import Aggregate
from millstream.connectors.base import Sink, Source
from millstream.expr import Expr
from millstream.functions import UserFunction
from millstream.times import format_duration

MAIN = "main"
LATE = "late"

Named = tuple[tuple[str, Expr], ...]


class OnError(Enum):
    """What happens when a user's function raises."""

    FAIL = "fail"
    DEAD_LETTER = "dead_letter"


# --- what an operator is told to do ---


@dataclass(frozen=True)
class Spec:
    """What one operator does, as data.

    Attributes:
        columnar: it works on columns and calls no Python function of the user's, so it may run in the
            coordinator and its fields can be traced.
        keyed: it needs its input partitioned by key, and keeps state for each key.
    """

    columnar: ClassVar[bool] = True
    keyed: ClassVar[bool] = False

    def describe(self) -> str:
        """The operator in one line, as the user would write it."""
        raise NotImplementedError


@dataclass(frozen=True)
class ReadSpec(Spec):
    source: Source

    def describe(self) -> str:
        return self.source.label()


@dataclass(frozen=True)
class FilterSpec(Spec):
    predicate: Expr

    def describe(self) -> str:
        return f"filter({self.predicate})"


@dataclass(frozen=True)
class SelectSpec(Spec):
    columns: Named

    def describe(self) -> str:
        return f"select({_named(self.columns)})"


@dataclass(frozen=True)
class WithColumnsSpec(Spec):
    columns: Named

    def describe(self) -> str:
        return f"with_columns({_named(self.columns)})"


@dataclass(frozen=True)
class DropSpec(Spec):
    names: tuple[str, ...]

    def describe(self) -> str:
        return f"drop({', '.join(map(repr, self.names))})"


@dataclass(frozen=True)
class RenameSpec(Spec):
    names: tuple[tuple[str, str], ...]

    def describe(self) -> str:
        return f"rename({', '.join(f'{a!r} to {b!r}' for a, b in self.names)})"


@dataclass(frozen=True)
class ExplodeSpec(Spec):
    column: str

    def describe(self) -> str:
        return f"explode({self.column!r})"


@dataclass(frozen=True)
class UnionSpec(Spec):
    """Attributes:
    in_order: branches of one source meet here: their rows go on in the order of the source.
    """

    in_order: bool = False

    def describe(self) -> str:
        return "union"


@dataclass(frozen=True)
class EventTimeSpec(Spec):
    """Attributes: all durations in microseconds; None: off."""

    time: Expr
    unit: str | None
    out_of_orderness_us: int
    idle_us: int | None
    quiet_us: int | None
    max_ahead_us: int

    def describe(self) -> str:
        return f"event_time({self.time}, out_of_orderness={format_duration(self.out_of_orderness_us)})"


class Shape(Enum):
    """What a row function makes of a row."""

    MAP = "map"  # one result
    FLAT_MAP = "flat_map"  # any number of results
    FILTER = "filter"  # keep the row or not


@dataclass(frozen=True)
class RowFunctionSpec(Spec):
    columnar: ClassVar[bool] = False
    function: UserFunction
    shape: Shape
    schema: pa.Schema | None
    on_error: OnError

    def describe(self) -> str:
        return f"{self.shape.value}({self.function})"


@dataclass(frozen=True)
class MapBatchesSpec(Spec):
    columnar: ClassVar[bool] = False
    function: UserFunction
    on_error: OnError

    def describe(self) -> str:
        return f"map_batches({self.function})"


@dataclass(frozen=True)
class HandlersSpec(Spec):
    """Event handlers by type, in the order of subscription."""

    columnar: ClassVar[bool] = False
    handlers: tuple[tuple[str, UserFunction], ...]
    type_field: str
    on_error: OnError

    def describe(self) -> str:
        return "; ".join(f"on({kind!r}, {function})" for kind, function in self.handlers)


@dataclass(frozen=True)
class KeyBySpec(Spec):
    keys: Named

    def describe(self) -> str:
        return f"key_by({_named(self.keys)})"


@dataclass(frozen=True)
class Windows:
    """Tumbling (slide == size) or hopping windows, [start, end), aligned to the epoch plus an offset."""

    size_us: int
    slide_us: int
    offset_us: int = 0

    def describe(self) -> str:
        offset = f", offset={format_duration(self.offset_us)}" if self.offset_us else ""
        if self.size_us == self.slide_us:
            return f"tumbling({format_duration(self.size_us)}{offset})"
        return f"hopping({format_duration(self.size_us)} every {format_duration(self.slide_us)}{offset})"


@dataclass(frozen=True)
class WindowAggregateSpec(Spec):
    keyed: ClassVar[bool] = True
    windows: Windows
    allowed_lateness_us: int
    aggregates: tuple[tuple[str, Aggregate], ...]
    final_only: bool
    event_time: bool = True

    def describe(self) -> str:
        lateness = f", allowed_lateness={format_duration(self.allowed_lateness_us)}" if self.allowed_lateness_us else ""
        clock = "" if self.event_time else ", processing time"
        return f"window({self.windows.describe()}{lateness}{clock}).agg({_aggregates(self.aggregates)})"


@dataclass(frozen=True)
class RunningAggregateSpec(Spec):
    """Aggregates since the start, for each key: every change is put out, so the result is a changelog."""

    keyed: ClassVar[bool] = True
    aggregates: tuple[tuple[str, Aggregate], ...]

    def describe(self) -> str:
        return f"agg({_aggregates(self.aggregates)})"


@dataclass(frozen=True)
class ScanSpec(Spec):
    """Attributes:
    by_event_time: it is behind a keyed stage, whose rows come in no particular order: they are taken by
        event time, as far as the watermark has come.
    """

    keyed: ClassVar[bool] = True
    columnar: ClassVar[bool] = False
    init: UserFunction
    function: UserFunction
    schema: pa.Schema | None
    on_error: OnError
    by_event_time: bool = False

    def describe(self) -> str:
        return f"scan({self.function})"


@dataclass(frozen=True)
class SinkSpec(Spec):
    """Attributes:
    takes_what_is_there: it reads no field for its own sake, but writes those that others read.
    """

    columnar: ClassVar[bool] = False  # sinks run in workers, the user's own among them
    sink: Sink
    takes_what_is_there: bool = False

    def describe(self) -> str:
        return self.sink.label()


@dataclass(frozen=True)
class EncodeSpec(Spec):
    """The half of a gathered sink that runs in every worker: columns to bytes."""

    columnar: ClassVar[bool] = False
    sink: Sink

    def describe(self) -> str:
        return f"encode for {self.sink.label()}"


def _named(columns: Named) -> str:
    return ", ".join(str(e) if str(e) == f"col({n!r})" or str(e) == f'col("{n}")' else f"{n}={e}" for n, e in columns)


def _aggregates(aggregates: tuple[tuple[str, Aggregate], ...]) -> str:
    return ", ".join(f"{n}={a}" for n, a in aggregates)


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


# --- the physical plan ---


class ExchangeKind(Enum):
    DEAL = "deal"  # each batch or block goes to whichever worker has room
    KEY = "key"  # each row goes to the owner of its key
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
