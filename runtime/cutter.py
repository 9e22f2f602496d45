"""Cuts the graph of a flow into stages and exchanges: which operators run together, and where rows change process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from millstream.connectors.base import Placement
from millstream.plan import Exchange, ExchangeKind, Node, Place, Port, Stage, StageKind
from millstream.specs.base import DEAD_LETTERS, Fields, Named, Spec
from millstream.specs.dead_letters import DeadLettersSpec
from millstream.specs.ends import EncodeSpec, EventTimeSpec, ReadSpec, SinkSpec
from millstream.specs.keyed import KeyBySpec


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
    keyed: bool = False


class Cutter:
    """Puts every node into its stage or stages."""

    def __init__(self, nodes: Mapping[int, Node], needed: Mapping[Port, Fields], ingest: str, workers: int) -> None:
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
        self._run()

    def _run(self) -> None:
        ingest_place = Place.COORDINATOR if self.ingest == "coordinator" else Place.WORKERS
        first = self._stage(StageKind.BLOCKS, ingest_place)
        behind = _behind_dead_letters(self.nodes)
        for node in (*(n for n in self.nodes.values() if n.id not in behind), *(self.nodes[n] for n in behind)):
            self._place(node, first)
        self.stages = [replace(s, nodes=tuple(self.members[s.id])) for s in self.stages]

    def finished_exchanges(self) -> list[Exchange]:
        return [
            Exchange(i, d.kind, tuple(d.outputs), d.to_stage, tuple(d.targets), d.keys, d.keys_where, d.fields, d.keyed)
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
            self.places[node.id] = []  # a key is made at the exchange into whatever is keyed by it
        elif isinstance(spec, DeadLettersSpec):
            self._dead_letters(node)
        elif spec.keyed:
            self._keyed(node)
        elif spec.holds_rows:
            self._holding(node)
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

    def _keyed(self, node: Node) -> None:
        """Operators on one keyed stream share its exchange and stage; one that joins several gets its own.

        So does one that waits for the end: those that shared its stage would have their watermark held back as long.
        """
        stage: int | None = None
        shares = len(node.inputs) == 1 and not node.spec.waits_for_end
        for number, port in enumerate(node.inputs):
            key_by = self.nodes[port.node]
            draft = self._key_exchanges.get(key_by.id) if shares else None
            if draft is None:
                stage = self._stage(StageKind.KEYED, Place.WORKERS) if stage is None else stage
                draft = self._exchange_into(stage, key_by, port)
                if shares:
                    self._key_exchanges[key_by.id] = draft
            stage = draft.to_stage
            draft.targets.append((node.id, number))
        assert stage is not None
        self._join(node, [stage])

    def _holding(self, node: Node) -> None:
        """Behind an operator with state it joins that stage; the blocks of a source cannot wait for one another."""
        (port,) = node.inputs
        stages = self._stages_of(port)
        if any(self.stages[s].kind is StageKind.BLOCKS for s in stages):
            stage = self._stage(StageKind.KEYED, Place.WORKERS)
            outputs: list[tuple[int | None, Port]] = [(s, port) for s in stages]
            self.exchanges.append(
                _Draft(ExchangeKind.SPREAD, stage, outputs, [(node.id, 0)], fields=self._shipped(port))
            )
            stages = [stage]
        self._join(node, stages)

    def _exchange_into(self, stage: int, node: Node, port: Port) -> _Draft:
        """The exchange of one input of a keyed operator: by key, or to everyone where it is not keyed."""
        if isinstance(node.spec, KeyBySpec):
            above, wanted = node.inputs[0], self.needed[port]
            keys = node.spec.keys
            fields = None if wanted is None else tuple(sorted(wanted - {n for n, _ in keys}))
            draft = _Draft(
                ExchangeKind.KEY, stage, [(s, above) for s in self._stages_of(above)],
                keys=keys, keys_where=node.title, fields=fields, keyed=node.spec.made,
            )  # fmt: skip
        else:
            draft = _Draft(
                ExchangeKind.BROADCAST, stage, [(s, port) for s in self._stages_of(port)], fields=self._shipped(port)
            )
        self.exchanges.append(draft)
        return draft

    def _sink(self, node: Node, spec: SinkSpec) -> None:
        sink, port = spec.sink, node.inputs[0]
        if sink.placement is Placement.PARALLEL and len(self._stages_of(port)) == 1:
            self._join(node, self._stages_for(node, columnar=False))
            return
        outputs: list[tuple[int | None, Port]] = [(s, port) for s in self._stages_of(port)]
        if sink.encoder() is not None:
            encode = Node(
                max(self.nodes) + 1 + len(self.added),
                f"encode_for_{node.name}",
                EncodeSpec(sink, spec.signed),
                (port,),
                node.where,
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

    def _dead_letters(self, node: Node) -> None:
        """One stage takes those of all stages. What is before an event time and what is behind it comes by two exchanges.

        Those of a stage are of two halves of its blocks, whose numbers end apart.
        """
        stage = self._stage(StageKind.KEYED, Place.ONE_WORKER, self._next_writer)
        self._next_writer = (self._next_writer + 1) % self.workers
        outputs: dict[bool, list[tuple[int | None, Port]]] = {False: [], True: []}
        for upstream in self.stages[:stage]:
            timed = self._behind_event_time(upstream)
            for member in self.members[upstream.id]:
                if member in self.nodes and _refuses(self.nodes[member].spec):
                    outputs[member in timed].append((upstream.id, Port(member, DEAD_LETTERS)))
        self.exchanges += [_Draft(ExchangeKind.GATHER, stage, fed, [(node.id, 0)]) for fed in outputs.values() if fed]
        self._join(node, [stage])

    def _behind_event_time(self, stage: Stage) -> set[int]:
        """The nodes of a block stage that work on the second half of a block."""
        behind: set[int] = set()
        if stage.kind is StageKind.BLOCKS:
            for member in self.members[stage.id]:
                spec, inputs = self._node(member).spec, self._node(member).inputs
                if isinstance(spec, EventTimeSpec) or any(p.node in behind for p in inputs):
                    behind.add(member)
        return behind

    def _node(self, number: int) -> Node:
        return self.nodes[number] if number in self.nodes else self.added[number]

    def _shipped(self, port: Port) -> tuple[str, ...] | None:
        wanted = self.needed[port]
        return None if wanted is None else tuple(sorted(wanted))


def _behind_dead_letters(nodes: Mapping[int, Node]) -> list[int]:
    """The nodes that dead letters reach as rows, in their order: what these refuse cannot come back to them."""
    behind: dict[int, None] = {}
    for node in nodes.values():
        if isinstance(node.spec, DeadLettersSpec) or any(p.node in behind for p in node.inputs):
            behind[node.id] = None
    return list(behind)


def _refuses(spec: Spec) -> bool:
    """Whether an operator may refuse records: a sink does where it calls the user's Python."""
    return not isinstance(spec, SinkSpec) or spec.sink.calls_python
