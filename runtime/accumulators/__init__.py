"""Columnar accumulators: what computes the aggregates of `millstream.aggregates`, batch by batch.

A batch is reduced to one row of accumulator columns for each group (`partial`), such rows of several
batches are merged by group (`combine`), in any order and any nesting, and `results` makes the answer:

    columns.py      a column: NumPy or Arrow; take, concat, nbytes
    part.py         a part: a few columns that merge by group
    numeric.py      count, sum, min, max, mean, variance of numbers; wide.py: exact sums beyond 64 bits
    ordered.py      first, last, arg_min, arg_max; min and max of text and decimals
    collections.py  count_distinct, collect; distinct.py: count_distinct of what is kept for ever
    ranked.py       the best rows; sorting.py: the order of the rows of many groups
    user.py         the user's own functions
    signed.py       aggregates from which rows can be taken back; double_double.py: their sums of doubles
    planner.py      from aggregates to parts, each once
"""

from millstream.accumulators.columns import Column, RowOrder, as_column, concat, nbytes, retype, take, to_arrow
from millstream.accumulators.planner import Accumulator, AccumulatorSet, distinct_inputs, make_accumulator
from millstream.grouping import Groups

__all__ = [
    "Accumulator",
    "AccumulatorSet",
    "Column",
    "Groups",
    "RowOrder",
    "as_column",
    "concat",
    "distinct_inputs",
    "make_accumulator",
    "nbytes",
    "retype",
    "take",
    "to_arrow",
]
