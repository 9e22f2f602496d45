"""Whether a run whose process was lost is taken up again, and when: a bounded number of times, with growing pauses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0


@dataclass
class Restarts:
    """A pure decision; times are readings of `time.monotonic`.

    Attributes:
        most: how many restarts there may be within ``within_s``.
    """

    most: int
    within_s: float = 600.0
    _made_s: list[float] = field(default_factory=list)

    def pause_s(self, now_s: float) -> float | None:
        """How long to wait before the next restart; None: there have been too many."""
        self._made_s = [m for m in self._made_s if now_s - m < self.within_s]
        if len(self._made_s) >= self.most:
            return None
        pause_s = min(_FIRST_PAUSE_S * 2.0 ** len(self._made_s), _LONGEST_PAUSE_S)
        self._made_s.append(now_s)
        return pause_s
