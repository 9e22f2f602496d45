"""Who talks to whom: what a physical plan says about processes, inputs and event-time clocks.

Everything here is derived from the plan, so that no two processes can disagree about it.
"""

from __future__ import annotations

from collections.abc import Iterator

from millstream.plan import Exchange, ExchangeKind, PhysicalPlan, Place, Port, Stage, StageKind
from millstream.specs.ends import EventTimeSpec, ReadSpec

COORDINATOR = "coordinator"
CALLER = "caller"
SOURCES = "sources"
"""The coordinator's ear for hosts of sources, who know nothing of attempts: they outlast a rescale."""
SOURCE_HOST = "source-host"
CALLER_HOST = "caller-host"
SOURCE_STAGE = -1
"""The upstream stage of a block that comes straight from its source."""


def worker_name(index: int) -> str:
    return f"worker-{index}"


def worker_index(name: str) -> int:
    return int(name.removeprefix("worker-"))


class Topology:
    def __init__(self, plan: PhysicalPlan) -> None:
        self.plan = plan

    # --- processes ---

    def processes_of(self, stage: Stage) -> list[str]:
        match stage.place:
            case Place.COORDINATOR:
                return [COORDINATOR]
            case Place.WORKERS:
                return [worker_name(i) for i in range(self.plan.workers)]
            case Place.ONE_WORKER:
                return [worker_name(stage.worker)]
            case Place.CALLER:
                return [CALLER]

    def receivers_of(self, exchange: Exchange) -> list[str]:
        return self.processes_of(self.plan.stages[exchange.to_stage])

    def sender_count(self, exchange: Exchange) -> int:
        """How many stages, each process's by itself, share a receiver's budget."""
        stages = {stage for stage, _ in exchange.outputs}
        return sum(1 if s is None else len(self.processes_of(self.plan.stages[s])) for s in stages)

    def index_of(self, process: str) -> int:
        return worker_index(process) if process.startswith("worker-") else 0

    # --- inside a stage ---

    def edges_within(self, stage: Stage) -> dict[Port, list[tuple[int, int]]]:
        """For each port, the nodes of the same stage that read it without an exchange in between."""
        edges: dict[Port, list[tuple[int, int]]] = {}
        through_exchange = {t for e in self.plan.exchanges_into(stage.id) for t in e.targets}
        for node in stage.nodes:
            for number, port in enumerate(self.plan.nodes[node].inputs):
                if port.node in stage.nodes and (node, number) not in through_exchange:
                    edges.setdefault(port, []).append((node, number))
        return edges

    def wanted_ports(self, stage: Stage) -> dict[int, frozenset[str]]:
        """For each node of the stage, the ports that somebody consumes."""
        wanted: dict[int, set[str]] = {}
        for port in self.edges_within(stage):
            wanted.setdefault(port.node, set()).add(port.name)
        for exchange in self.plan.exchanges:
            for upstream, port in exchange.outputs:
                if upstream == stage.id:
                    wanted.setdefault(port.node, set()).add(port.name)
        return {node: frozenset(names) for node, names in wanted.items()}

    # --- inputs ---

    def origins_of(self, exchange: Exchange) -> Iterator[tuple[int, int]]:
        """Every input of an exchange: (upstream stage, partition)."""
        for number in sorted({s for s, _ in exchange.outputs if s is not None}):
            stage = self.plan.stages[number]
            if stage.kind is StageKind.BLOCKS:
                yield from ((number, p) for p in sorted(self.partitions_of_outputs(stage)[exchange.id]))
            else:
                yield from ((number, self.index_of(p)) for p in self.processes_of(stage))

    def partitions_of_outputs(self, stage: Stage) -> dict[int, frozenset[int]]:
        """For each exchange that a block stage feeds, the source partitions whose numbers it carries."""
        result: dict[int, frozenset[int]] = {}
        for exchange in self.plan.exchanges:
            ports = [port for upstream, port in exchange.outputs if upstream == stage.id]
            if ports:
                sources = {n for port in ports for n in self.sources_above(port.node, stage)}
                result[exchange.id] = frozenset(
                    p for p, (node, _) in enumerate(self.plan.partitions) if node in sources
                )
        return result

    def clocks_of(self, stage: Stage) -> dict[int, frozenset[int]]:
        """For each ``event_time()`` of a block stage, the source partitions whose events reach it."""
        return {
            node: frozenset(p for p, (s, _) in enumerate(self.plan.partitions) if s in self.sources_above(node, stage))
            for node in stage.nodes
            if isinstance(self.plan.nodes[node].spec, EventTimeSpec)
        }

    def timed_exchanges(self, stage: Stage) -> frozenset[int]:
        """The exchanges that a block stage feeds from behind one of its own ``event_time()``s."""
        behind: set[int] = set()
        for node in stage.nodes:
            if isinstance(self.plan.nodes[node].spec, EventTimeSpec) or any(
                p.node in behind for p in self._inputs_within(node, stage)
            ):
                behind.add(node)
        return frozenset(
            e.id
            for e in self.plan.exchanges
            if any(upstream == stage.id and port.node in behind for upstream, port in e.outputs)
        )

    def _inputs_within(self, node: int, stage: Stage) -> list[Port]:
        return [p for p in self.plan.nodes[node].inputs if p.node in stage.nodes]

    def sources_above(self, node: int, stage: Stage) -> set[int]:
        """The sources whose blocks reach a node of a block stage, through this stage or one that deals to it."""
        found: set[int] = set()
        ahead = [node]
        seen: set[int] = set()
        while ahead:
            current = ahead.pop()
            if current in seen:
                continue
            seen.add(current)
            if isinstance(self.plan.nodes[current].spec, ReadSpec):
                found.add(current)
            reach = {
                stage.id,
                *(
                    u
                    for e in self.plan.exchanges_into(stage.id)
                    if e.kind is ExchangeKind.DEAL
                    for u, _ in e.outputs
                    if u is not None
                ),
            }
            nodes_in_reach = {n for s in reach for n in self.plan.stages[s].nodes}
            ahead += [p.node for p in self.plan.nodes[current].inputs if p.node in nodes_in_reach]
        return found

    def taker_of(self, exchange: Exchange) -> int | None:
        """The one node to which an exchange leads from one stage of blocks; None: there are others."""
        stages = {stage for stage, _ in exchange.outputs}
        stage = stages.pop()
        if stages or stage is None or self.plan.stages[stage].kind is not StageKind.BLOCKS or exchange.keyed:
            return None
        alone = exchange.kind in (ExchangeKind.KEY, ExchangeKind.SPREAD) and [n for _, n in exchange.targets] == [0]
        return exchange.targets[0][0] if alone else None

    def is_live(self, event_time: int) -> bool:
        """Whether live sources alone reach this ``event_time()``."""
        stage = self.plan.stages[self.plan.stage_of_clock(event_time)]
        specs = [self.plan.nodes[s].spec for s in self.sources_above(event_time, stage)]
        return all(isinstance(s, ReadSpec) and s.source.live for s in specs)
