"""What every accumulator is made of: parts, each a fixed number of columns that merge by group.

The mean of a field is the part "sum" and the part "count"; an aggregation that also asks for the sum
finds that part there already. Parts are frozen dataclasses, so equal ones are found by comparing them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from millstream.accumulators.columns import Column, Input, RowOrder
from millstream.batch import Array, SignArray
from millstream.errors import InternalError
from millstream.grouping import Groups


class GroupedRows:
    """A batch as parts see it: the inputs by number, the groups, and order and signs where there are any."""

    def __init__(
        self, inputs: Sequence[Array], groups: Groups, order: RowOrder | None, sign: SignArray | None = None
    ) -> None:
        self.inputs = [Input(array, groups, sign) for array in inputs]
        self.groups = groups
        self.sign = sign
        self._order = order

    @property
    def order(self) -> RowOrder:
        if self._order is None:
            raise InternalError("accumulators: an aggregate that depends on order was given rows without it")
        return self._order


class Part(ABC):
    """Some columns with one row for each group.

    Attributes:
        width: how many columns.
    """

    width: ClassVar[int] = 1

    @abstractmethod
    def partial(self, rows: GroupedRows) -> list[Column]:
        """The columns for these rows."""

    @abstractmethod
    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        """The columns for groups of rows of such columns."""
