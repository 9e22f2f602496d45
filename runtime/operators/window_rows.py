"""From panes that hold the best rows of their window, best first, to those rows."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Batch, make_columns
from millstream.operators.base import Context, Operator, Output
from millstream.specs.base import MAIN
from millstream.specs.ranking import WINDOW_BEST, WindowRowsSpec, check_apart


class WindowRows(Operator):
    def __init__(self, spec: WindowRowsSpec, context: Context) -> None:
        super().__init__(context)
        self.spec = spec

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        lists = batch.columns.column(WINDOW_BEST)
        rows = pc.list_flatten(lists)
        if len(rows) == 0:
            return
        assert isinstance(rows, pa.StructArray)
        event, rank = rows.flatten()
        assert isinstance(event, pa.StructArray)
        check_apart(self.context.name, list(event.type))
        names = [n for n in batch.columns.schema.names if n != WINDOW_BEST]
        pane = batch.with_columns(batch.columns.select(names))
        pane = pane.take(pc.list_parent_indices(lists).to_numpy(zero_copy_only=False))
        fields = {f.name: values for f, values in zip(event.type, event.flatten(), strict=True) if f.name not in names}
        if self.spec.rank is not None:
            fields[self.spec.rank] = rank
        columns = make_columns([*names, *fields], [*pane.columns.columns, *fields.values()])
        yield MAIN, pane.with_columns(columns)
