"""From the specs of a plan to operators."""

from __future__ import annotations

from millstream.errors import InternalError
from millstream.operators import columnar, python, sinks
from millstream.operators.base import Context, Operator
from millstream.operators.counting import CountWindow
from millstream.operators.dead_letters import DeadLetters
from millstream.operators.decode import Decode
from millstream.operators.dedupe import Dedupe, FirstInOrder
from millstream.operators.event_time import EventTime
from millstream.operators.expiring import ExpiringAggregate
from millstream.operators.free_windows import CustomWindow, GlobalWindow
from millstream.operators.grouped import GroupRows
from millstream.operators.joins.as_of import AsOfJoin
from millstream.operators.joins.interval import IntervalJoin
from millstream.operators.joins.lookup import Lookup
from millstream.operators.joins.session import SessionJoin
from millstream.operators.joins.updating import UpdatingJoin
from millstream.operators.joins.window import WindowJoin
from millstream.operators.merged import MergedRunning, MergedWindows
from millstream.operators.patterns import MatchPattern
from millstream.operators.previous import WithPrevious
from millstream.operators.process import ProcessOperator
from millstream.operators.running import RunningAggregate
from millstream.operators.scan import Scan
from millstream.operators.sliding import Sliding
from millstream.operators.top_n import TopN
from millstream.operators.window_functions import WindowFunction
from millstream.operators.window_rows import WindowRows
from millstream.operators.windows import window_operator
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
from millstream.specs.counting import CountWindowSpec
from millstream.specs.dead_letters import DeadLettersSpec
from millstream.specs.ends import EncodeSpec, EventTimeSpec, ReadSpec, SinkSpec
from millstream.specs.expiring import ExpiringAggregateSpec
from millstream.specs.free_windows import CustomWindows, GlobalWindows
from millstream.specs.functions import HandlersSpec, MapBatchesSpec, RowFunctionSpec
from millstream.specs.groups import GroupRowsSpec, MergedRunningSpec, MergedWindowsSpec
from millstream.specs.joins import AsOfJoinSpec, IntervalJoinSpec, SessionJoinSpec, UpdatingJoinSpec, WindowJoinSpec
from millstream.specs.keyed import RunningAggregateSpec, ScanSpec
from millstream.specs.lookup import LookupSpec
from millstream.specs.patterns import MatchSpec
from millstream.specs.previous import WithPreviousSpec
from millstream.specs.process import ProcessSpec
from millstream.specs.ranking import DedupeSpec, FirstSpec, TopNSpec, WindowRowsSpec
from millstream.specs.sliding import SlidingSpec
from millstream.specs.window_functions import WindowFunctionSpec
from millstream.specs.windows import WindowAggregateSpec
from millstream.topology import Topology


def make_operator(plan: PhysicalPlan, node: int, context: Context) -> Operator:
    """The operator of a node, in the process that runs it."""
    spec = plan.nodes[node].spec
    match spec:
        case DeadLettersSpec():
            return DeadLetters(context)
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
            # It takes asyncio with it, for which runs without it should not wait.
            from millstream.operators.asynchronous import MapAsync

            return MapAsync(spec, context)
        case HandlersSpec():
            return python.Handlers(spec, context)
        case GroupRowsSpec():
            return GroupRows(spec, context)
        case MergedWindowsSpec():
            return MergedWindows(spec, context, plan.needs_position)
        case MergedRunningSpec():
            return MergedRunning(spec, context, plan.needs_position)
        case WindowAggregateSpec():
            if isinstance(spec.windows, GlobalWindows):
                return GlobalWindow(spec, context, plan.needs_position)
            if isinstance(spec.windows, CustomWindows):
                return CustomWindow(spec, context, plan.needs_position)
            return window_operator(spec, context, plan.needs_position)
        case WindowFunctionSpec():
            return WindowFunction(spec, context)
        case WithPreviousSpec():
            return WithPrevious(spec, context)
        case CountWindowSpec():
            return CountWindow(spec, context)
        case SlidingSpec():
            return Sliding(spec, context)
        case RunningAggregateSpec():
            return RunningAggregate(spec, context, plan.needs_position)
        case TopNSpec():
            return TopN(spec, context)
        case WindowRowsSpec():
            return WindowRows(spec, context)
        case DedupeSpec():
            return Dedupe(spec, context)
        case FirstSpec():
            return FirstInOrder(spec, context)
        case ExpiringAggregateSpec():
            return ExpiringAggregate(spec, context, plan.needs_position)
        case ScanSpec():
            return Scan(spec, context)
        case ProcessSpec():
            return ProcessOperator(spec, context, plan.needs_position)
        case LookupSpec():
            return Lookup(spec, context)
        case IntervalJoinSpec():
            return IntervalJoin(spec, context, plan.needs_position)
        case UpdatingJoinSpec():
            return UpdatingJoin(spec, context, plan.needs_position)
        case WindowJoinSpec():
            return WindowJoin(spec, context, plan.needs_position)
        case SessionJoinSpec():
            return SessionJoin(spec, context, plan.needs_position)
        case AsOfJoinSpec():
            return AsOfJoin(spec, context, plan.needs_position)
        case EncodeSpec():
            return sinks.Encode(spec, context)
        case SinkSpec():
            return sinks.WriteSink(spec, context)
    raise InternalError(f"{context.name}: no operator for {type(spec).__name__}")
