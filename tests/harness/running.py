"""Running a flow inside a test: any number of workers, any batch size, either way of ingest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from millstream.connectors import CollectSink
from millstream.connectors.caller import CollectWriter
from millstream.coordinator.local import LocalRun
from millstream.flow import Flow
from millstream.operators.base import DeadLetter
from millstream.operators.sinks import WriteSink
from millstream.plan import PhysicalPlan
from millstream.planner import Ingest, make_plan
from millstream.runner import Runner
from millstream.specs.ends import SinkSpec
from millstream.two_phase import TwoPhase

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """One way of running a flow: nothing that may change its answer."""

    workers: int = 1
    batch_rows: int = 65_536
    ingest: Ingest = "coordinator"
    two_phase: TwoPhase = "auto"


@dataclass(frozen=True)
class Outcome:
    """What came of a run: rows by the name of their ``collect``, and dead letters, each in order of arrival."""

    rows: dict[str, Rows]
    dead: list[DeadLetter]
    late: int


def run(flow: Flow, way: Way = Way()) -> Outcome:  # noqa: B008  (frozen)
    letters: list[DeadLetter] = []
    plan = make_plan(flow, workers=way.workers, batch_rows=way.batch_rows, ingest=way.ingest, two_phase=way.two_phase)
    local = LocalRun(plan, letters.append)
    local.run()
    runners = [local.coordinator.runner, local.caller, *(w.runner for w in local.workers.values())]
    return Outcome(collected(plan, local.caller), letters, late_count(runners))


def late_count(runners: list[Runner]) -> int:
    return sum(o.context.counters.late for r in runners for s in r.stages.values() for o in s.operators.values())


def collected(plan: PhysicalPlan, caller: Runner) -> dict[str, Rows]:
    """The rows of every ``collect``, from the operators of the calling process."""
    tables: dict[str, Rows] = {}
    for stage in caller.stages.values():
        for node, operator in stage.operators.items():
            spec = plan.nodes[node].spec
            if isinstance(spec, SinkSpec) and isinstance(spec.sink, CollectSink) and isinstance(operator, WriteSink):
                writer = operator.writer
                table = writer.table() if isinstance(writer, CollectWriter) else pa.table({})
                tables[spec.sink.name] = table.to_pylist()
    return tables
