"""The order of a ranking, as the user says it: ``by=ms.desc("price")``, ``by=[ms.desc("price"), "at"]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from millstream.errors import FlowError
from millstream.expr import Expr, field_expr
from millstream.specs.ranking import SortKey, SortKeys

By: TypeAlias = str | Expr | SortKey | Sequence[str | Expr | SortKey]


def asc(value: str | Expr) -> SortKey:
    """The smallest first; rows without a value come last."""
    return SortKey(field_expr(value))


def desc(value: str | Expr) -> SortKey:
    """The largest first; rows without a value come last."""
    return SortKey(field_expr(value), descending=True)


def sort_keys(where: str, by: By) -> SortKeys:
    """What the user gave as ``by=``; a field or expression alone is ascending.

    Raises:
        FlowError: it is nothing to order rows by.
    """
    given: list[object] = list(by) if isinstance(by, Sequence) and not isinstance(by, str) else [by]
    if not given:
        raise FlowError(f"{where}: by= names at least one field, as in by=ms.desc('price')")
    keys: list[SortKey] = []
    for key in given:
        if not isinstance(key, str | Expr | SortKey):
            raise FlowError(f"{where}: by= takes fields, expressions and ms.desc(...) of them, found {key!r}")
        keys.append(key if isinstance(key, SortKey) else asc(key))
    return tuple(keys)
