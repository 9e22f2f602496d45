"""What a run came to, in a few lines: counts, where results are, and where everything else went.

Nothing that did not become a result goes unmentioned: late events, dead letters and unmatched events are
named with the place where they can be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.text import Text

from millstream.coordinator.progress import count_text, rate_text, span_text
from millstream.flow import Flow
from millstream.plan import Node, Port
from millstream.result import RunResult
from millstream.specs.ends import SinkSpec

_INDENT = "  "


def summary(flow: Flow, result: RunResult) -> Text:
    """The last thing that ``millstream run`` shows."""
    text = Text("\n").join([_headline(result), *_sinks(flow, result), *_elsewhere(flow, result), _guarantee(result)])
    text.no_wrap = True
    return text


def _headline(result: RunResult) -> Text:
    outcome = ("stopped early", "bold yellow") if result.interrupted else ("done", "bold green")
    rate = rate_text(result.events_in / result.seconds) if result.seconds > 0 else "-"
    return Text.assemble(
        (result.flow, "bold"), " ", outcome, f" in {span_text(result.seconds)}: ",
        (count_text(result.events_in), "bold"), f" events in ({rate}), ",
        (count_text(result.rows_out), "bold"), " rows out",
    )  # fmt: skip


def _sinks(flow: Flow, result: RunResult) -> Iterator[Text]:
    sinks = [(n, n.spec.sink.label()) for n in flow.nodes if isinstance(n.spec, SinkSpec)]
    width = max(len(label) for _, label in sinks)
    for node, label in sinks:
        rows = result.operators.get(node.name, {}).get("rows_out", 0)
        yield Text(f"{_INDENT}{label:<{width}}  {count_text(rows)} rows")


def _elsewhere(flow: Flow, result: RunResult) -> Iterator[Text]:
    if result.late:
        places = [str(result.late_path)] if result.late_path is not None else []
        places += [n.spec.sink.label() for n in _late_sinks(flow) if isinstance(n.spec, SinkSpec)]
        yield _remark("late event", result.late, ", ".join(places) or "counted only")
    if result.dead_letters:
        where = "counted only" if result.dead_letter_path is None else str(result.dead_letter_path)
        yield _remark("dead letter", result.dead_letters, where)
    if result.unmatched:
        yield _remark("unmatched event", result.unmatched, "of a type that no handler is subscribed to")
    if result.skipped:
        yield _remark("skipped event", result.skipped, "functions with on_error='skip' raised on them")
    if result.retried:
        yield _remark("repeated call", result.retried, "functions that had raised were called again for an event")


def _remark(what: str, count: int, where: str) -> Text:
    return Text.assemble(_INDENT, (f"{count_text(count)} {what}{'' if count == 1 else 's'}", "yellow"), f": {where}")


def _late_sinks(flow: Flow) -> Iterable[Node]:
    """The sinks behind the late outputs that the flow itself consumes."""
    behind: set[Port] = {p for n in flow.nodes for p in n.inputs if p.name in flow.nodes[p.node].spec.late_ports}
    for node in flow.nodes:
        if not behind.isdisjoint(node.inputs):
            behind.add(Port(node.id))
            if isinstance(node.spec, SinkSpec):
                yield node


def _guarantee(result: RunResult) -> Text:
    if result.stopped_at is not None:
        return Text(f"{_INDENT}stopped at checkpoint {result.stopped_at}; run it again to go on from there", "dim")
    if result.interrupted:
        return Text(f"{_INDENT}results cover the events that were read until then", "dim")
    return Text(f"{_INDENT}{result.guarantee}", "dim")
