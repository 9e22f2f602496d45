"""The shapes of a flow's state: of every operator that keeps something, what that depends on.

They are taken from the graph before it is cut, so they do not depend on the number of workers or on where input is decoded.
"""

from __future__ import annotations

from collections.abc import Mapping

from millstream.checkpoints.shape import BELONGS_TO, Shape
from millstream.plan import Node, Port
from millstream.specs.base import Bound, Fields, Spec, both, describe_columns
from millstream.specs.ends import EventTimeSpec, ReadSpec, SinkSpec
from millstream.specs.keyed import KeyBySpec


def shapes_of(
    nodes: Mapping[int, Node], bound: Mapping[Port, Bound], needed: Mapping[Port, Fields]
) -> dict[str, Shape]:
    """By operator, the shape of its state; sources, sinks and event time are among them."""
    return {n.name: _shape(n, nodes, bound, needed) for n in nodes.values() if keeps_something(n.spec)}


def keeps_something(spec: Spec) -> bool:
    """Whether a checkpoint has something of such an operator."""
    return spec.keyed or spec.holds_rows or isinstance(spec, ReadSpec | SinkSpec | EventTimeSpec)


def _shape(node: Node, nodes: Mapping[int, Node], bound: Mapping[Port, Bound], needed: Mapping[Port, Fields]) -> Shape:
    aspects, spec = node.spec.state_aspects(), node.spec
    if isinstance(spec, SinkSpec) and spec.takes_what_is_there:
        aspects[BELONGS_TO] = nodes[node.inputs[0].node].name
    types: dict[str, str] | None = {}
    for number, port in enumerate(node.inputs if spec.keyed or spec.holds_rows else ()):
        side = "" if number == 0 else f" of input {number + 1}"
        above, schema = nodes[port.node].spec, bound[port].schema
        if isinstance(above, KeyBySpec):
            aspects[f"key{side}"] = describe_columns(above.keys)
        if schema is None or types is None:
            types = None
            continue
        types |= {f"key field {k}{side}": str(schema.field(k).type) for k in bound[port].keys}
        if spec.keeps_fields:
            kept = _read(node, number, needed)
            types |= {f"field {f.name}{side}": str(f.type) for f in schema if kept is None or f.name in kept}
    return Shape(aspects, types, spec.state_migrations)


def _read(node: Node, number: int, needed: Mapping[Port, Fields]) -> Fields:
    read: Fields = frozenset()
    for port, wanted in needed.items():
        if port.node == node.id:
            read = both(read, node.spec.reads(number, wanted, port.name))
    return read
