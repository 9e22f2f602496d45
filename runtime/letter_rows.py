"""A row as a dead letter keeps it, so that the operator that refused it can be given it again: its columns as an Arrow
IPC stream, with its event time and position beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, IntArray, concat

if TYPE_CHECKING:
    from millstream.operators.base import DeadLetter

_TIME: Final = b"time_us"
_POSITION: Final = b"position"


def encode_row(batch: Batch, row: int) -> bytes:
    """One row of a batch, with its key as fields. A sign is not in it: what makes signs is behind an exchange, and letters
    are given back to nobody behind that."""
    columns = batch.slice(row, 1).all_columns()
    beside = {_TIME: batch.time_us, _POSITION: batch.position}
    columns = columns.replace_schema_metadata({n: str(int(v[row])) for n, v in beside.items() if v is not None})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as stream:
        stream.write_batch(columns)
    return sink.getvalue().to_pybytes()


def decode_row(data: bytes) -> Batch:
    """
    Raises:
        ValueError: this is no row.
    """
    try:
        with pa.ipc.open_stream(data) as stream:
            columns = stream.read_next_batch()
    except (pa.ArrowException, StopIteration) as error:
        raise ValueError(f"not a row: {error}") from error
    if columns.num_rows != 1:
        raise ValueError(f"not a row, but {columns.num_rows}")
    beside = columns.schema.metadata or {}

    def number(name: bytes) -> IntArray | None:
        return np.array([int(beside[name])], np.int64) if name in beside else None

    return Batch(columns.replace_schema_metadata(None), time_us=number(_TIME), position=number(_POSITION))


def rows_of_letters(letters: Sequence[DeadLetter], watermark_us: int) -> list[Batch]:
    """The rows of dead letters of one operator, in their order; those with the same fields together.

    Args:
        watermark_us: of the source partition with whose next block they go on: so far had time come.
    """
    rows = [decode_row(letter.row) for letter in letters]
    alike = groupby(rows, key=lambda row: (row.columns.schema, row.time_us is None, row.position is None))
    return [_stamped(concat([*group]), watermark_us) for _, group in alike]


def _stamped(batch: Batch, watermark_us: int) -> Batch:
    times = batch.time_us
    if times is None or not (times <= watermark_us).any():
        return batch
    return replace(batch, before_us=np.full(len(times), watermark_us, np.int64))
