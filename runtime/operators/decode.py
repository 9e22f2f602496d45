"""Decoding: from the blocks of a source to batches, and bad records to the dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, concat_columns
from millstream.connectors.base import Block
from millstream.connectors.blocks import split_mark, with_mark
from millstream.connectors.text import as_bytes
from millstream.operators.base import Context, DeadLetter, Operator, Output
from millstream.specs.base import MAIN
from millstream.specs.ends import ReadSpec

ROW_BITS: Final = 20
SEQUENCE_BITS: Final = 33
"""A row's position: 10 bits of source partition, 33 of block, 20 of row. At 200 blocks a second: 16 months."""


class Decode(Operator):
    """The first operator behind a source, in the coordinator or in a worker.

    Args:
        fields: what the plan reads; None: all.
        needs_position: whether rows get a position.
    """

    def __init__(self, spec: ReadSpec, context: Context, fields: Sequence[str] | None, needs_position: bool) -> None:
        super().__init__(context)
        self.source = spec.source
        self.decoder = spec.source.decoder(fields)
        self.fields = fields
        self.needs_position = needs_position
        self.first_sequences: dict[int, int] = {}
        """By source partition, the blocks that were read before this life of the run: positions grow through all lives."""

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        yield MAIN, batch

    def on_block(self, block: Block, partition: int, sequence: int) -> Iterator[Output]:
        yield from self._rows(self._columns(block), partition, sequence)

    def on_letters(self, letters: Sequence[DeadLetter], partition: int, sequence: int) -> Iterator[Output]:
        """Records that could not be decoded, once more; each by itself, since one may have been taken for several."""
        assert self.decoder is not None
        parts: list[pa.RecordBatch] = []
        for letter in letters:
            record = letter.record.encode() if isinstance(letter.record, str) else letter.record
            self.context.replayed = letter.replayed + 1
            decoded = self.decoder.decode(with_mark(letter.header, self.source.as_block(record)))
            for bad in decoded.bad:
                self.context.counters.rows_in += 1
                self.context.reject(
                    bad.reason, bad.raw, letter.origin, letter.line, letter.offset, header=letter.header
                )
            parts.append(decoded.columns)
        self.context.replayed = 0
        yield from self._rows(concat_columns(parts), partition, sequence)

    def _rows(self, columns: pa.RecordBatch, partition: int, sequence: int) -> Iterator[Output]:
        if columns.num_rows == 0:
            return
        self.context.counters.rows_in += columns.num_rows
        position = None
        if self.needs_position:
            number = self.first_sequences.get(partition, 0) + sequence
            start = (partition << (ROW_BITS + SEQUENCE_BITS)) | (number << ROW_BITS)
            position = np.arange(start, start + columns.num_rows)
        yield MAIN, Batch(columns, position=position)

    def _columns(self, block: Block) -> pa.RecordBatch:
        payload = block.payload
        if isinstance(payload, pa.RecordBatch):
            return payload if self.fields is None else self._read_of(payload, self.fields)
        assert self.decoder is not None
        text = block.text()
        columns, bad = self.decoder.decode(text)
        header = (split_mark(as_bytes(text))[0] or b"") if bad else b""
        for record in bad:
            line = block.line + record.line if block.line else 0
            self.context.counters.rows_in += 1
            offset = block.offset + record.offset
            self.context.reject(record.reason, record.raw, block.origin, line, offset, header=header)
        return columns

    @staticmethod
    def _read_of(columns: pa.RecordBatch, fields: Sequence[str]) -> pa.RecordBatch:
        """Only the columns that the plan reads something of: "bid.price" reads a part of "bid"."""
        names = columns.schema.names
        read = {field if field in names else field.partition(".")[0] for field in fields}
        return columns if len(read) == len(names) else columns.select([name for name in names if name in read])
