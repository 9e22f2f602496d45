"""Windows of time: tumbling, hopping, days of a time zone, and sessions.

slices.py     where windows lie: times to slices, slices to windows
aligned.py    tumbling and hopping windows, the same for every key
sessions.py   sessions of each key; parts.py: what belongs together, overdue.py: rows behind
shown.py      what windows have put out that may put out more
panes.py      results on their way out
base.py       what all have in common
"""

from millstream.operators.base import Context, Operator
from millstream.operators.windows.aligned import AlignedWindows
from millstream.operators.windows.sessions import SessionOperator
from millstream.specs.windows import SessionWindows, WindowAggregateSpec


def window_operator(spec: WindowAggregateSpec, context: Context, with_position: bool) -> Operator:
    """The operator for windows of this kind.

    Args:
        with_position: whether something behind it depends on order.
    """
    kind = SessionOperator if isinstance(spec.windows, SessionWindows) else AlignedWindows
    return kind(spec, context, with_position)
