"""Dead letters as rows: made where an operator refuses records, and handed on where they come together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from millstream.batch import Batch, make_columns
from millstream.operators.base import DeadLetter, Operator, Output
from millstream.specs.base import MAIN
from millstream.specs.dead_letters import LETTER_FIELDS


class DeadLetters(Operator):
    """Where those of all stages come together."""

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        yield MAIN, batch


def letters_as_rows(letters: Sequence[DeadLetter], now_us: int) -> Batch:
    """
    Args:
        now_us: when they were refused, in processing time.
    """
    rows = [
        (
            letter.operator,
            letter.reason,
            letter.origin or None,
            letter.line or None,
            None if letter.offset < 0 else letter.offset,
            letter.record if isinstance(letter.record, str) else letter.record.decode(errors="backslashreplace"),
            now_us,
        )
        for letter in letters
    ]
    columns = [
        pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), LETTER_FIELDS, strict=True)
    ]
    return Batch(make_columns(LETTER_FIELDS.names, columns))
