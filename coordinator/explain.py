"""How a flow will run, as a tree: its sources, its stages in the order in which rows pass, and what moves between them.

`explain` only reads a physical plan. Nothing is started for it, though sources may be opened to learn their fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text
from rich.tree import Tree

from millstream.plan import Exchange, ExchangeKind, Node, PhysicalPlan, Place, Port, Stage, StageKind
from millstream.planner import Ingest
from millstream.specs.base import DEAD_LETTERS, LATE
from millstream.specs.ends import EncodeSpec, ReadSpec

_WHAT: Final = {LATE: "late events ", DEAD_LETTERS: "dead letters "}
"""What moves, where it is not the results of operators."""


def explain(plan: PhysicalPlan, *, asked: Ingest = "auto") -> Tree:
    """The tree that ``millstream explain`` shows.

    Args:
        asked: which way of ingest the user asked for, to say why it runs the way it does.
    """
    tree = Tree(
        Text.assemble((plan.name, "bold"), f": {_workers(plan.workers)}, batches of up to {plan.batch_rows:,} rows")
    )
    tree.add(Text.assemble(("ingest ", "bold"), _ingest(plan, asked)))
    for node in plan.nodes.values():
        if isinstance(node.spec, ReadSpec):
            _add_source(tree, plan, node, node.spec)
    for stage in plan.stages:
        if stage.nodes:
            _add_stage(tree, plan, stage)
    return tree


# --- sources ---


def _ingest(plan: PhysicalPlan, asked: Ingest) -> str:
    where = "in the coordinator" if plan.ingest == "coordinator" else "in the workers"
    if asked == plan.ingest:
        return f"{where}, as asked"
    if asked == "coordinator":
        return (
            f"{where}, although the coordinator was asked for: two of its streams would have to be dealt to the workers"
        )
    specs = [n.spec for n in plan.nodes.values() if isinstance(n.spec, ReadSpec)]
    if plan.ingest == "workers":
        return f"{where}: decoding costs more than all the rest, so the coordinator only cuts the input into blocks"
    if plan.workers == 1 and any(s.source.decoder(None) is not None for s in specs):
        return f"{where}: one worker would decode no faster"
    if any(s.source.live for s in specs):
        return f"{where}: events of a live source come a few at a time"
    return f"{where}: the sources give columns, and there is nothing to decode"


def _add_source(tree: Tree, plan: PhysicalPlan, node: Node, spec: ReadSpec) -> None:
    branch = tree.add(Text.assemble(("source ", "bold"), spec.source.label(), (f"  {node.where}", "dim")))
    partitions = [name for source, name in plan.partitions if source == node.id]
    several = (
        f"{len(partitions)} source partitions, the lowest watermark first"
        if len(partitions) > 1
        else "one source partition"
    )
    branch.add(f"{several}{', live' if spec.source.live else ''}")
    branch.add(f"reads {_fields(plan, node)}")


def _fields(plan: PhysicalPlan, node: Node) -> str:
    names, schema = plan.reads.get(node.id), plan.schemas.get(node.id)
    if names is None or (schema is not None and list(names) == schema.names):
        return "all fields" if schema is None else f"all {len(schema)} fields: {', '.join(schema.names)}"
    whole = schema is not None and set(names) <= set(schema.names)  # else parts of structs are among them
    known = f"{len(names)} of {len(schema)} fields" if schema is not None and whole else f"{len(names)} fields"
    return f"{known}: {', '.join(names)}"


# --- stages ---


def _add_stage(tree: Tree, plan: PhysicalPlan, stage: Stage) -> None:
    branch = tree.add(Text.assemble((f"stage {stage.id} ", "bold"), _place(plan, stage)))
    width = max(len(plan.nodes[n].spec.describe()) for n in stage.nodes)
    for number in stage.nodes:
        node = plan.nodes[number]
        how = node.spec.way
        line = Text.assemble(
            f"{node.spec.describe():<{min(width, 60)}}  ",
            (how, "cyan" if how == "columns" else "yellow"),
            (f"  {node.where}", "dim"),
        )
        leaf = branch.add(line)
        for note in _notes(plan, node):
            leaf.add(Text(note, "dim"))
    for exchange in plan.exchanges:
        for port in dict.fromkeys(p.name for s, p in exchange.outputs if s == stage.id):
            branch.add(Text.assemble(("-> ", "bold"), _WHAT.get(port, ""), _exchange(plan, exchange)))


def _place(plan: PhysicalPlan, stage: Stage) -> str:
    match stage.place:
        case Place.COORDINATOR:
            where = "in the coordinator"
        case Place.WORKERS:
            where = "in the worker" if plan.workers == 1 else f"in each of {plan.workers} workers"
        case Place.ONE_WORKER:
            where = f"in worker {stage.worker % plan.workers}"
        case Place.CALLER:
            where = "in the calling process"
    if stage.kind is StageKind.BLOCKS:
        return f"{where}, block by block"
    keyed = any(plan.nodes[n].spec.keyed for n in stage.nodes)
    return f"{where}, {'each for its share of the keys' if keyed and plan.workers > 1 else 'as rows arrive'}"


def _notes(plan: PhysicalPlan, node: Node) -> Iterator[str]:
    yield from node.spec.notes()
    if (kept := node.spec.unbounded_state) is not None:
        yield kept
    for name in node.spec.late_ports:
        takers = [
            n for n in plan.nodes.values() if Port(node.id, name) in n.inputs and not isinstance(n.spec, EncodeSpec)
        ]
        yield f"{name.replace('_', ' ')} events: {', '.join(n.spec.describe() for n in takers) or 'only counted'}"


def _exchange(plan: PhysicalPlan, exchange: Exchange) -> str:
    target = plan.stages[exchange.to_stage]
    to = f"to stage {target.id}"
    carried = "" if exchange.fields is None or not exchange.fields else f", with {', '.join(exchange.fields)}"
    match exchange.kind:
        case ExchangeKind.KEY:
            keys = ", ".join(
                n if n in e.fields() and len(e.fields()) == 1 and str(e).count("(") == 1 else f"{n}={e}"
                for n, e in exchange.keys
            )
            return f"by key {keys} {to}{carried}"
        case ExchangeKind.BROADCAST:
            return f"every row goes to every worker, {to}{carried}"
        case ExchangeKind.SPREAD:
            return f"batch by batch to whichever worker has room, {to}{carried}"
        case ExchangeKind.DEAL:
            return f"dealt batch by batch {to}{carried}"
        case ExchangeKind.GATHER:
            return f"gathered {to}"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
