"""What is known of every output of a flow: before the first row, and again when rows have shown the rest.

Fields and types go from the sources through every operator, each of which says what is wrong with what it would
get. Python functions and iterables may leave them open: then the flow is bound again, as it was written, when the
first rows that they make have come, so that a mistake is told in the words of the build, and nothing is pruned from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pyarrow as pa

from millstream.batch import Batch
from millstream.plan import Node, Port, Undeclared
from millstream.specs.base import MAIN, Bound
from millstream.specs.ends import ReadSpec


def bind(
    nodes: Iterable[Node], sources: Mapping[Port, Bound] | None = None, shown: Mapping[Port, pa.Schema] | None = None
) -> dict[Port, Bound]:
    """What is known of every output that is consumed, and of every main output.

    Args:
        nodes: inputs before those that read them.
        sources: of outputs of nodes that are not among them.
        shown: the fields of outputs whose rows have come.
    Raises:
        FlowError, SchemaError: an operator does not go with its inputs.
    """
    nodes, shown = list(nodes), shown or {}
    consumed = {p for n in nodes for p in n.inputs if p.name != MAIN}
    bound: dict[Port, Bound] = dict(sources or {})
    for node in nodes:
        inputs = [bound[p] for p in node.inputs]
        main = node.spec.bind(node.title, inputs)
        bound[Port(node.id)] = _with_shown(main, shown.get(Port(node.id)))
        for port in consumed:
            if port.node == node.id:
                bound[port] = _with_shown(node.spec.bind_port(port.name, node.title, inputs, main), shown.get(port))
    return bound


def _with_shown(bound: Bound, schema: pa.Schema | None) -> Bound:
    return bound if schema is None else replace(bound, schema=schema)


def undeclared(nodes: Mapping[int, Node], bound: Mapping[Port, Bound]) -> Undeclared | None:
    """What first rows have to show; None where everything is known.

    Args:
        nodes: as they were written, nothing pruned.
    """
    ports = frozenset(
        port for port, known in bound.items()
        if known.schema is None and (spec := nodes[port.node].spec).shows_fields and port.name not in spec.late_ports
    )  # fmt: skip
    if not ports:
        return None
    # Without the sources themselves, which may be as large as a table.
    reads = [n.id for n in nodes.values() if isinstance(n.spec, ReadSpec)]
    rest = tuple(n for n in nodes.values() if n.id not in reads)
    return Undeclared(rest, {Port(n): bound[Port(n)] for n in reads}, ports)


class FirstRows:
    """Watches, in one process, for the first rows of outputs whose fields nothing declared."""

    def __init__(self, unknown: Undeclared) -> None:
        self._nodes = unknown.nodes
        self._sources = dict(unknown.sources)
        self._open = set(unknown.ports)
        self._shown: dict[Port, pa.Schema] = {}

    def see(self, port: Port, batch: Batch) -> None:
        """Take note of what leaves by a port.

        Raises:
            FlowError, SchemaError: an operator behind it does not go with its fields.
        """
        if port not in self._open or batch.num_rows == 0:
            return
        schema = batch.columns.schema
        if any(pa.types.is_null(f.type) for f in schema):
            return  # a field that has been nothing but null may still be anything
        self._open.discard(port)
        if port in self._sources:
            self._sources[port] = replace(self._sources[port], schema=schema)
        else:
            self._shown[port] = schema
        bind(self._nodes, self._sources, self._shown)
