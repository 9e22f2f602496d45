"""What a run promises of every event when processes fail, and which part of the flow limits it."""

from __future__ import annotations

from collections.abc import Iterator

from millstream.connectors.base import Guarantee
from millstream.plan import Node, PhysicalPlan
from millstream.specs.ends import ReadSpec, SinkSpec

_ORDER = [Guarantee.EXACTLY_ONCE, Guarantee.AFTER_RECOVERY, Guarantee.AT_LEAST_ONCE]


def end_to_end(plan: PhysicalPlan, *, checkpoints: bool) -> str:
    """The promise of a run, in a sentence."""
    sources = [node.spec.source for node in plan.nodes.values() if isinstance(node.spec, ReadSpec)]
    lossy = [s for s in sources if not s.replayable and not (s.journaled and checkpoints)]
    if lossy:
        what = f"not kept through failures: what {lossy[0].label()} has read cannot be read again"
        return f"{what}, so events since the last checkpoint are lost with a process" if checkpoints else what
    if not checkpoints:
        return "at least once: a failed run starts over, replacing its files (no checkpoints)"
    sinks = list(_sinks(plan))
    weakest = max((s.sink.guarantee for _, s in sinks), key=_ORDER.index)
    journaled = [s.label() for s in sources if not s.replayable]
    but = f"; of {journaled[0]} a coordinator that dies loses what lay in its hands" if journaled else ""
    if weakest is Guarantee.EXACTLY_ONCE:
        return f"exactly once{but}"
    limiting = [spec.sink.label() for _, spec in sinks if spec.sink.guarantee is weakest]
    others = "" if len(limiting) == 1 else f" and {len(limiting) - 1} more"
    return f"{weakest.value}: limited by {limiting[0]}{others}{but}"


def _sinks(plan: PhysicalPlan) -> Iterator[tuple[Node, SinkSpec]]:
    for node in plan.nodes.values():
        if isinstance(node.spec, SinkSpec):
            yield node, node.spec
