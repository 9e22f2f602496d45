"""Arrow to NumPy and back, without a copy."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import as_numpy


def numpy_of(value: Any) -> npt.NDArray[Any]:
    """The values without a copy; what stands under a null is anything."""
    dtype = value.type.to_pandas_dtype()
    data = value.buffers()[1]
    if data is None:
        return np.zeros(len(value), dtype)
    return as_numpy(data, np.dtype(dtype), len(value), value.offset * np.dtype(dtype).itemsize)


def array_of(values: npt.NDArray[Any], dtype: pa.DataType, *valid: Any) -> Any:
    """The values as Arrow, without a copy; null where one of the ``valid`` columns is false."""
    if not valid:
        return pa.array(values, dtype)
    mask = reduce(pc.and_, valid)
    if mask.offset:
        return pc.if_else(mask, pa.array(values, dtype), pa.scalar(None, dtype))
    data: Any = values  # a buffer, though the stubs do not know
    return pa.Array.from_buffers(dtype, len(values), [mask.buffers()[1], pa.py_buffer(data)])


def validity(value: Any) -> tuple[Any, ...]:
    return (pc.is_valid(value),) if value.null_count else ()
