"""From the specs of a plan to operators."""

from __future__ import annotations

from millstream.errors import InternalError
from millstream.operators import columnar, python, sinks
from millstream.operators.asynchronous import MapAsync
from millstream.operators.base import Context, Operator
from millstream.operators.decode import Decode
from millstream.operators.event_time import EventTime
from millstream.operators.patterns import MatchPattern
from millstream.operators.running import RunningAggregate
from millstream.operators.scan import Scan
from millstream.operators.sliding import Sliding
from millstream.operators.windows import WindowAggregate
from millstream.plan import PhysicalPlan
from millstream.specs.asynchronous import MapAsyncSpec
from millstream.specs.columns import (
    DropSpec,
    ExplodeSpec,
    FilterSpec,
    RenameSpec,
    SelectSpec,
    UnionSpec,
    WithColumnsSpec,
)
from millstream.specs.ends import EncodeSpec, EventTimeSpec, ReadSpec, SinkSpec
from millstream.specs.functions import HandlersSpec, MapBatchesSpec, RowFunctionSpec
from millstream.specs.keyed import RunningAggregateSpec, ScanSpec
from millstream.specs.patterns import MatchSpec
from millstream.specs.sliding import SlidingSpec
from millstream.specs.windows import WindowAggregateSpec
from millstream.topology import Topology


def make_operator(plan: PhysicalPlan, node: int, context: Context) -> Operator:
    """The operator of a node, in the process that runs it."""
    spec = plan.nodes[node].spec
    match spec:
        case ReadSpec():
            return Decode(spec, context, plan.reads[node], plan.needs_position)
        case FilterSpec():
            return columnar.Filter(spec, context)
        case SelectSpec():
            return columnar.Select(spec, context)
        case WithColumnsSpec():
            return columnar.WithColumns(spec, context)
        case DropSpec():
            return columnar.Drop(spec, context)
        case RenameSpec():
            return columnar.Rename(spec, context)
        case ExplodeSpec():
            return columnar.Explode(spec, context)
        case UnionSpec():
            return columnar.Union(spec, context, plan.schemas[node])
        case EventTimeSpec():
            return EventTime(spec, context, Topology(plan).is_live(node))
        case RowFunctionSpec():
            return python.RowFunction(spec, context)
        case MapBatchesSpec():
            return python.MapBatches(spec, context)
        case MatchSpec():
            return MatchPattern(spec, context)
        case MapAsyncSpec():
            return MapAsync(spec, context)
        case HandlersSpec():
            return python.Handlers(spec, context)
        case WindowAggregateSpec():
            return WindowAggregate(spec, context, plan.needs_position)
        case SlidingSpec():
            return Sliding(spec, context)
        case RunningAggregateSpec():
            return RunningAggregate(spec, context)
        case ScanSpec():
            return Scan(spec, context)
        case EncodeSpec():
            return sinks.Encode(spec, context)
        case SinkSpec():
            return sinks.WriteSink(spec, context)
    raise InternalError(f"{context.name}: no operator for {type(spec).__name__}")
