"""Specs of aggregation in two steps: groups made in each worker before the exchange by key, and merged behind it.

The planner makes them (two_phase.py); no user writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from millstream.specs.base import Named, Spec, describe_columns
from millstream.specs.keyed import Aggregates, RunningAggregateSpec
from millstream.specs.windows import WindowAggregateSpec, Windows

GROUPS: Final = "groups"
"""The port of groups; rows that pass as they are leave by the main one."""

ROWS_INPUT: Final = 0
GROUPS_INPUT: Final = 1
"""The inputs of an operator that merges groups."""

SLICE: Final = "slice of time"
_ACCUMULATOR: Final = "accumulator "


def accumulator_names(width: int) -> list[str]:
    """The columns of so many accumulators."""
    return [f"{_ACCUMULATOR}{number}" for number in range(width)]


def is_taken(name: str) -> bool:
    """Whether a key field cannot have this name, because groups have a column of it."""
    return name == SLICE or name.startswith(_ACCUMULATOR)


@dataclass(frozen=True)
class GroupRowsSpec(Spec):
    """Groups of the rows of a batch, by key and, for windows, by slice of time.

    Attributes:
        keys: what the rows will be partitioned by.
        keys_where: the name and line of the ``key_by``, and where: those of the aggregation, for errors.
        aggregates: as they are computed behind the exchange, with what the operator there adds for itself.
        input_types: the types of what they read.
        windows: in which the rows will be; None: none.
        always: group also rows of keys that have few in a batch.
    """

    keys: Named
    keys_where: str
    where: str
    aggregates: Aggregates
    input_types: tuple[pa.DataType, ...]
    windows: Windows | None
    always: bool = False

    def describe(self) -> str:
        window = f" in {self.windows.describe()}" if self.windows is not None else ""
        return f"groups by {describe_columns(self.keys)}{window}"

    def notes(self) -> Iterator[str]:
        yield "grouped in each worker before the exchange by key"
        if not self.always:
            yield "rows of keys that have few in a batch pass as they are"


@dataclass(frozen=True)
class MergedWindowsSpec(WindowAggregateSpec):
    """Windows into which most rows come as groups.

    Attributes:
        input_types: those of `GroupRowsSpec`.
    """

    input_types: tuple[pa.DataType, ...] = ()


@dataclass(frozen=True)
class MergedRunningSpec(RunningAggregateSpec):
    """Running aggregates to which most rows come as groups.

    Attributes:
        input_types: those of `GroupRowsSpec`.
    """

    input_types: tuple[pa.DataType, ...] = ()
