"""Times, dates and durations: their parts, their text, and numbers since 1970."""

from __future__ import annotations

import re
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from millstream.batch import index_array
from millstream.expr import TIMESTAMP
from millstream.grouping import factorize
from millstream.kernels.arrays import array_of, numpy_of, validity
from millstream.kernels.types import (
    FLOAT64,
    INT64,
    UNIT_NS,
    UTC_ZONES,
    Kernel,
    Refused,
    Value,
    as_moment,
    as_number,
    family_of,
)
from millstream.times import duration_us


def _calendar(value: Value) -> Any:
    """A time that Arrow reads calendar fields from: in UTC without its zone, which is 13 times as fast."""
    if family_of(value) == "time":
        return value
    moment = as_moment(value)
    return moment.view(pa.timestamp(moment.type.unit)) if moment.type.tz in UTC_ZONES else moment


def part(function: Kernel, value: Value) -> Any:
    return function(_calendar(value))


def microsecond(value: Value) -> Any:
    moment = _calendar(value)
    return pc.add(pc.multiply(pc.millisecond(moment), 1_000), pc.microsecond(moment))


def weekday(value: Value) -> Any:
    return pc.day_of_week(_calendar(as_moment(value)), count_from_zero=False, week_start=1)


def truncate(value: Value, every: Any) -> Any:
    moment = as_moment(value)
    every_ns, unit_ns = duration_us(every, "dt.truncate") * 1_000, UNIT_NS[moment.type.unit]
    if every_ns % unit_ns:
        moment = moment.cast(pa.timestamp("us", moment.type.tz))
        unit_ns = 1_000
    # Arrow's floor_temporal does the same, 50 times slower where there is a zone.
    step = every_ns // unit_ns
    floored = numpy_of(moment.view(INT64)) // step * step
    return array_of(floored, INT64, *validity(moment)).view(moment.type)


def date(value: Value) -> Any:
    return _calendar(as_moment(value)).cast(pa.date32())


def epoch(value: Value, unit: str) -> Any:
    moment = as_moment(value)
    ticks, from_ns, to_ns = moment.view(INT64), UNIT_NS[moment.type.unit], UNIT_NS[unit]
    if from_ns >= to_ns:
        return pc.multiply_checked(ticks, from_ns // to_ns)
    return array_of(numpy_of(ticks) // (to_ns // from_ns), INT64, *validity(moment))


def from_epoch(value: Value, unit: str) -> Any:
    number = as_number(value)
    factor = UNIT_NS[unit] // 1_000
    if family_of(number) == "float":
        number = pc.round(pc.multiply(number.cast(FLOAT64), float(factor))).cast(INT64)
    else:
        number = pc.multiply_checked(number.cast(INT64), factor)
    return number.view(TIMESTAMP)


def strftime(value: Value, format: str) -> Any:
    moment = as_moment(value)
    if "%S.%f" in format:
        return pc.strftime(moment.cast(pa.timestamp("us", moment.type.tz)), format=format.replace("%S.%f", "%S"))
    # Arrow formats a million times a second. What the format can tell apart is mostly few: format that, and take.
    # Its %S writes the fraction as well, to the unit of the time: whole seconds have none.
    coarse = truncate(moment, f"{_resolution_s(format, moment.type.tz)}s").cast(pa.timestamp("s", moment.type.tz))
    codes, first = factorize([coarse])
    return pc.strftime(coarse.take(index_array(first)), format=format).take(index_array(codes))


_DAYS: Final = frozenset("YmdyjaAbBeCGguUVwWDFxhnt%")
_MINUTES: Final = frozenset("HIMpR")


def _resolution_s(format: str, zone: str | None) -> int:
    """The longest span of seconds whose times all have the same text."""
    shown = set(re.findall("%[EO]?(.)", format))
    if zone not in UTC_ZONES or not shown <= _DAYS | _MINUTES:
        return 1  # days of another zone do not begin where those of UTC do
    return 86_400 if shown <= _DAYS else 60


def total(unit: str, value: Any) -> Any:
    if family_of(value) == "null":
        return value.cast(INT64)
    if family_of(value) != "duration":
        raise Refused(f"expected a duration, found {value.type}; a difference of two times is one")
    from_ns, to_ns = UNIT_NS[value.type.unit], UNIT_NS[unit]
    ticks = value.cast(INT64)
    return pc.multiply_checked(ticks, from_ns // to_ns) if from_ns >= to_ns else pc.divide(ticks, to_ns // from_ns)
