"""The accumulator of a user's own aggregate: one Python object for each group, one call for each row.

The user's ``merge`` may change its first argument. A column can be merged more than once (hopping windows
share panes, snapshots hold runs), so the first argument is always an accumulator made here by ``init``.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from millstream.accumulators.columns import Column
from millstream.accumulators.part import GroupedRows, Part
from millstream.aggregates import UserAggregate
from millstream.batch import Array, index_array
from millstream.errors import UserCodeError
from millstream.grouping import Groups

# Types whose values nobody can change in place, so that sharing one is harmless.
_ATOMS: Final = (int, float, str, bytes, bool, complex, type(None))


@dataclass(frozen=True)
class UserPart(Part):
    at: int
    aggregate: UserAggregate
    label: str = field(compare=False)

    def partial(self, rows: GroupedRows) -> list[Column]:
        values = rows.inputs[self.at]
        groups, add = values.groups, self.aggregate.add
        ordered = values.array.take(index_array(groups.order)).to_pylist()
        starts = groups.starts.tolist()
        out = np.empty(groups.count, object)
        for group in range(groups.count):
            state = self._empty()
            for value in ordered[starts[group] : starts[group + 1]]:
                try:
                    state = add(state, value)
                except Exception as error:
                    raise self._failed(f"add of {value!r}") from error
            out[group] = state
        return [out]

    def combine(self, columns: Sequence[Column], groups: Groups) -> list[Column]:
        states = columns[0]
        assert isinstance(states, np.ndarray)
        ordered, starts = states[groups.order].tolist(), groups.starts.tolist()
        out = np.empty(groups.count, object)
        for group in range(groups.count):
            some = ordered[starts[group] : starts[group + 1]]
            out[group] = some[0] if len(some) == 1 else self._merge(some)
        return [out]

    def results(self, column: Column) -> Array:
        """The user's result for each group, with the declared type or the one that they have."""
        assert isinstance(column, np.ndarray)
        values = []
        for state in column:
            try:
                values.append(self.aggregate.result(state))
            except Exception as error:
                raise self._failed(f"result of {state!r}") from error
        try:
            return pa.array(values, self.aggregate.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise self._failed(f"results that are not all {self.aggregate.type or 'of one type'}") from error

    def _merge(self, states: list[Any]) -> Any:
        merged = self._empty()
        for state in states:
            try:
                merged = self.aggregate.merge(merged, state)
            except Exception as error:
                raise self._failed(f"merge with {state!r}") from error
            if merged is state and not isinstance(state, _ATOMS):
                merged = copy.deepcopy(state)  # else the next merge would change the column
        return merged

    def _empty(self) -> Any:
        try:
            return self.aggregate.init()
        except Exception as error:
            raise self._failed("init") from error

    def _failed(self, what: str) -> UserCodeError:
        return UserCodeError(self.label, what, traceback.format_exc())
