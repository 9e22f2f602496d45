"""Which receiver a row goes to: by key, all to one, or a whole batch to whoever has room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from millstream.batch import Array, Batch, CodeArray, Keys, index_array, make_columns
from millstream.grouping import distinct_keys
from millstream.keys import group_owners, hash_keys, key_groups
from millstream.meters import KeySketch
from millstream.operators.base import Context, naming
from millstream.operators.columnar import evaluate_all
from millstream.specs.base import Named


class KeyPartitioner:
    """Splits batches by the owner of each row's key, and gives each row its key.

    The distinct keys of a batch are found once, hashed once, and travel once; rows carry codes.

    Args:
        keys: the key fields, as expressions over the batch.
        fields: the columns to send beside the keys; None: all.
        workers: how many receivers there are.
        keyed: rows come with their keys.

    Attributes:
        sketch: the keys with the most rows. Of rows that come with their keys nothing is known here: they may be groups.
    """

    def __init__(
        self, keys: Named, fields: Sequence[str] | None, workers: int, context: Context, keyed: bool = False
    ) -> None:
        self.keys = keys
        self.fields = fields
        self.workers = workers
        self.context = context
        self.keyed = keyed
        self.sketch = KeySketch()
        self.owners = group_owners(workers).astype(np.uint8 if workers <= 256 else np.uint16)

    def split(self, batch: Batch) -> list[tuple[int, Batch]]:
        """The part of each receiver that gets rows, in the order of the batch."""
        if not self.keyed:
            batch = with_keys(batch, self.keys, self.context)
        if batch.num_rows == 0:
            return []
        assert batch.keys is not None
        if not self.keyed:
            self.sketch.offer(batch.keys)
        return self._parts(batch)

    def split_again(self, batch: Batch) -> list[tuple[int, Batch]]:
        """The same for rows that have been split before, and have their keys among their fields."""
        names = [name for name, _ in self.keys]
        return self._parts(_keyed(batch, names, [batch.columns.column(name) for name in names]))

    def _parts(self, batch: Batch) -> list[tuple[int, Batch]]:
        assert batch.keys is not None
        codes, distinct = batch.keys.codes, batch.keys.distinct
        if self.fields is not None:
            batch = batch.with_columns(
                batch.columns.select([f for f in batch.columns.schema.names if f in self.fields])
            )
        if self.workers == 1:
            return [(0, batch)]
        return self._by_owner(batch, distinct, codes)

    def _by_owner(self, batch: Batch, distinct: pa.RecordBatch, codes: CodeArray) -> list[tuple[int, Batch]]:
        key_owner = self.owners[key_groups(hash_keys(distinct.columns))]
        row_owner = key_owner[codes]
        counts = np.bincount(row_owner, minlength=self.workers)
        if counts.max() == batch.num_rows:
            return [(int(row_owner[0]), batch)]
        # Sorting by an 8-bit owner is a radix pass; it is stable, so each key's rows keep their order.
        order = np.argsort(row_owner, kind="stable")
        batch, codes = replace(batch, keys=None).take(order), codes[order]
        renumbered = np.empty(distinct.num_rows, np.int32)
        parts: list[tuple[int, Batch]] = []
        start = 0
        for worker, count in enumerate(counts.tolist()):
            if count:
                mine = np.flatnonzero(key_owner == worker)
                renumbered[mine] = np.arange(len(mine), dtype=np.int32)
                keys = Keys(distinct.take(index_array(mine)), renumbered[codes[start : start + count]])
                parts.append((worker, replace(batch.slice(start, count), keys=keys)))
            start += count
        return parts


def with_keys(batch: Batch, keys: Named, context: Context) -> Batch:
    """The rows with their keys; those whose key cannot be computed are dead letters."""
    with naming(context.name):
        arrays, batch = evaluate_all(keys, batch, context)
    if batch.num_rows == 0:
        return batch
    return _keyed(batch, [name for name, _ in keys], arrays)


def _keyed(batch: Batch, names: Sequence[str], arrays: Sequence[Array]) -> Batch:
    codes, distinct = distinct_keys(arrays)
    return replace(batch, keys=Keys(make_columns(names, distinct), codes.astype(np.int32, copy=False)))
