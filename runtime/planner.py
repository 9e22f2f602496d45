"""From the flow as written to the plan as run: fields checked and pruned, cut into stages and exchanges.

The passes over the graph, in the order in which nodes were made (inputs come first):

Before anything else, what leads to no sink is left out.

1. bind (binding.py): the fields and types of every output, as far as they are known before the first row; what is
   wrong with the flow is said here, before any process starts.
2. retractions, backwards: where revised rows must be taken back, whoever revises them is told to.
3. prune, backwards: which fields somebody reads. Sources decode, and exchanges carry, no others.
4. cut (cutter.py): operators that need no exchange between them form a stage. Aggregations that gain by two steps
   get them (two_phase.py), and the graph is cut again.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from millstream.binding import bind, undeclared
from millstream.connectors import JsonLinesSink
from millstream.connectors.file_sources import FileSource
from millstream.cutter import Cutter
from millstream.errors import FlowError, UnboundedStateWarning
from millstream.flow import Flow
from millstream.plan import Node, PhysicalPlan, Port
from millstream.projection import parts_read
from millstream.shapes import shapes_of
from millstream.specs.base import Bound, Fields, both
from millstream.specs.columns import UnionSpec
from millstream.specs.ends import ReadSpec, SinkSpec
from millstream.two_phase import Graph, TwoPhase, with_groups

Ingest = Literal["auto", "coordinator", "workers"]


def make_plan(
    flow: Flow,
    *,
    workers: int,
    batch_rows: int = 65_536,
    ingest: Ingest = "auto",
    late_directory: Path | None = None,
    two_phase: TwoPhase = "auto",
) -> PhysicalPlan:
    """Plan a flow.

    Args:
        ingest: where sources are decoded; "auto" decides by what limits.
        late_directory: where late events go that the flow does not consume; None: they are only counted.
        two_phase: whether rows are grouped in each worker before they go to the owners of their keys; "auto": where
            that gains.
    Raises:
        FlowError, SchemaError: the flow cannot run, with the operator and its line.
        SourceError, SinkError: a source or sink that cannot be opened.
    """
    nodes = _leading_to_sinks(flow.nodes)
    if not nodes:
        raise FlowError(
            f"flow {flow.name!r} has no sink: nothing would come of it; "
            "end a stream with .print(), .write_jsonl(...) or .collect()"
        )
    if not any(isinstance(n.spec, ReadSpec) for n in nodes.values()):
        raise FlowError(
            f"flow {flow.name!r} has no sink but for its dead letters, of which there are none where nothing else is done; "
            "end another stream with .write_jsonl(...), .write_null() or .collect()"
        )
    nodes = _with_late_outputs(nodes, late_directory)
    bound = bind(nodes.values())
    retracting = _with_retractions(nodes, bound)
    if retracting != nodes:
        nodes, bound = retracting, bind(retracting.values())
    nodes = {n.id: _resolved(n, nodes, bound) for n in nodes.values()}
    unknown = undeclared(nodes, bound)
    needed = _prune(nodes, bound)
    nodes = {n.id: replace(n, spec=n.spec.narrowed(needed[Port(n.id)])) for n in nodes.values()}
    nodes, reads = _projected(nodes, bound, needed)
    shapes = shapes_of(nodes, bound, needed)
    cut, where = _cut(nodes, bound, needed, ingest, workers)
    graph = with_groups(Graph(nodes, bound, needed), cut, two_phase)
    if graph.nodes != nodes:
        nodes, bound, needed = graph.nodes, graph.bound, graph.needed
        cut = Cutter(nodes, needed, where, workers)
    partitions = [
        (n.id, name) for n in nodes.values() if isinstance(n.spec, ReadSpec) for name in n.spec.source.partitions()
    ]
    if len(partitions) > 1_000:
        raise FlowError(
            f"flow {flow.name!r} reads {len(partitions)} source partitions, at most 1000 are possible; "
            "use partitions='one' for globs of many files"
        )
    _check_sinks(nodes)
    _warn_of_unbounded_state(nodes)
    return PhysicalPlan(
        name=flow.name, workers=workers, ingest=where, batch_rows=batch_rows, nodes={**nodes, **cut.added},
        schemas={n: bound[Port(n)].schema for n in nodes}, stages=tuple(cut.stages),
        exchanges=tuple(cut.finished_exchanges()), partitions=tuple(partitions), reads=reads,
        needs_position=any(n.spec.needs_position for n in nodes.values()), undeclared=unknown, shapes=shapes,
        most_errors=flow.most_errors,
    )  # fmt: skip


def _check_sinks(nodes: Mapping[int, Node]) -> None:
    """
    Raises:
        FlowError: a sink would write over what another one has written, or over what the flow reads.
        SinkError: one cannot write where it is to.
    """
    owners: dict[str, Node] = {}
    inputs = {
        os.path.realpath(path): node
        for node in nodes.values()
        if isinstance(node.spec, ReadSpec) and isinstance(node.spec.source, FileSource)
        for path in node.spec.source.files()
    }
    for node in nodes.values():
        if not isinstance(node.spec, SinkSpec):
            continue
        sink = node.spec.sink
        target = sink.owns()
        if target in inputs:
            raise FlowError(f"{node.title}: would write over what {inputs[target].title} reads; write to another path")
        if target is not None and (other := owners.setdefault(target, node)) is not node:
            raise FlowError(
                f"{node.title}: {other.title} writes there, too, and each would undo what the other has written; "
                f"union() the two streams, or give one of them another place than {sink.label()}"
            )
        sink.check()


def _warn_of_unbounded_state(nodes: Mapping[int, Node]) -> None:
    """A flow without an end must not keep what it never forgets; one that ends may."""
    for node in nodes.values():
        if (kept := node.spec.unbounded_state) is not None and _never_ends(node, nodes):
            file, _, line = node.where.rpartition(":")
            warnings.warn_explicit(f"{node.name}: {kept}", UnboundedStateWarning, file, int(line))


def _never_ends(node: Node, nodes: Mapping[int, Node]) -> bool:
    """Whether rows of a live source reach a node."""
    if isinstance(node.spec, ReadSpec):
        return node.spec.source.live
    return any(_never_ends(nodes[p.node], nodes) for p in node.inputs)


# --- nodes that nobody asked for, and late events that nobody asked for ---


def _leading_to_sinks(nodes: Sequence[Node]) -> dict[int, Node]:
    """The nodes without those of which nothing reaches a sink: nobody would see what they do."""
    leading: set[int] = set()
    for node in reversed(nodes):
        if isinstance(node.spec, SinkSpec) or node.id in leading:
            leading |= {node.id, *(p.node for p in node.inputs)}
    return {n.id: n for n in nodes if n.id in leading}


def _with_late_outputs(nodes: Mapping[int, Node], directory: Path | None) -> dict[int, Node]:
    """Give every operator with late events a place for them: nothing is dropped without a place to look."""
    result = dict(nodes)
    consumed = {p for n in nodes.values() for p in n.inputs}
    if directory is None:
        return result
    for node in nodes.values():
        for name in node.spec.late_ports:
            port = Port(node.id, name)
            if port in consumed:
                continue
            number = max(result) + 1
            folder = node.name if len(node.spec.late_ports) == 1 else f"{node.name}.{name}"
            sink = SinkSpec(JsonLinesSink(f"{directory / folder}/"), takes_what_is_there=True)
            result[number] = Node(number, f"{name}_of_{node.name}", sink, (port,), node.where)
    return result


# --- retractions ---


def _with_retractions(nodes: Mapping[int, Node], bound: Mapping[Port, Bound]) -> dict[int, Node]:
    """The nodes; those whose revisions somebody must be able to take back are told to retract."""
    result = dict(nodes)
    asked: set[int] = set()
    for node in reversed(list(nodes.values())):
        passes_on = node.id in asked
        if passes_on and node.spec.revises:
            result[node.id] = replace(node, spec=node.spec.retracting())
            passes_on = False  # it makes a changelog of its own, whatever comes in
        if passes_on or node.spec.needs_retractions([bound[p] for p in node.inputs]):
            asked.update(p.node for p in node.inputs if bound[p].changelog is not None)
    return result


def _resolved(node: Node, nodes: Mapping[int, Node], bound: Mapping[Port, Bound]) -> Node:
    """The node with what binding found out."""
    if isinstance(node.spec, UnionSpec):
        # Where branches of one source meet again, their rows go on in the order of the source.
        sources = [_sources_of(p.node, nodes) for p in node.inputs]
        meets = sum(map(len, sources)) > len(frozenset().union(*sources))
        return replace(node, spec=UnionSpec(in_order=meets))
    return replace(node, spec=node.spec.resolved([bound[p] for p in node.inputs]))


def _sources_of(number: int, nodes: Mapping[int, Node]) -> frozenset[int]:
    """The sources whose blocks reach a node; what a keyed operator puts out is of no block."""
    node = nodes[number]
    if isinstance(node.spec, ReadSpec):
        return frozenset((number,))
    if node.spec.keyed:
        return frozenset()
    return frozenset().union(*(_sources_of(p.node, nodes) for p in node.inputs))


# --- prune ---


def _prune(nodes: Mapping[int, Node], bound: Mapping[Port, Bound]) -> dict[Port, Fields]:
    """For each output, the fields that somebody reads."""
    needed: dict[Port, Fields] = dict.fromkeys(bound, frozenset())
    for node in reversed(list(nodes.values())):
        for port in [p for p in bound if p.node == node.id]:
            out, schema = needed[port], bound[port].schema
            if out is None and schema is not None:
                needed[port] = out = frozenset(schema.names)
            for number, source in enumerate(node.inputs):
                needed[source] = both(needed[source], node.spec.reads(number, out, port.name))
    for port, wanted in needed.items():
        if (schema := bound[port].schema) is not None:
            # Arrow forgets the length of a batch without columns: keep one when rows alone are counted.
            needed[port] = (
                frozenset(schema.names)
                if wanted is None
                else (wanted & set(schema.names) or frozenset(schema.names[:1]))
            )
    return needed


def _projected(
    nodes: Mapping[int, Node], bound: Mapping[Port, Bound], needed: Mapping[Port, Fields]
) -> tuple[dict[int, Node], dict[int, tuple[str, ...] | None]]:
    """The nodes with sources that read only what is needed, and for each source what that is (None: everything)."""
    result, reads = dict(nodes), dict[int, tuple[str, ...] | None]()
    for node in nodes.values():
        if isinstance(node.spec, ReadSpec):
            schema, wanted = bound[Port(node.id)].schema, needed[Port(node.id)]
            names = None if schema is None or wanted is None else tuple(n for n in schema.names if n in wanted)
            if names is not None and schema is not None:
                names = parts_read(nodes, node.id, names, schema, needed)
            reads[node.id] = names
            if names is not None:
                result[node.id] = replace(node, spec=ReadSpec(node.spec.source.with_fields(names)))
    return result, reads


# --- cut ---


def _cut(
    nodes: Mapping[int, Node],
    bound: Mapping[Port, Bound],
    needed: Mapping[Port, Fields],
    ingest: Ingest,
    workers: int,
) -> tuple[Cutter, Literal["coordinator", "workers"]]:
    unknown = [n for n in nodes.values() if isinstance(n.spec, ReadSpec) and bound[Port(n.id)].schema is None]
    where = _ingest(nodes, workers) if ingest == "auto" else ingest
    if any(isinstance(n.spec, ReadSpec) and n.spec.source.decoder(None) is not None for n in unknown):
        where = "coordinator"  # the first block shows the fields: one decoder has to see them all
    cut = Cutter(nodes, needed, where, workers)
    if not cut.deals_twice:
        return cut, where
    # The numbers of a block can be put together again from one dealt stream of it, not from two.
    if unknown:
        raise FlowError(
            f"{unknown[0].title}: its fields are not known before it is read; "
            "say schema=, so that several operators can read it"
        )
    return Cutter(nodes, needed, "workers", workers), "workers"


def _ingest(nodes: Mapping[int, Node], workers: int) -> Literal["coordinator", "workers"]:
    """Where sources are decoded: text is expensive, and with several workers it is better done there."""
    decodes = any(
        isinstance(n.spec, ReadSpec) and n.spec.source.decoder(None) is not None and not n.spec.source.live
        for n in nodes.values()
    )
    return "workers" if decodes and workers > 1 else "coordinator"
