"""Small batches on their way to the same operators, put together: what a batch costs is paid once for all of them.

An exchange by key cuts every block into a piece for each worker, so the pieces are small where blocks are. Operators
with state pay for a batch as such, not only for its rows: for a look into their tables, for a row of each changed key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, Keys, concat, concat_columns
from millstream.grouping import distinct_keys

_Shape = tuple[pa.Schema, pa.Schema | None, bool, bool]


def gathered(batches: Iterable[Batch]) -> list[Batch]:
    """The same rows in the same order, in as few batches as their columns allow."""
    return [_together(list(alike)) for _, alike in groupby(batches, key=_shape)]


def _shape(batch: Batch) -> _Shape:
    """What must be equal for two batches to be put together; types are never widened here."""
    keys = None if batch.keys is None else batch.keys.distinct.schema
    return batch.columns.schema, keys, batch.time_us is None, batch.position is None


def _together(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    keys = [b.keys for b in batches if b.keys is not None]
    together = concat(batches)
    return replace(together, keys=_keys_together(keys)) if keys else together


def _keys_together(keys: Sequence[Keys]) -> Keys:
    """The keys of all rows, those that several batches have once."""
    counts = [k.distinct.num_rows for k in keys]
    columns = concat_columns([k.distinct for k in keys])
    of_each, distinct = distinct_keys(columns.columns)
    starts = np.cumsum([0, *counts[:-1]])
    codes = np.concatenate([k.codes + np.int32(start) for k, start in zip(keys, starts.tolist(), strict=True)])
    return Keys(pa.RecordBatch.from_arrays(distinct, names=columns.schema.names), of_each.astype(np.int32)[codes])
