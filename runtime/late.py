"""The last late events of an operator, for whoever wants to see what comes too late, and by how much."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.batch import Batch, IntArray
from millstream.meters import shortened
from millstream.times import MAX_US

EVENTS_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class _Late:
    """Events that were found late at one moment.

    Attributes:
        seen_us: that moment, in processing time.
        watermark_us: the watermark that made each of them late.
        limit_us: what that watermark had passed: the event's time, or the last end of a window that would have held it.
    """

    seen_us: int
    rows: pa.RecordBatch
    time_us: IntArray
    watermark_us: IntArray
    limit_us: IntArray

    def told(self) -> list[dict[str, Any]]:
        events = zip(
            self.rows.to_pylist(),
            self.time_us.tolist(),
            self.watermark_us.tolist(),
            self.limit_us.tolist(),
            strict=True,
        )
        return [
            {
                "seen_us": self.seen_us,
                "event_time_us": time_us,
                "watermark_us": None if watermark_us == MAX_US else watermark_us,
                "late_by_us": None if watermark_us == MAX_US else watermark_us - limit_us,
                "row": {name: shortened(value) for name, value in row.items()},
            }
            for row, time_us, watermark_us, limit_us in events
        ]


class LateEvents:
    """The last late events of one operator in one process: few, and copied only when they are late."""

    def __init__(self) -> None:
        self._last: deque[_Late] = deque()

    def note(self, rows: Batch, watermark_us: IntArray, limit_us: IntArray, seen_us: int) -> None:
        """Take note of late events.

        Args:
            watermark_us: the watermark that made each of them late; `MAX_US`: the input had ended.
            limit_us: what it had passed.
            seen_us: the moment, in processing time.
        """
        if not rows.num_rows:
            return
        assert rows.time_us is not None
        last = np.arange(max(0, rows.num_rows - EVENTS_SHOWN), rows.num_rows)
        few = rows.take(last)
        assert few.time_us is not None
        self._last.append(_Late(seen_us, few.all_columns(), few.time_us, watermark_us[last], limit_us[last]))
        while sum(len(late.time_us) for late in self._last) - len(self._last[0].time_us) >= EVENTS_SHOWN:
            self._last.popleft()

    def told(self) -> list[dict[str, Any]]:
        """The events, the newest first: when it was seen, event time, watermark, how late, and the row as texts."""
        return [event for late in reversed(self._last) for event in reversed(late.told())][:EVENTS_SHOWN]
