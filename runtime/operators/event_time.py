"""Event time: from a field or expression to int64 microseconds, and the rows that have none.

This operator only reads the times. What they do to the watermark is decided where the partition's clock
is, in the coordinator (see stage.py): a row's lateness depends on every row before it in its partition,
also on those that another worker has decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import Array, Batch, IntArray
from millstream.evaluate import evaluate_rows
from millstream.letter_rows import encode_row
from millstream.operators.base import Context, Operator, Output
from millstream.operators.columnar import row_text
from millstream.specs.base import MAIN
from millstream.specs.ends import EventTimeSpec, check_time_type, is_text
from millstream.times import MAX_US, UNIT_US, format_duration, format_us
from millstream.watermarks import too_far_ahead, watermark_before

_LIMIT_US = 2**62  # far beyond any calendar, and far enough from the ends that window arithmetic cannot wrap


def to_times(values: Array, unit: str | None, where: str) -> tuple[IntArray, dict[int, str]]:
    """Microseconds since the epoch, and for each row without a usable time the reason.

    Args:
        values: timestamps, dates, ISO 8601 text, or numbers in ``unit``. Naive times are UTC.
    Returns:
        int64[n] (0 where there is a reason), and {row: reason}.
    """
    kind = values.type
    check_time_type(kind, unit, where)
    bad: dict[int, str] = {}
    if is_text(kind):
        stamps, bad = _parse(values)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        stamps = values.cast(pa.timestamp("us"), safe=False)
    else:
        return _from_numbers(values, UNIT_US[unit or "us"])
    if stamps.null_count:
        for row in np.flatnonzero(pc.is_null(stamps).to_numpy(zero_copy_only=False)).tolist():
            bad.setdefault(row, "the time is missing")
        stamps = stamps.view(pa.int64()).fill_null(0)
    return stamps.view(pa.int64()).to_numpy(zero_copy_only=False), bad


def _parse(values: Array) -> tuple[Array, dict[int, str]]:
    zoned = pa.timestamp("us", "UTC")
    try:
        return values.cast(zoned), {}
    except pa.ArrowInvalid:
        pass  # naive text, or some that is no time: find out which
    try:
        return values.cast(pa.timestamp("us")), {}
    except pa.ArrowInvalid:
        pass
    bad: dict[int, str] = {}
    parsed: list[int | None] = []
    for row, text in enumerate(values.to_pylist()):
        stamp = None
        if text is not None:
            one = pa.array([text])
            for wanted in (zoned, pa.timestamp("us")):
                try:
                    stamp = one.cast(wanted).view(pa.int64())[0].as_py()
                    break
                except pa.ArrowInvalid:
                    continue
            else:
                bad[row] = f"the time {text!r} is not ISO 8601"
        parsed.append(stamp)
    return pa.array(parsed, pa.int64()).view(pa.timestamp("us")), bad


def _from_numbers(values: Array, unit_us: int) -> tuple[IntArray, dict[int, str]]:
    bad: dict[int, str] = {}
    missing = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    numbers = values.fill_null(0).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(missing).tolist():
        bad[row] = "the time is missing"
    limit = _LIMIT_US // unit_us
    outside = ~((numbers > -limit) & (numbers < limit)) & ~missing
    for row in np.flatnonzero(outside).tolist():
        bad[row] = f"the time {numbers[row]} is out of range"
    usable = np.where(missing | outside, 0, numbers) if bad else numbers
    if usable.dtype.kind == "f":
        return np.rint(usable * unit_us).astype(np.int64), bad
    times: IntArray = usable.astype(np.int64, copy=False)
    return times * unit_us if unit_us != 1 else times, bad


class EventTime(Operator):
    """Gives each row its event time; rows without one are dead letters."""

    def __init__(self, spec: EventTimeSpec, context: Context, live: bool) -> None:
        super().__init__(context)
        self.spec = spec
        self.live = live

    def on_batch(self, batch: Batch, port: int) -> Iterator[Output]:
        values, failures = evaluate_rows(self.spec.time, batch.columns)
        times, bad = to_times(values, self.spec.unit, self.context.name)
        bad.update(failures)
        if self.live and len(times) and self.spec.max_ahead_us != MAX_US:
            limit_us = self.context.now_us() + self.spec.max_ahead_us
            if int(times.max()) > limit_us:
                for row in np.flatnonzero(times > limit_us).tolist():
                    bad.setdefault(row, f"{self._too_far(times, row)} ahead of the clock")
        yield MAIN, self._without(replace(batch, time_us=times), bad)

    def without_far_ahead(self, batch: Batch, max_us: int) -> Batch:
        """Take out the rows too far ahead of the largest time before them, as dead letters (replays only)."""
        assert batch.time_us is not None
        ahead = None if self.live else too_far_ahead(batch.time_us, max_us, self.spec.max_ahead_us)
        if ahead is None:
            return batch
        bad = {
            row: f"{self._too_far(batch.time_us, row)} ahead of every event before it; "
            "say a larger max_ahead= if the gap is real"
            for row in np.flatnonzero(ahead).tolist()
        }
        return self._without(batch, bad)

    def with_watermarks(self, batch: Batch, max_us: int, floor_us: int) -> Batch:
        """Say for each row what the watermark of its partition was before it."""
        assert batch.time_us is not None
        before = watermark_before(batch.time_us, max_us, self.spec.out_of_orderness_us, floor_us)
        return batch if before is None else replace(batch, before_us=before)

    def _too_far(self, times: IntArray, row: int) -> str:
        return f"the time {format_us(int(times[row]))} is more than max_ahead={format_duration(self.spec.max_ahead_us)}"

    def _without(self, batch: Batch, bad: dict[int, str]) -> Batch:
        if not bad:
            return batch
        for row, reason in sorted(bad.items()):
            self.context.reject(reason, row_text(batch.columns, row), row=encode_row(batch, row))
        keep = np.ones(batch.num_rows, np.bool_)
        keep[list(bad)] = False
        return batch.where(keep)
