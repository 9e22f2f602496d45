"""When slots are to be freed: a queue by time in which an entry that was put off is passed over when it falls due.

Sorted runs of (due time, slot), put together when there are many: what falls due is the beginning of each run, and
no watermark looks at all keys.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from millstream.batch import IntArray
from millstream.times import MAX_US

_RUNS_KEPT: Final = 16
_FIRST_SLOTS: Final = 1_024
_NEVER: Final = MAX_US


class Expiry:
    """The time at which each slot is due; only the last one set counts."""

    def __init__(self) -> None:
        self._due_us: IntArray = np.full(_FIRST_SLOTS, _NEVER)
        self._runs: list[tuple[IntArray, IntArray]] = []

    def set(self, slots: IntArray, due_us: IntArray) -> None:
        """These slots, each given once, are due at these times; `MAX_US`: never."""
        if len(slots) == 0:
            return
        highest = int(slots.max())
        if highest >= len(self._due_us):
            longer: npt.NDArray[np.int64] = np.full(max(highest + 1, 2 * len(self._due_us)), _NEVER)
            longer[: len(self._due_us)] = self._due_us
            self._due_us = longer
        changed = self._due_us[slots] != due_us
        slots, due_us = slots[changed], due_us[changed]
        self._due_us[slots] = due_us
        order = np.argsort(due_us, kind="stable")
        self._runs.append((due_us[order], slots[order]))
        if len(self._runs) > _RUNS_KEPT:
            self._merge()

    def due(self, until_us: int) -> IntArray:
        """Take out the slots that are due at or before a time, ascending."""
        found: list[IntArray] = []
        left: list[tuple[IntArray, IntArray]] = []
        for due_us, slots in self._runs:
            at = int(np.searchsorted(due_us, until_us, side="right"))
            if at:
                found.append(slots[:at][self._due_us[slots[:at]] == due_us[:at]])
            if at < len(slots):
                left.append((due_us[at:], slots[at:]))
        self._runs = left
        if not found:
            return np.zeros(0, np.int64)
        slots = np.unique(np.concatenate(found))
        slots = slots[self._due_us[slots] < _NEVER]
        self._due_us[slots] = _NEVER
        return slots

    def _merge(self) -> None:
        due_us = np.concatenate([d for d, _ in self._runs])
        slots = np.concatenate([s for _, s in self._runs])
        current = np.flatnonzero(self._due_us[slots] == due_us)  # what was put off goes
        order = current[np.argsort(due_us[current], kind="stable")]
        self._runs = [(due_us[order], slots[order])]

    @property
    def nbytes(self) -> int:
        return self._due_us.nbytes + sum(d.nbytes + s.nbytes for d, s in self._runs)
