"""The flow as a graph to look at: the user's operators, and what the planner added folded into them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from millstream.plan import Exchange, Node, PhysicalPlan, Port, StageKind
from millstream.specs.base import DEAD_LETTERS, MAIN
from millstream.specs.ends import EncodeSpec, EventTimeSpec, ReadSpec, SinkSpec
from millstream.specs.groups import GroupRowsSpec


@dataclass(frozen=True)
class GraphOperator:
    """One operator of the user's.

    Attributes:
        role: "source", "operator" or "sink".
        parts: the names of the operators that the planner made for it; their work is its work.
        entrance: the part whose input is the operator's, where that is not the operator itself.
        places: where it runs: "coordinator", "workers", "one worker", "caller".
        stages: the stages with a watermark of their own that it is in.
        timed: its rows have event time.
        keyed: it keeps something by key.
    """

    name: str
    description: str
    where: str
    role: str
    parts: tuple[str, ...]
    entrance: str | None
    places: tuple[str, ...]
    stages: tuple[int, ...]
    timed: bool
    keyed: bool = False


@dataclass(frozen=True)
class GraphEdge:
    """Rows go from one operator to another.

    Attributes:
        port: which output: "main", "late", or a side output by name.
        exchange: how they change process: "deal", "key", "broadcast", "spread", "gather"; None: they do not.
        keys: by what, for "key".
    """

    source: str
    target: str
    port: str
    exchange: str | None
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Attributes:
    live: whether sources are live, so that watermarks are compared with the wall clock.
    event_time: whether the flow has any; without, windows go by processing time.
    """

    flow: str
    workers: int
    ingest: str
    live: bool
    event_time: bool
    operators: tuple[GraphOperator, ...]
    edges: tuple[GraphEdge, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Graph:
        """What `as_json` gave, after JSON has made lists of tuples."""
        operators = tuple(GraphOperator(**{n: _tupled(v) for n, v in o.items()}) for o in data["operators"])
        edges = tuple(GraphEdge(**{n: _tupled(v) for n, v in e.items()}) for e in data["edges"])
        return cls(**{**data, "operators": operators, "edges": edges})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def graph_of(plan: PhysicalPlan) -> Graph:
    """The graph of what runs: operators in the order in which rows pass."""
    numbers = list(dict.fromkeys(n for stage in plan.stages for n in stage.nodes))
    owners = {n: _owner(plan, n, numbers) for n in numbers}
    shown = [n for n in numbers if owners[n] == n]
    specs = [plan.nodes[n].spec for n in numbers]
    return Graph(
        flow=plan.name,
        workers=plan.workers,
        ingest=plan.ingest,
        live=all(s.source.live for s in specs if isinstance(s, ReadSpec)),
        event_time=any(isinstance(s, EventTimeSpec) for s in specs),
        operators=tuple(_operator(plan, n, [p for p in numbers if owners[p] == n and p != n]) for n in shown),
        edges=tuple(_edges(plan, owners)),
    )


def _owner(plan: PhysicalPlan, number: int, numbers: list[int]) -> int:
    """The operator whose work this one does: itself, unless the planner made it."""
    spec = plan.nodes[number].spec
    if isinstance(spec, EncodeSpec | GroupRowsSpec):
        return next(
            target for e in plan.exchanges if any(p.node == number for _, p in e.outputs) for target, _ in e.targets
        )
    if isinstance(spec, SinkSpec) and spec.takes_what_is_there:
        return _owner(plan, plan.nodes[number].inputs[0].node, numbers)
    return number


def _has_time(plan: PhysicalPlan, number: int) -> bool:
    """Whether rows of a node have event time."""
    node = plan.nodes[number]
    return isinstance(node.spec, EventTimeSpec) or any(_has_time(plan, p.node) for p in node.inputs)


def _operator(plan: PhysicalPlan, number: int, parts: list[int]) -> GraphOperator:
    node = plan.nodes[number]
    stages = [s for s in plan.stages if number in s.nodes]
    entrance = [plan.nodes[p].name for p in parts if isinstance(plan.nodes[p].spec, EncodeSpec | GroupRowsSpec)]
    return GraphOperator(
        name=node.name,
        description=node.spec.describe(),
        where=node.where,
        role=_role(node),
        parts=tuple(plan.nodes[p].name for p in parts),
        entrance=entrance[0] if entrance else None,
        places=tuple(dict.fromkeys(s.place.value for s in stages)),
        stages=tuple(s.id for s in stages if s.kind is StageKind.KEYED),
        timed=_has_time(plan, number),
        keyed=node.spec.keyed,
    )


def _role(node: Node) -> str:
    return "source" if isinstance(node.spec, ReadSpec) else "sink" if isinstance(node.spec, SinkSpec) else "operator"


def _edges(plan: PhysicalPlan, owners: dict[int, int]) -> list[GraphEdge]:
    """Between the operators that are shown: within stages and through exchanges."""
    edges: dict[tuple[str, str, str], GraphEdge] = {}

    def add(port: Port, target: int, exchange: Exchange | None) -> None:
        source, owner = owners.get(port.node), owners[target]
        # Of dead letters there would be a line from every operator.
        if source is None or source == owner or port.name == DEAD_LETTERS:
            return
        names = plan.nodes[source].name, plan.nodes[owner].name
        name = port.name if source == port.node else MAIN  # of a part, ports are nobody's concern
        through = exchange or _ahead(plan, target, owners)
        edges.setdefault(
            (*names, name),
            GraphEdge(
                *names, name, None if through is None else through.kind.value,
                () if through is None else tuple(n for n, _ in through.keys),
            ),
        )  # fmt: skip

    for exchange in plan.exchanges:
        for (_, port), (target, _) in product(exchange.outputs, exchange.targets):
            add(port, target, exchange)
    for stage in plan.stages:
        through = {t for e in plan.exchanges_into(stage.id) for t in e.targets}
        for node in stage.nodes:
            for number, port in enumerate(plan.nodes[node].inputs):
                if (node, number) not in through and port.node in stage.nodes:
                    add(port, node, None)
    return list(edges.values())


def _ahead(plan: PhysicalPlan, part: int, owners: dict[int, int]) -> Exchange | None:
    """The exchange by which rows come from a part that works ahead of its operator; None: it is no such part."""
    if owners[part] == part:
        return None
    outputs = (e for e in plan.exchanges if any(p.node == part for _, p in e.outputs))
    return next((e for e in outputs if any(target == owners[part] for target, _ in e.targets)), None)
