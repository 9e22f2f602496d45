"""Times as text: formatted once for what the format can tell apart, with the same result as row by row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.evaluate import evaluate
from millstream.expr import col

FORMATS = ["%Y-%m-%d", "%H:%M", "%j %U", "%Y-%m-%dT%H:%M:%S", "%S", "%%Y", "day"]
TIMES = st.lists(
    st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)) | st.just(datetime(1969, 12, 31, 23, 59, 59)),
    max_size=30,
)


@pytest.mark.parametrize("zone", ["UTC", "America/St_Johns", "Asia/Kathmandu"])
@given(times=TIMES, format=st.sampled_from(FORMATS))
def test_a_time_is_written_as_python_writes_it(times: list[datetime | None], format: str, zone: str) -> None:
    rows = pa.record_batch({"at": pa.array(times, pa.timestamp("us", zone))})
    local = [None if at is None else at.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)) for at in times]
    # A local mean time has seconds in its offset, which Arrow and Python may take from different tables.
    if any(at is not None and at.utcoffset() % timedelta(minutes=1) for at in local):  # type: ignore[operator]
        return
    expected = [None if at is None else at.strftime(format) for at in local]
    assert evaluate(col("at").dt.strftime(format), rows).to_pylist() == expected
