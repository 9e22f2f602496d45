"""What a late row carries to the late output: itself, whole, and the reason why it is there.

The reason is the field ``late_reason``, the last one: text that names the watermark and what it had passed. It
follows from the row and from the watermark that decided, so it is the same however a stream is cut.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, Batch, IntArray
from millstream.operators.columnar import with_arrays
from millstream.specs.base import LATE_REASON
from millstream.times import MAX_US


def time_text(time_us: IntArray) -> Array:
    """Times as ISO 8601 text, a column at a time; `MAX_US` is "the end of the input"."""
    # Casting is thirty times faster than strftime.
    stamps = pa.array(time_us).view(pa.timestamp("us")).cast(pa.string())
    text = _joined(pc.replace_substring(stamps, " ", "T", max_replacements=1), "Z")
    ends = time_us == MAX_US
    if not ends.any():
        return text
    named: Array = pc.if_else(pa.array(ends), "the end of the input", text)
    return named


def with_reason(late: Batch, watermark_us: IntArray, passed: str, limit_us: IntArray) -> Batch:
    """Late rows as they leave: all their fields, key fields among them, and ``late_reason``.

    Args:
        watermark_us: the watermark that made each row late.
        passed: what that watermark had reached, as in "its time".
        limit_us: the time of that, for each row.
    """
    reason = _joined("the watermark ", time_text(watermark_us), f" had passed {passed}, ", time_text(limit_us))
    return with_text(late, reason)


def with_text(late: Batch, reason: Array) -> Batch:
    """The same with a reason for each row in words."""
    columns = late.all_columns()
    rows = Batch(columns, late.time_us, late.before_us, late.position, sign=late.sign)
    return rows.with_columns(with_arrays(columns, [LATE_REASON], [reason]))


def _joined(*texts: str | Array) -> Array:
    join: Any = pc.binary_join_element_wise  # takes text for a column, which its stubs do not know
    column: Array = join(*texts, "")
    return column
