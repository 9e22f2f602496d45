"""A join by itself: no plan, no other operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, Keys, index_array, make_columns
from millstream.grouping import factorize
from millstream.operators.base import Context
from millstream.operators.joins.as_of import AsOfJoin
from millstream.operators.joins.base import JoinOperator
from millstream.operators.joins.interval import IntervalJoin
from millstream.operators.joins.updating import UpdatingJoin
from millstream.operators.joins.window import WindowJoin
from millstream.specs.base import MAIN
from millstream.specs.joins import (
    LATE_LEFT,
    LATE_RIGHT,
    AsOfJoinSpec,
    IntervalJoinSpec,
    JoinKind,
    JoinSpec,
    UpdatingJoinSpec,
    WindowJoinSpec,
    joined_fields,
)
from millstream.specs.windows import Windows

ON = (("k", "k"),)
PORTS = frozenset((MAIN, LATE_LEFT, LATE_RIGHT))


JOINS: dict[str, dict[str, Any]] = {
    "interval": {"operator": IntervalJoin, "spec": IntervalJoinSpec, "how": "full", "lower_us": -10, "upper_us": 20},
    "updating": {"operator": UpdatingJoin, "spec": UpdatingJoinSpec, "how": "full"},
    "taking back": {
        "operator": UpdatingJoin, "spec": UpdatingJoinSpec, "how": "full", "ttl_us": 50, "retracts": (True, True),
    },
    "final": {"operator": UpdatingJoin, "spec": UpdatingJoinSpec, "how": "full", "final": True},
    "semi": {"operator": UpdatingJoin, "spec": UpdatingJoinSpec, "how": "semi"},
    "window": {"operator": WindowJoin, "spec": WindowJoinSpec, "how": "full", "windows": Windows(30, 10)},
    "as of": {"operator": AsOfJoin, "spec": AsOfJoinSpec, "how": "left"},
}  # fmt: skip
"""Settings of a `Driver` for every kind of join that keeps rows."""


class Driver:
    """A join by itself: batches and watermarks in, rows out."""

    def __init__(
        self,
        operator: type[Any],
        spec: type[JoinSpec],
        how: str,
        *,
        worker: int = 0,
        workers: int = 1,
        on: tuple[tuple[str, str], ...] = ON,
        **settings: Any,
    ) -> None:
        left, right = (
            pa.schema([("k", pa.int64()), ("a", pa.int64())]),
            pa.schema([("k", pa.int64()), ("b", pa.int64())]),
        )
        kind = JoinKind(how)
        fields = joined_fields("join", left, right, on, kind, "_right")
        context = Context("join", worker, workers, lambda: 0, lambda letter: None, PORTS)
        self.operator: JoinOperator = operator(spec(kind, on=on, fields=fields, **settings), context)
        self.batches: list[Batch] = []

    def rows(
        self,
        port: int,
        rows: Sequence[tuple[int, int]],
        *,
        before: int | None = None,
        signs: Sequence[int] | None = None,
    ) -> list[dict[str, Any]]:
        """Rows (key, time) of one side; ``a`` or ``b`` is the time."""
        time_us = np.array([t for _, t in rows], np.int64)
        key = pa.array([k for k, _ in rows])
        codes, first = factorize([key])
        batch = Batch(
            make_columns(["b" if port else "a"], [pa.array(time_us)]),
            time_us,
            None if before is None else np.full(len(rows), before),
            np.arange(len(rows)),
            Keys(make_columns(["k"], [key.take(index_array(first))]), codes.astype(np.int32)),
            None if signs is None else np.array(signs, np.int8),
        )
        return self._take(self.operator.on_batch(batch, port))

    def watermark(self, watermark_us: int) -> list[dict[str, Any]]:
        return self._take(self.operator.on_watermark(watermark_us))

    def _take(self, produced: Any) -> list[dict[str, Any]]:
        out = [o for o in produced if o is not None]
        self.batches += [batch for name, batch in out if name == MAIN]
        return [
            {**row, "port": name} if name != MAIN else row for name, batch in out for row in batch.columns.to_pylist()
        ]

    @property
    def kept(self) -> tuple[int, int]:
        left, right = self.operator.sides
        return len(left), len(right)
