"""Arguments that several methods of keyed streams and windows take: each is checked here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping

from millstream.aggregates import Aggregate
from millstream.errors import FlowError
from millstream.operators.aggregation import shipped
from millstream.times import Duration, positive_us


def is_final(where: str, emit: str) -> bool:
    if emit not in ("updates", "final"):
        raise FlowError(f"{where}: emit={emit!r} is neither 'updates' nor 'final'")
    return emit == "final"


def row_count(where: str, n: int) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise FlowError(f"{where}: n={n!r}: say how many rows of each key, at least 1")
    return n


def all_ties(where: str, ties: str) -> bool:
    if ties not in ("first", "all"):
        raise FlowError(f"{where}: ties={ties!r} is neither 'first' nor 'all'")
    return ties == "all"


def span_us(where: str, name: str, value: Duration) -> int:
    return positive_us(value, where, f"{name}={value!r}")


def checked_aggregates(where: str, aggregates: Mapping[str, Aggregate]) -> tuple[tuple[str, Aggregate], ...]:
    if not aggregates:
        raise FlowError(f"{where} agg: name at least one aggregate, as in agg(events=ms.count())")
    for name, aggregate in aggregates.items():
        if not isinstance(aggregate, Aggregate):
            raise FlowError(f"{where} agg: {name}= takes an aggregate such as ms.sum('x'), found {aggregate!r}")
    return tuple((name, shipped(aggregate)) for name, aggregate in aggregates.items())
