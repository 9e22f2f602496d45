"""From the flow as written to the plan as run: fields checked, pruned, cut into stages and exchanges.

Three passes over the graph, in the order in which nodes were made (inputs come first):

1. bind: the fields and types of every output, as far as they are known before the first row; what is
   wrong with the flow is said here, before any process starts.
2. prune, backwards: which fields somebody reads. Sources decode, and exchanges carry, no others.
3. cut: operators that need no exchange between them form a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa

from millstream.connectors import JsonLinesSink
from millstream.connectors.base import Placement
from millstream.errors import FlowError, SchemaError, unknown_field
from millstream.evaluate import output_type
from millstream.expr import col
from millstream.flow import Flow
from millstream.operators.aggregation import input_types
from millstream.operators.event_time import check_time_type
from millstream.operators.windows import RESERVED
from millstream.plan import (
    LATE,
    MAIN,
    DropSpec,
    EncodeSpec,
    EventTimeSpec,
    Exchange,
    ExchangeKind,
    ExplodeSpec,
    FilterSpec,
    HandlersSpec,
    KeyBySpec,
    MapBatchesSpec,
    Named,
    Node,
    PhysicalPlan,
    Place,
    Port,
    ReadSpec,
    RenameSpec,
    RowFunctionSpec,
    RunningAggregateSpec,
    ScanSpec,
    SelectSpec,
    Shape,
    SinkSpec,
    Stage,
    StageKind,
    UnionSpec,
    WindowAggregateSpec,
    WithColumnsSpec,
)
from millstream.times import STAMP

Ingest = Literal["auto", "coordinator", "workers"]
Fields = frozenset[str] | None
"""The fields that somebody reads; None: all of them, whatever they are."""


@dataclass
class _Bound:
    """What is known of one node's main output.

    Attributes:
        schema: fields and types; None behind a Python function without ``schema=``.
        timed: whether event time is assigned.
        stateful: the operator with state that it is behind, if any.
        changelog: the operator that revises its results, if it is behind one.
    """

    schema: pa.Schema | None
    timed: bool = False
    stateful: str | None = None
    changelog: str | None = None


def make_plan(
    flow: Flow, *, workers: int, batch_rows: int = 65_536, ingest: Ingest = "auto", late_directory: Path | None = None
) -> PhysicalPlan:
    """Plan a flow.

    Args:
        ingest: where sources are decoded; "auto" decides by what limits.
        late_directory: where late events go that the flow does not consume; None: they are only counted.
    Raises:
        FlowError, SchemaError: the flow cannot run, with the operator and its line.
        SourceError, SinkError: a source or sink that cannot be opened.
    """
    nodes = {n.id: n for n in flow.nodes}
    if not any(isinstance(n.spec, SinkSpec) for n in flow.nodes):
        raise FlowError(
            f"flow {flow.name!r} has no sink: nothing would come of it; "
            "end a stream with .print(), .write_jsonl(...) or .collect()"
        )
    nodes = _with_late_outputs(nodes, late_directory)
    bound: dict[int, _Bound] = {}
    for node in list(nodes.values()):
        bound[node.id] = _bind(node, bound, nodes)
    nodes = {n.id: _ordered(_resolved(n, bound), nodes, bound) for n in nodes.values()}
    needed = _prune(nodes, bound)
    nodes = {n.id: _narrowed(n, needed) for n in nodes.values()}
    reads = {n.id: _reads(n, bound[n.id].schema, needed[n.id]) for n in nodes.values() if isinstance(n.spec, ReadSpec)}
    for number, names in reads.items():
        spec = nodes[number].spec
        assert isinstance(spec, ReadSpec)
        if names is not None:
            nodes[number] = replace(nodes[number], spec=ReadSpec(spec.source.with_fields(names)))
    unknown = [n for n in nodes.values() if isinstance(n.spec, ReadSpec) and bound[n.id].schema is None]
    where = _ingest(nodes, workers) if ingest == "auto" else ingest
    if any(isinstance(n.spec, ReadSpec) and n.spec.source.decoder(None) is not None for n in unknown):
        where = "coordinator"  # the first block shows the fields: one decoder has to see them all
    cut = _Cutter(nodes, needed, where, workers)
    cut.run()
    if cut.deals_twice:
        # The numbers of a block can be put together again from one dealt stream of it, not from two.
        if unknown:
            raise FlowError(
                f"{unknown[0].title}: its fields are not known before it is read; say schema=, so that several operators can read it"
            )
        where = "workers"
        cut = _Cutter(nodes, needed, where, workers)
        cut.run()
    partitions = [
        (n.id, name) for n in nodes.values() if isinstance(n.spec, ReadSpec) for name in n.spec.source.partitions()
    ]
    if len(partitions) > 1_000:
        raise FlowError(
            f"flow {flow.name!r} reads {len(partitions)} source partitions, at most 1000 are possible; "
            "use partitions='one' for globs of many files"
        )
    for node in nodes.values():
        if isinstance(node.spec, SinkSpec):
            node.spec.sink.check()
    return PhysicalPlan(
        name=flow.name, workers=workers, ingest=where, batch_rows=batch_rows, nodes={**nodes, **cut.added},
        schemas={i: b.schema for i, b in bound.items()}, stages=tuple(cut.stages),
        exchanges=tuple(cut.finished_exchanges()), partitions=tuple(partitions), reads=reads,
        needs_position=_needs_position(nodes),
    )  # fmt: skip


# --- late events that nobody asked for ---


def _with_late_outputs(nodes: Mapping[int, Node], directory: Path | None) -> dict[int, Node]:
    """Give every window a place for its late events: nothing is dropped without a place to look."""
    result = dict(nodes)
    consumed = {p for n in nodes.values() for p in n.inputs}
    if directory is None:
        return result
    for node in nodes.values():
        if isinstance(node.spec, WindowAggregateSpec) and Port(node.id, LATE) not in consumed:
            number = len(result)
            sink = JsonLinesSink(f"{directory / node.name}/")
            result[number] = Node(
                number,
                f"late_of_{node.name}",
                SinkSpec(sink, takes_what_is_there=True),
                (Port(node.id, LATE),),
                node.where,
            )
    return result


# --- bind ---


def _bind(node: Node, bound: Mapping[int, _Bound], nodes: Mapping[int, Node]) -> _Bound:
    spec = node.spec
    if isinstance(spec, ReadSpec):
        return _Bound(spec.source.schema())
    if isinstance(spec, UnionSpec):
        return _bind_union(node, bound)
    port = node.inputs[0]
    upstream = bound[port.node]
    if port.name == LATE:
        # Late events are the rows that came, as they were before the window.
        upstream = bound[nodes[port.node].inputs[0].node]
    if isinstance(spec, WindowAggregateSpec | RunningAggregateSpec | ScanSpec):
        return _bind_keyed(node, upstream, nodes)
    schema = upstream.schema
    if isinstance(spec, EventTimeSpec):
        if upstream.stateful:
            raise FlowError(
                f"{node.title}: event time cannot be assigned behind {upstream.stateful}, which has a time of its own; "
                "call event_time() before key_by()"
            )
        if schema is not None:
            check_time_type(output_type(spec.time, schema, node.title), spec.unit, node.title)
        return replace(upstream, timed=True)
    if isinstance(spec, RowFunctionSpec | HandlersSpec | MapBatchesSpec):
        keeps = isinstance(spec, RowFunctionSpec) and spec.shape is Shape.FILTER
        declared = spec.schema if isinstance(spec, RowFunctionSpec) else None
        if isinstance(spec, HandlersSpec) and schema is not None and spec.type_field not in schema.names:
            raise unknown_field(spec.type_field, schema.names, node.title)
        return replace(upstream, schema=schema if keeps else declared)
    if schema is None:
        return upstream
    return replace(upstream, schema=_bind_columns(node, schema))


def _bind_columns(node: Node, schema: pa.Schema) -> pa.Schema:
    spec = node.spec
    match spec:
        case FilterSpec():
            kind = output_type(spec.predicate, schema, node.title)
            if not pa.types.is_boolean(kind) and not pa.types.is_null(kind):
                raise SchemaError(
                    f"{node.title}: {spec.predicate} is {kind}, not a condition; compare it with something"
                )
            return schema
        case SelectSpec():
            return pa.schema([(n, output_type(e, schema, node.title)) for n, e in spec.columns])
        case WithColumnsSpec() | KeyBySpec():
            columns = spec.columns if isinstance(spec, WithColumnsSpec) else spec.keys
            fields = {f.name: f.type for f in schema}
            fields.update({n: output_type(e, schema, node.title) for n, e in columns})
            return pa.schema(list(fields.items()))
        case DropSpec():
            for name in spec.names:
                if name not in schema.names:
                    raise unknown_field(name, schema.names, node.title)
            return pa.schema([f for f in schema if f.name not in spec.names])
        case RenameSpec():
            renamed = dict(spec.names)
            for name in renamed:
                if name not in schema.names:
                    raise unknown_field(name, schema.names, node.title)
            names = [renamed.get(f.name, f.name) for f in schema]
            for name in names:
                if names.count(name) > 1:
                    raise SchemaError(f"{node.title}: two fields would be named {name!r}")
            return pa.schema([(n, f.type) for n, f in zip(names, schema, strict=True)])
        case ExplodeSpec():
            if spec.column not in schema.names:
                raise unknown_field(spec.column, schema.names, node.title)
            kind = schema.field(spec.column).type
            if not hasattr(kind, "value_type") or pa.types.is_dictionary(kind) or pa.types.is_map(kind):
                raise SchemaError(f"{node.title}: field {spec.column!r} is {kind}, not a list")
            return pa.schema([(f.name, kind.value_type if f.name == spec.column else f.type) for f in schema])
        case _:
            return schema


def _bind_union(node: Node, bound: Mapping[int, _Bound]) -> _Bound:
    inputs = [bound[p.node] for p in node.inputs]
    first = inputs[0]
    for other in inputs[1:]:
        if other.timed != first.timed:
            raise FlowError(
                f"{node.title}: one stream has event time and another has not; "
                "call event_time() on each, or behind the union"
            )
        if first.schema is not None and other.schema is not None and set(first.schema.names) != set(other.schema.names):
            odd = sorted(set(first.schema.names) ^ set(other.schema.names))
            raise SchemaError(
                f"{node.title}: the streams differ in the fields {', '.join(odd)}; "
                "use select() so that they are the same"
            )
    schema = first.schema
    if schema is not None and all(i.schema is not None for i in inputs):
        try:
            ordered = [pa.schema([i.schema.field(n) for n in schema.names]) for i in inputs if i.schema is not None]
            schema = pa.unify_schemas(ordered, promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
            raise SchemaError(
                f"{node.title}: the streams have fields of one name and different types: {error}"
            ) from error
    else:
        schema = None
    return _Bound(
        schema,
        first.timed,
        next((i.stateful for i in inputs if i.stateful), None),
        next((i.changelog for i in inputs if i.changelog), None),
    )


def _bind_keyed(node: Node, upstream: _Bound, nodes: Mapping[int, Node]) -> _Bound:
    spec = node.spec
    if upstream.changelog:
        raise FlowError(
            f"{node.title}: its input comes from {upstream.changelog}, which revises what it has put out; "
            "an operator with state would count the revised results again. Use window(..., emit='final') there"
        )
    if isinstance(spec, ScanSpec):
        return _Bound(spec.schema, upstream.timed, node.title)
    assert isinstance(spec, WindowAggregateSpec | RunningAggregateSpec)
    key_by = nodes[node.inputs[0].node].spec
    assert isinstance(key_by, KeyBySpec)
    keys = [n for n, _ in key_by.keys]
    windowed = isinstance(spec, WindowAggregateSpec)
    taken = [*(RESERVED if windowed else ()), *keys]
    for name, _ in spec.aggregates:
        if name in taken:
            raise FlowError(
                f"{node.title}: an aggregate cannot be named {name!r}, which is a field of the result already"
            )
    if windowed and any(k in RESERVED for k in keys):
        raise FlowError(
            f"{node.title}: a key cannot be named window_start, window_end or pane, which are fields of the result"
        )
    revises = isinstance(spec, RunningAggregateSpec) or (spec.allowed_lateness_us > 0 and not spec.final_only)
    schema = None
    if upstream.schema is not None:
        aggregates = dict(spec.aggregates)
        types = input_types(aggregates, upstream.schema, node.title)
        schema = _aggregate_schema(node, spec, upstream.schema, keys, types)
    return _Bound(schema, upstream.timed or windowed, node.title, node.title if revises else None)


def _aggregate_schema(
    node: Node,
    spec: WindowAggregateSpec | RunningAggregateSpec,
    schema: pa.Schema,
    keys: list[str],
    types: list[pa.DataType],
) -> pa.Schema:
    from millstream.accumulators import AccumulatorSet  # compiles the kernels that only a planned aggregate needs

    results = AccumulatorSet(dict(spec.aggregates), types, node.title).schema
    window = (
        [("window_start", STAMP), ("window_end", STAMP), ("pane", pa.int64())]
        if isinstance(spec, WindowAggregateSpec)
        else []
    )
    return pa.schema([*window, *((k, schema.field(k).type) for k in keys), *((f.name, f.type) for f in results)])


def _resolved(node: Node, bound: Mapping[int, _Bound]) -> Node:
    """The node with what binding found out: windows without event time go by processing time."""
    if isinstance(node.spec, WindowAggregateSpec):
        return replace(node, spec=replace(node.spec, event_time=bound[node.inputs[0].node].timed))
    return node


def _ordered(node: Node, nodes: Mapping[int, Node], bound: Mapping[int, _Bound]) -> Node:
    """The node; where it depends on an order that its input has lost, it is told to restore one.

    That is a scan behind a keyed stage, and a union in which branches of one source meet.
    """
    if isinstance(node.spec, ScanSpec):
        port = node.inputs[0]
        by_event_time = bound[port.node].stateful is not None and _has_event_time(port.node, nodes)
        return replace(node, spec=replace(node.spec, by_event_time=by_event_time))
    if not isinstance(node.spec, UnionSpec):
        return node
    sources = [_sources_of(p.node, nodes) for p in node.inputs]
    meets = sum(map(len, sources)) > len(frozenset().union(*sources))
    return replace(node, spec=UnionSpec(in_order=meets))


def _has_event_time(number: int, nodes: Mapping[int, Node]) -> bool:
    node = nodes[number]
    if isinstance(node.spec, EventTimeSpec | ReadSpec):
        return isinstance(node.spec, EventTimeSpec)
    return all(_has_event_time(p.node, nodes) for p in node.inputs)


def _sources_of(number: int, nodes: Mapping[int, Node]) -> frozenset[int]:
    """The sources whose blocks reach a node; what a keyed operator puts out is of no block."""
    node = nodes[number]
    if isinstance(node.spec, ReadSpec):
        return frozenset((number,))
    if node.spec.keyed:
        return frozenset()
    return frozenset().union(*(_sources_of(p.node, nodes) for p in node.inputs))


# --- prune ---


def _prune(nodes: Mapping[int, Node], bound: Mapping[int, _Bound]) -> dict[int, Fields]:
    """For each node, the fields of its main output that somebody reads."""
    needed: dict[int, Fields] = dict.fromkeys(nodes, frozenset())
    for node in reversed(list(nodes.values())):
        if (out := needed[node.id]) is None and (schema := bound[node.id].schema) is not None:
            needed[node.id] = out = frozenset(schema.names)
        for number, port in enumerate(node.inputs):
            wanted = _reads_of(node, number, out)
            source = port.node
            if port.name == LATE:
                source = nodes[port.node].inputs[0].node  # a late event is a row of the window's input
            needed[source] = _both(needed[source], wanted)
    for node in nodes.values():
        schema, names = bound[node.id].schema, needed[node.id]
        if schema is not None:
            # Arrow forgets the length of a batch without columns: keep one when rows alone are counted.
            needed[node.id] = (
                frozenset(schema.names) if names is None else (names & set(schema.names) or frozenset(schema.names[:1]))
            )
    return needed


def _reads_of(node: Node, number: int, out: Fields) -> Fields:
    """The fields that a node reads from an input, when ``out`` is read of its output."""
    spec = node.spec
    match spec:
        case FilterSpec():
            return _both(out, spec.predicate.fields())
        case SelectSpec():
            return _fields_of(spec.columns, out)
        case WithColumnsSpec():
            if out is None:
                return None
            return _both(out - {n for n, _ in spec.columns}, _fields_of(spec.columns, out))
        case KeyBySpec():
            # The keys are made at the exchange, whoever reads them behind it.
            return _both(None if out is None else out - _computed(spec.keys), _fields_of(spec.keys, None))
        case DropSpec():
            return out
        case RenameSpec():
            original = {b: a for a, b in spec.names}
            return None if out is None else frozenset(original.get(n, n) for n in out)
        case ExplodeSpec():
            return _both(out, frozenset((spec.column,)))
        case EventTimeSpec():
            return _both(out, spec.time.fields())
        case UnionSpec():
            return out
        case SinkSpec() if spec.takes_what_is_there:
            return frozenset()
        case WindowAggregateSpec() | RunningAggregateSpec():
            return frozenset(f for _, a in spec.aggregates for e in a.inputs for f in e.fields())
        case _:
            return None


def _fields_of(columns: Named, out: Fields) -> Fields:
    return frozenset(f for n, e in columns if out is None or n in out for f in e.fields())


def _computed(columns: Named) -> set[str]:
    """The names that are not simply the field of that name."""
    return {n for n, e in columns if e.fields() != frozenset((n,)) or str(e) != str(col(n))}


def _both(a: Fields, b: Fields) -> Fields:
    return None if a is None or b is None else a | b


def _narrowed(node: Node, needed: Mapping[int, Fields]) -> Node:
    """The node without the columns that nobody reads."""
    wanted = needed[node.id]
    if wanted is not None and isinstance(node.spec, SelectSpec | WithColumnsSpec):
        kept = tuple((n, e) for n, e in node.spec.columns if n in wanted)
        if not kept and isinstance(node.spec, SelectSpec):
            kept = node.spec.columns[:1]  # rows alone are counted, and Arrow forgets the length of no columns
        return replace(node, spec=replace(node.spec, columns=kept))
    return node


def _reads(node: Node, schema: pa.Schema | None, names: Fields) -> tuple[str, ...] | None:
    if schema is None or names is None:
        return None
    return tuple(n for n in schema.names if n in names)


def _needs_position(nodes: Mapping[int, Node]) -> bool:
    aggregates = [
        a
        for n in nodes.values()
        if isinstance(n.spec, WindowAggregateSpec | RunningAggregateSpec)
        for _, a in n.spec.aggregates
    ]
    specs = [n.spec for n in nodes.values()]
    sorts = any(
        (isinstance(s, UnionSpec) and s.in_order) or (isinstance(s, ScanSpec) and s.by_event_time) for s in specs
    )
    return sorts or any(a.needs_order for a in aggregates)


# --- cut ---


def _ingest(nodes: Mapping[int, Node], workers: int) -> Literal["coordinator", "workers"]:
    """Where sources are decoded: text is expensive, and with several workers it is better done there."""
    decodes = any(
        isinstance(n.spec, ReadSpec) and n.spec.source.decoder(None) is not None and not n.spec.source.live
        for n in nodes.values()
    )
    return "workers" if decodes and workers > 1 else "coordinator"


@dataclass
class _Draft:
    """An exchange that may still get outputs and targets."""

    kind: ExchangeKind
    to_stage: int
    outputs: list[tuple[int | None, Port]] = field(default_factory=list)
    targets: list[tuple[int, int]] = field(default_factory=list)
    keys: Named = ()
    keys_where: str = ""
    fields: tuple[str, ...] | None = None


class _Cutter:
    """Puts every node into its stage or stages."""

    def __init__(self, nodes: Mapping[int, Node], needed: Mapping[int, Fields], ingest: str, workers: int) -> None:
        self.nodes = nodes
        self.needed = needed
        self.ingest = ingest
        self.workers = workers
        self.stages: list[Stage] = []
        self.members: dict[int, list[int]] = {}
        self.exchanges: list[_Draft] = []
        self.places: dict[int, list[int]] = {}  # node -> its stages
        self.added: dict[int, Node] = {}
        self._deals: dict[tuple[int, Port], _Draft] = {}
        self._key_exchanges: dict[int, _Draft] = {}
        self._worker_blocks: int | None = None
        self._next_writer = 0

    def run(self) -> None:
        ingest_place = Place.COORDINATOR if self.ingest == "coordinator" else Place.WORKERS
        first = self._stage(StageKind.BLOCKS, ingest_place)
        for node in self.nodes.values():
            self._place(node, first)
        self.stages = [replace(s, nodes=tuple(self.members[s.id])) for s in self.stages]

    def finished_exchanges(self) -> list[Exchange]:
        return [
            Exchange(i, d.kind, tuple(d.outputs), d.to_stage, tuple(d.targets), d.keys, d.keys_where, d.fields)
            for i, d in enumerate(self.exchanges)
        ]

    @property
    def deals_twice(self) -> bool:
        return len(self._deals) > 1

    def _stage(self, kind: StageKind, place: Place, worker: int = 0) -> int:
        number = len(self.stages)
        self.stages.append(Stage(number, kind, place, (), worker))
        self.members[number] = []
        return number

    def _place(self, node: Node, first: int) -> None:
        spec = node.spec
        if isinstance(spec, ReadSpec):
            draft = _Draft(ExchangeKind.DEAL, first, [(None, Port(node.id))], [(node.id, 0)])
            self.exchanges.append(draft)
            self._join(node, [first])
        elif isinstance(spec, KeyBySpec):
            self._key_by(node, spec)
        elif isinstance(spec, WindowAggregateSpec | RunningAggregateSpec | ScanSpec):
            draft = self._key_exchanges[node.inputs[0].node]
            draft.targets.append((node.id, 0))
            self._join(node, [draft.to_stage])
        elif isinstance(spec, SinkSpec):
            self._sink(node, spec)
        else:
            self._join(node, self._stages_for(node, spec.columnar))

    def _join(self, node: Node, stages: list[int]) -> None:
        self.places[node.id] = stages
        for stage in stages:
            self.members[stage].append(node.id)

    def _stages_for(self, node: Node, columnar: bool) -> list[int]:
        """The stages of a node's inputs; where it may not run in the coordinator, its rows are dealt to workers."""
        stages: list[int] = []
        mixed = len({s for p in node.inputs for s in self._stages_of(p)}) > 1
        for number, port in enumerate(node.inputs):
            for stage in self._stages_of(port):
                here = self.stages[stage]
                if here.place is Place.COORDINATOR and (not columnar or (mixed and self._has_worker_blocks(node))):
                    stage = self._deal(stage, port, (node.id, number))
                if stage not in stages:
                    stages.append(stage)
        return stages

    def _has_worker_blocks(self, node: Node) -> bool:
        return any(
            self.stages[s].kind is StageKind.BLOCKS and self.stages[s].place is Place.WORKERS
            for p in node.inputs
            for s in self._stages_of(p)
        )

    def _stages_of(self, port: Port) -> list[int]:
        return self.places[port.node]

    def _deal(self, stage: int, port: Port, target: tuple[int, int]) -> int:
        if self._worker_blocks is None:
            self._worker_blocks = self._stage(StageKind.BLOCKS, Place.WORKERS)
        draft = self._deals.get((stage, port))
        if draft is None:
            draft = self._deals[stage, port] = _Draft(
                ExchangeKind.DEAL, self._worker_blocks, [(stage, port)], fields=self._shipped(port)
            )
            self.exchanges.append(draft)
        draft.targets.append(target)
        return self._worker_blocks

    def _key_by(self, node: Node, spec: KeyBySpec) -> None:
        port = node.inputs[0]
        wanted = self.needed[node.id]
        keys = {n for n, _ in spec.keys}
        fields = None if wanted is None else tuple(sorted(wanted - keys))
        draft = _Draft(
            ExchangeKind.KEY, self._stage(StageKind.KEYED, Place.WORKERS), [(s, port) for s in self._stages_of(port)],
            keys=spec.keys, keys_where=node.title, fields=fields,
        )  # fmt: skip
        self.exchanges.append(draft)
        self._key_exchanges[node.id] = draft
        self.places[node.id] = []

    def _sink(self, node: Node, spec: SinkSpec) -> None:
        sink, port = spec.sink, node.inputs[0]
        if sink.placement is Placement.PARALLEL and len(self._stages_of(port)) == 1:
            self._join(node, self._stages_for(node, columnar=False))
            return
        outputs: list[tuple[int | None, Port]] = [(s, port) for s in self._stages_of(port)]
        if sink.encoder() is not None:
            encode = Node(
                len(self.nodes) + len(self.added), f"encode_for_{node.name}", EncodeSpec(sink), (port,), node.where
            )
            self.added[encode.id] = encode
            stages = self._stages_for(encode, columnar=False)
            self._join(encode, stages)
            outputs = [(s, Port(encode.id)) for s in stages]
        place = Place.CALLER if sink.placement is Placement.CALLER else Place.ONE_WORKER
        stage = self._stage(StageKind.KEYED, place, self._next_writer)
        if place is Place.ONE_WORKER:
            self._next_writer = (self._next_writer + 1) % self.workers  # spread the writers over the workers
        self.exchanges.append(
            _Draft(
                ExchangeKind.GATHER,
                stage,
                outputs,
                [(node.id, 0)],
                fields=None if sink.encoder() else self._shipped(port),
            )
        )
        self._join(node, [stage])

    def _shipped(self, port: Port) -> tuple[str, ...] | None:
        wanted = self.needed[port.node] if port.name == MAIN else None
        return None if wanted is None else tuple(sorted(wanted))
