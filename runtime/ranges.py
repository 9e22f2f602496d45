"""Many ranges of numbers at once: all the numbers in them, by a few steps over whole columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from millstream.batch import IntArray
from millstream.grouping import IndexArray


def ranges(start: npt.NDArray[np.integer], counts: npt.NDArray[np.integer]) -> IndexArray:
    """So many numbers from each start on, end to end."""
    before = np.cumsum(counts) - counts
    numbers: IndexArray = np.arange(int(counts.sum())) + np.repeat(start - before, counts)
    return numbers


def expand(first: IntArray, last: IntArray) -> tuple[IndexArray, IntArray]:
    """Each row once for every number from its first to its last, which may be none: (rows, numbers)."""
    counts = np.maximum(last - first + 1, 0)
    return np.repeat(np.arange(len(first)), counts), ranges(first, counts)
