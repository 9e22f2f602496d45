"""What came of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from millstream.plan import PhysicalPlan
from millstream.specs.ends import ReadSpec, SinkSpec


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run that went well.

    Attributes:
        seconds: from the first read to the last commit; starting processes is not in it.
        events_in: records read from all sources, those that could not be decoded included.
        rows_out: rows written to all sinks, late events to the places of their own not included.
        late: events that came after all of their windows had expired.
        dead_letters: records that could not be processed.
        unmatched: events of a type that no handler was subscribed to.
        skipped: events on which a function with ``on_error="skip"`` raised.
        retried: events for which a function that raised was called again (`millstream.retry`), once for each time.
        tables: what ``collect()`` brought back, by name.
        operators: the counters of each operator, over all processes.
        dead_letter_path: the directory of the dead letters, when there are any.
        late_path: the directory of late events that the flow did not consume, when there are any.
        interrupted: whether it was told to stop before its input ended.
        stopped_at: the checkpoint at which it was stopped, and from which it goes on when it is run again.
        guarantee: what it promised of every event, and which part of the flow limits that.
        letters: of `Flow.run_here` without a state directory, the first dead letters; else they are in files.
    """

    flow: str
    seconds: float
    events_in: int
    rows_out: int
    late: int
    dead_letters: int
    unmatched: int
    tables: dict[str, pa.Table] = field(default_factory=dict)
    operators: dict[str, dict[str, int]] = field(default_factory=dict)
    dead_letter_path: Path | None = None
    late_path: Path | None = None
    interrupted: bool = False
    stopped_at: int | None = None
    guarantee: str = ""
    letters: tuple[dict[str, Any], ...] = ()
    skipped: int = 0
    retried: int = 0


def operator_totals(processes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """The counters of each operator, added up over the processes that run a part of it."""
    totals: dict[str, dict[str, int]] = {}
    for figures in processes.values():
        for name, counters in figures.get("operators", {}).items():
            total = totals.setdefault(name, {})
            for key, value in counters.items():
                total[key] = total.get(key, 0) + value
    return totals


def make_result(
    plan: PhysicalPlan, processes: Mapping[str, Mapping[str, Any]], *, seconds: float, tables: dict[str, pa.Table],
    state: Path | None, interrupted: bool, stopped_at: int | None = None, guarantee: str = "",
) -> RunResult:  # fmt: skip
    totals = operator_totals(processes)
    sources = [n.name for n in plan.nodes.values() if isinstance(n.spec, ReadSpec)]
    sinks = [n.name for n in plan.nodes.values() if isinstance(n.spec, SinkSpec) and not n.spec.takes_what_is_there]

    def everywhere(key: str) -> int:
        return sum(t.get(key, 0) for t in totals.values())

    late, dead = everywhere("late"), everywhere("dead_letters")
    kept_late = state is not None and any(
        isinstance(n.spec, SinkSpec) and n.spec.takes_what_is_there for n in plan.nodes.values()
    )
    return RunResult(
        flow=plan.name,
        seconds=seconds,
        events_in=sum(totals.get(n, {}).get("rows_in", 0) for n in sources),
        rows_out=sum(totals.get(n, {}).get("rows_out", 0) for n in sinks),
        late=late,
        dead_letters=dead,
        unmatched=everywhere("unmatched"),
        skipped=everywhere("skipped"),
        retried=everywhere("retried"),
        tables=tables,
        operators=totals,
        dead_letter_path=state / "dead-letters" if state is not None and dead else None,
        late_path=state / "late" if state is not None and late and kept_late else None,
        interrupted=interrupted,
        stopped_at=stopped_at,
        guarantee=guarantee,
    )
