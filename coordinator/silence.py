"""Whether a process that should say something every now and then has been silent for too long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_LONGEST_LOOK_S: Final = 1.0


@dataclass
class Silence:
    """A pure decision; times are readings of `time.monotonic`.

    Only time in which somebody listened counts: one who was stopped himself, or lay on a machine that was asleep, has
    not heard what was said meanwhile.

    Attributes:
        limit_s: how long is too long.
        silent_s: for how long nothing was heard.
    """

    limit_s: float
    silent_s: float = 0.0
    _looked_s: float | None = None

    def heard(self) -> None:
        self.silent_s = 0.0

    def too_long(self, now_s: float) -> bool:
        """To be asked every fraction of a second, after all that has arrived was heard."""
        if self._looked_s is not None:
            self.silent_s += min(now_s - self._looked_s, _LONGEST_LOOK_S)
        self._looked_s = now_s
        return self.silent_s > self.limit_s
