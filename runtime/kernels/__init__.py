"""The operations of the expression language, on Arrow columns: one kernel for each name in `KERNELS`.

What an operation means, where engines differ:

- Null in, null out. ``&`` and ``|`` are Kleene's: false & null is false. A null condition is not true.
- Computed integers are int64 (uint64 among unsigned ones), computed floats double; integers and floats
  mix to double. Integer overflow is an error, never a wrapped number. Decimals stay exact in + - *.
- ``/`` is true division in double: x / 0 is inf or nan. ``//`` and ``%`` round down as in Python, and are
  null where the divisor is zero.
- Times without a zone are UTC; a date among times is its midnight, UTC.

Every kernel gets at least one array; all other arguments may be arrays or scalars. Literals stay scalars,
so that they can take the type of the column beside them. A kernel that does not take values of the types
it got raises `Refused`; an error of Arrow's is a fault of some value, see `millstream.evaluate`.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import pyarrow.compute as pc

from millstream.kernels import arithmetic, casts, choices, nested, text, times
from millstream.kernels.types import (
    NULL,
    Kernel,
    Refused,
    Value,
    as_number,
    as_text,
    decoded,
    family_of,
    logical,
    number_or_duration,
    repeated,
    unified,
)

__all__ = ["KERNELS", "NULL", "Kernel", "Refused", "Value", "decoded", "logical", "repeated", "unified"]

KERNELS: Final[dict[str, Kernel]] = {
    "+": arithmetic.add,
    "-": partial(arithmetic.arithmetic, "subtract_checked", "subtract", arithmetic.DIFFERENCES),
    "*": partial(arithmetic.arithmetic, "multiply_checked", "multiply", arithmetic.PRODUCTS),
    "/": arithmetic.divide,
    "//": partial(arithmetic.round_down, np.floor_divide),
    "%": partial(arithmetic.round_down, np.remainder),
    "neg": arithmetic.negate,
    "abs": lambda value: pc.abs_checked(number_or_duration(value)),
    "round": arithmetic.round_to,
    "floor": lambda value: value if family_of(value) == "integer" else pc.floor(as_number(value)),
    "ceil": lambda value: value if family_of(value) == "integer" else pc.ceil(as_number(value)),
    "==": partial(choices.compare, "equal"),
    "!=": partial(choices.compare, "not_equal"),
    "<": partial(choices.compare, "less"),
    "<=": partial(choices.compare, "less_equal"),
    ">": partial(choices.compare, "greater"),
    ">=": partial(choices.compare, "greater_equal"),
    "is_between": choices.is_between,
    "is_in": choices.is_in,
    "&": partial(choices.logic, "and_kleene"),
    "|": partial(choices.logic, "or_kleene"),
    "^": partial(choices.logic, "xor"),
    "not": lambda value: pc.invert(logical(value)),
    "is_null": pc.is_null,
    "is_not_null": pc.is_valid,
    "is_nan": choices.is_nan,
    "fill_null": choices.coalesce,
    "coalesce": choices.coalesce,
    "min_horizontal": partial(choices.extreme, "min_element_wise"),
    "max_horizontal": partial(choices.extreme, "max_element_wise"),
    "when": choices.when,
    "cast": casts.cast,
    "concat_str": text.concat_str,
    "str.to_uppercase": partial(text.of_text, pc.utf8_upper),
    "str.to_lowercase": partial(text.of_text, pc.utf8_lower),
    "str.contains": text.contains,
    "str.count_matches": text.count_matches,
    "str.starts_with": lambda value, prefix: pc.starts_with(as_text(value), prefix),
    "str.ends_with": lambda value, suffix: pc.ends_with(as_text(value), suffix),
    "str.len_chars": partial(text.count_of_text, pc.utf8_length),
    "str.len_bytes": partial(text.count_of_text, pc.binary_length),
    "str.slice": text.slice_chars,
    "str.split": lambda value, by: pc.split_pattern(as_text(value), by),
    "str.strip_chars": text.strip_chars,
    "str.replace": partial(text.replace, 1),
    "str.replace_all": partial(text.replace, None),
    "str.extract": text.extract,
    "str.to_datetime": casts.to_datetime,
    "dt.truncate": times.truncate,
    "dt.year": partial(times.part, pc.year),
    "dt.month": partial(times.part, pc.month),
    "dt.day": partial(times.part, pc.day),
    "dt.hour": partial(times.part, pc.hour),
    "dt.minute": partial(times.part, pc.minute),
    "dt.second": partial(times.part, pc.second),
    "dt.millisecond": partial(times.part, pc.millisecond),
    "dt.microsecond": times.microsecond,
    "dt.weekday": times.weekday,
    "dt.date": times.date,
    "dt.epoch": times.epoch,
    "dt.strftime": times.strftime,
    "dt.total_seconds": partial(times.total, "s"),
    "dt.total_milliseconds": partial(times.total, "ms"),
    "dt.total_microseconds": partial(times.total, "us"),
    "from_epoch": times.from_epoch,
    "struct.field": nested.struct_field,
    "list.len": nested.list_len,
    "list.get": nested.list_get,
}
"""Every operation of the language, by the name that `millstream.expr.Call` gives it."""
