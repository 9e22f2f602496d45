r"""Aggregation in two steps: where a plan gains by grouping rows in each worker before the exchange by key.

A key that carries half of all events keeps the worker that owns it busy while the others wait. Where blocks are worked
on in the workers, each of them groups the rows of its own blocks first (operators/grouped.py), and the owner of a key
merges the groups (operators/merged.py). Rows of which it matters when they came pass the first step as they are.

    above -> key_by -> agg      becomes      above -> groups -> key_by ------------------> agg
                                                        \---> key_by (of groups) -------/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

from millstream.accumulators import AccumulatorSet
from millstream.aggregates import Collect, CountDistinct, TopRows, UserAggregate
from millstream.cutter import Cutter
from millstream.expr import WholeRow, col
from millstream.operators.aggregation import input_types
from millstream.operators.windows.base import kept_aggregates
from millstream.plan import Node, Place, Port, StageKind
from millstream.specs.base import Bound, Fields
from millstream.specs.ends import EventTimeSpec
from millstream.specs.groups import (
    GROUPS,
    SLICE,
    GroupRowsSpec,
    MergedRunningSpec,
    MergedWindowsSpec,
    accumulator_names,
    is_taken,
)
from millstream.specs.keyed import Aggregates, KeyBySpec, RunningAggregateSpec
from millstream.specs.windows import WindowAggregateSpec, Windows

TwoPhase = Literal["auto", "always", "never"]
"""Whether aggregations are done in two steps: where that gains; wherever it can be done; nowhere."""

_KEEP_VALUES: Final = (Collect, CountDistinct, TopRows)
"""Aggregates whose accumulators are hardly smaller than the rows that they are of."""


@dataclass(frozen=True)
class Graph:
    """A graph that is about to be cut: the nodes, and of each port what is known and which fields somebody reads."""

    nodes: dict[int, Node]
    bound: dict[Port, Bound]
    needed: dict[Port, Fields]


def with_groups(graph: Graph, cut: Cutter, mode: TwoPhase) -> Graph:
    """The graph with two steps for each aggregation that can be split, and gains by it.

    Args:
        cut: the same graph, cut: it says where rows are worked on.
    """
    if mode == "never" or (mode == "auto" and cut.workers == 1):
        return graph
    for node in list(graph.nodes.values()):
        if _splits(node, graph, cut, mode):
            graph = _split(node, graph, always=mode == "always")
    return graph


# --- which ---


def _splits(node: Node, graph: Graph, cut: Cutter, mode: TwoPhase) -> bool:
    spec = node.spec
    if not isinstance(spec, WindowAggregateSpec | RunningAggregateSpec) or not _merges(spec):
        return False
    key_by = graph.nodes[node.inputs[0].node]
    above = key_by.inputs[0]
    return (
        isinstance(key_by.spec, KeyBySpec)
        and not any(is_taken(n) for n, _ in key_by.spec.keys)
        and graph.bound[Port(key_by.id)].schema is not None  # both steps have to agree on the types
        and _in_workers(above, cut)
        and not (isinstance(spec, WindowAggregateSpec) and _may_be_idle(above.node, graph.nodes))
        # Operators on one keyed stream share its exchange: each with groups of its own would send more.
        and sum(Port(key_by.id) in n.inputs for n in graph.nodes.values()) == 1
        and (mode == "always" or not any(isinstance(a, _KEEP_VALUES) for _, a in spec.aggregates))
    )


def _merges(spec: WindowAggregateSpec | RunningAggregateSpec) -> bool:
    """Whether groups that were made without knowing of any others can be merged into what it keeps."""
    if spec.signed or any(_holds_objects(a) for _, a in spec.aggregates):
        return False
    if isinstance(spec, RunningAggregateSpec):
        return type(spec) is RunningAggregateSpec
    counts_rows = spec.early is not None and spec.early.rows is not None
    return spec.event_time and type(spec.windows) is Windows and not counts_rows


def _holds_objects(aggregate: Any) -> bool:
    return isinstance(aggregate, UserAggregate) or any(isinstance(e, WholeRow) for e in aggregate.inputs)


def _in_workers(above: Port, cut: Cutter) -> bool:
    """Whether rows are worked on block by block in the workers."""
    stages = [cut.stages[s] for s in cut.places[above.node]]
    return bool(stages) and all(s.kind is StageKind.BLOCKS and s.place is Place.WORKERS for s in stages)


def _may_be_idle(number: int, nodes: Mapping[int, Node]) -> bool:
    """Whether windows may have fired beyond the watermark of a row's own partition."""
    node = nodes[number]
    if isinstance(node.spec, EventTimeSpec) and node.spec.idle_us is not None:
        return True
    return any(_may_be_idle(p.node, nodes) for p in node.inputs)


# --- splitting ---


def _split(node: Node, graph: Graph, *, always: bool) -> Graph:
    spec = node.spec
    assert isinstance(spec, WindowAggregateSpec | RunningAggregateSpec)
    key_by = graph.nodes[node.inputs[0].node]
    assert isinstance(key_by.spec, KeyBySpec)
    above, schema = key_by.inputs[0], graph.bound[Port(key_by.id)].schema
    assert schema is not None
    types = tuple(input_types(dict(spec.aggregates), schema, node.title))
    windows, kept = _windows_and_aggregates(spec)
    groups_spec = GroupRowsSpec(key_by.spec.keys, key_by.title, node.title, kept, types, windows, always)
    number = max(graph.nodes) + 1
    groups = Node(number, f"groups_for_{node.name}", groups_spec, (above,), node.where)
    key_names = [n for n, _ in key_by.spec.keys]
    keys = KeyBySpec(tuple((n, col(n)) for n in key_names), made=True)
    key_groups = Node(number + 1, f"keys_of_{groups.name}", keys, (Port(number, GROUPS),), node.where)
    nodes: dict[int, Node] = {}
    for each in graph.nodes.values():
        if each.id == key_by.id:
            made = replace(key_by.spec, made=True)
            nodes |= {groups.id: groups, each.id: replace(each, spec=made, inputs=(Port(groups.id),))}
        elif each.id == node.id:
            inputs = (*node.inputs, Port(key_groups.id))
            nodes |= {key_groups.id: key_groups, each.id: replace(node, spec=_merged(spec, types), inputs=inputs)}
        else:
            nodes[each.id] = each
    width = AccumulatorSet(dict(kept), list(types), node.title).width
    unknown = Bound(None)
    return Graph(
        nodes,
        {
            **graph.bound,
            Port(groups.id): graph.bound[above],
            Port(groups.id, GROUPS): unknown,
            Port(key_groups.id): unknown,
        },
        {
            **graph.needed,
            Port(groups.id): graph.needed[above],
            Port(groups.id, GROUPS): None,
            Port(key_groups.id): frozenset([SLICE, *accumulator_names(width)]),
        },
    )


def _windows_and_aggregates(spec: WindowAggregateSpec | RunningAggregateSpec) -> tuple[Windows | None, Aggregates]:
    if isinstance(spec, RunningAggregateSpec):
        return None, spec.aggregates
    assert isinstance(spec.windows, Windows)
    return spec.windows, kept_aggregates(spec)


def _merged(
    spec: WindowAggregateSpec | RunningAggregateSpec, types: tuple[Any, ...]
) -> MergedWindowsSpec | MergedRunningSpec:
    """The second step: the same, with another input."""
    held = {f.name: getattr(spec, f.name) for f in fields(spec)}
    if isinstance(spec, WindowAggregateSpec):
        return MergedWindowsSpec(**held, input_types=types)
    return MergedRunningSpec(**held, input_types=types)
