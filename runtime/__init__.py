"""Millstream: a stream processor for Python, on all cores of one machine.

    import millstream as ms
    from millstream import col

    flow = ms.Flow("errors")
    lines = flow.read_jsonl("log.jsonl").event_time("at", out_of_orderness="10s")
    counts = lines.filter(col("level") == "error").key_by("service").window(ms.tumbling("1m")).agg(errors=ms.count())
    counts.write_jsonl("out/errors.jsonl")

``millstream run errors.py --workers 4`` runs it; so do ``flow.run(workers=4)`` and, in this process and
without sockets, ``flow.run_here()``.
"""

# count, sum, min, max and the like are read as ms.max(...): the names are those of SQL and Polars.
from millstream.aggregates import (
    Aggregate,
    aggregate,
    arg_max,
    arg_min,
    collect,
    count,
    count_distinct,
    first,
    last,
    max,
    mean,
    min,
    stddev,
    sum,
    variance,
)
from millstream.connectors.base import Sink, Source
from millstream.errors import (
    CheckpointError,
    FlowError,
    InternalError,
    MillstreamError,
    ProcessError,
    SchemaError,
    SinkError,
    SourceError,
    TooManyErrors,
    UnboundedStateWarning,
    UserCodeError,
)
from millstream.expr import Expr, coalesce, col, concat_str, from_epoch, lit, max_horizontal, min_horizontal, when
from millstream.flow import Flow
from millstream.joins import JoinResult
from millstream.keyed import KeyedStream
from millstream.keyed_results import ProcessResult, RunningResult
from millstream.patterns import Pattern, pattern
from millstream.previous import delta, lag, lead, rate
from millstream.processing import Process, ProcessContext, Timer
from millstream.ranking import asc, desc
from millstream.result import RunResult
from millstream.rows import Row
from millstream.specs.on_error import ErrorPolicy, retry
from millstream.specs.window_functions import Window
from millstream.state_handles import ListState, MapState, ValueState, list_state, map_state, value_state
from millstream.streams import HandledStream, Stream
from millstream.windowed import WindowedStream, WindowResult
from millstream.windows import (
    count_window,
    custom_windows,
    every,
    every_change,
    every_count,
    global_window,
    hopping,
    session,
    sliding,
    tumbling,
)

__version__ = "0.1.0"

__all__ = [
    "Aggregate",
    "CheckpointError",
    "ErrorPolicy",
    "Expr",
    "Flow",
    "FlowError",
    "HandledStream",
    "InternalError",
    "JoinResult",
    "KeyedStream",
    "ListState",
    "MapState",
    "MillstreamError",
    "Pattern",
    "Process",
    "ProcessContext",
    "ProcessError",
    "ProcessResult",
    "Row",
    "RunResult",
    "RunningResult",
    "SchemaError",
    "Sink",
    "SinkError",
    "Source",
    "SourceError",
    "Stream",
    "Timer",
    "TooManyErrors",
    "UnboundedStateWarning",
    "UserCodeError",
    "ValueState",
    "Window",
    "WindowResult",
    "WindowedStream",
    "__version__",
    "aggregate",
    "arg_max",
    "arg_min",
    "asc",
    "coalesce",
    "col",
    "collect",
    "concat_str",
    "count",
    "count_distinct",
    "count_window",
    "custom_windows",
    "delta",
    "desc",
    "every",
    "every_change",
    "every_count",
    "first",
    "from_epoch",
    "global_window",
    "hopping",
    "lag",
    "last",
    "lead",
    "list_state",
    "lit",
    "map_state",
    "max",
    "max_horizontal",
    "mean",
    "min",
    "min_horizontal",
    "pattern",
    "rate",
    "retry",
    "session",
    "sliding",
    "stddev",
    "sum",
    "tumbling",
    "value_state",
    "variance",
    "when",
]
