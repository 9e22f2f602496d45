"""Of a struct field, only the parts that somebody reads: what a source is asked to decode.

Fields are pruned for every operator (planner.py). Parts of fields are pruned for sources alone, where
it pays: of a nested JSON object nothing is decoded but what is read. It is enough to look at the
expressions between the source and the first `select`, as that is where nested events are taken apart.
An operator that takes the struct as it is makes all of it read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from millstream.expr import Expr
from millstream.plan import Node, Port
from millstream.specs.base import Fields, Spec
from millstream.specs.columns import FilterSpec, SelectSpec, WithColumnsSpec
from millstream.specs.ends import EventTimeSpec


def parts_read(
    nodes: Mapping[int, Node], source: int, names: Sequence[str], schema: pa.Schema, needed: Mapping[Port, Fields]
) -> tuple[str, ...]:
    """The fields that a source has to decode: ``bid.price`` where of ``bid`` only that is read.

    Args:
        names: the fields of which anything is read.
        needed: for each output, the fields that somebody reads.
    """
    found: list[str] = []
    for name in names:
        parts = None
        if pa.types.is_struct(schema.field(name).type) and "." not in name:
            parts = _parts(nodes, Port(source), name, needed)
        found += sorted(parts) if parts else [name]
    return tuple(found)


def _parts(nodes: Mapping[int, Node], port: Port, name: str, needed: Mapping[Port, Fields]) -> frozenset[str] | None:
    """The paths below ``name`` that are read of an output; None: all of it may be."""
    paths: set[str] = set()
    for node in nodes.values():
        for number, input_port in enumerate(node.inputs):
            if input_port != port:
                continue
            expressions = _expressions(node.spec)
            if expressions is None:
                if _reads_whole(node, number, name, needed):
                    return None
                continue
            read = {path for e in expressions for path in e.paths() if path.partition(".")[0] == name}
            if name in read:
                return None
            paths |= read
            if _passes_on(node.spec, name):
                further = _parts(nodes, Port(node.id), name, needed)
                if further is None:
                    return None
                paths |= further
    return frozenset(paths)


def _expressions(spec: Spec) -> list[Expr] | None:
    """All that an operator looks at its input with; None: it takes fields as they are."""
    match spec:
        case FilterSpec():
            return [spec.predicate]
        case EventTimeSpec():
            return [spec.time]
        case SelectSpec() | WithColumnsSpec():
            return [e for _, e in spec.columns]
    return None


def _passes_on(spec: Spec, name: str) -> bool:
    """Whether a field of its input comes out under the same name, untouched."""
    match spec:
        case SelectSpec():
            return False  # one that is passed on is an expression that reads all of it
        case WithColumnsSpec():
            return all(n != name for n, _ in spec.columns)
    return True


def _reads_whole(node: Node, number: int, name: str, needed: Mapping[Port, Fields]) -> bool:
    return any(read is None or name in read for read in _reads(node, number, needed))


def _reads(node: Node, number: int, needed: Mapping[Port, Fields]) -> Iterator[Fields]:
    for port, out in needed.items():
        if port.node == node.id:
            yield node.spec.reads(number, out, port.name)
