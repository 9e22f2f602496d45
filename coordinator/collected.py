"""Rows that ``collect()`` brings back to the caller: where checkpoints keep them, and the tables in the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from millstream.connectors.caller import CollectSink, CollectWriter
from millstream.coordinator.caller import Caller
from millstream.operators.sinks import WriteSink
from millstream.plan import PhysicalPlan
from millstream.specs.ends import SinkSpec


def keeping_collected(plan: PhysicalPlan, folder: Path) -> PhysicalPlan:
    """The plan, with a place for rows that are collected and that checkpoints count."""
    nodes = dict(plan.nodes)
    for number, node in plan.nodes.items():
        if isinstance(node.spec, SinkSpec) and isinstance(node.spec.sink, CollectSink):
            sink = replace(node.spec.sink, folder=folder / node.name)
            nodes[number] = replace(node, spec=replace(node.spec, sink=sink))
    return replace(plan, nodes=nodes)


def collected_tables(plan: PhysicalPlan, caller: Caller) -> dict[str, pa.Table]:
    tables: dict[str, pa.Table] = {}
    for stage in caller.stages.values():
        for node, operator in stage.operators.items():
            spec = plan.nodes[node].spec
            if isinstance(spec, SinkSpec) and isinstance(spec.sink, CollectSink):
                assert isinstance(operator, WriteSink)
                writer = operator.writer
                tables[spec.sink.name or plan.nodes[node].name] = (
                    writer.table() if isinstance(writer, CollectWriter) else pa.table({})
                )
    return tables
