"""map_batches: columns in, columns out, and one bad row fails alone."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import millstream as ms
from millstream.errors import SchemaError, UserCodeError


def mapped(function: Any, values: list[Any], batch_size: int = 100, **options: Any) -> ms.RunResult:
    flow = ms.Flow("batches")
    stream = flow.read_iterable([{"i": i, "v": v} for i, v in enumerate(values)])
    stream.map_batches(function, **options).collect("out")
    return flow.run_here(batch_size=batch_size)


def parsed(columns: pa.RecordBatch) -> pa.RecordBatch:
    """Fails for the whole batch where one text is no number."""
    return columns.set_column(1, "v", columns["v"].cast(pa.int64()))


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_a_row_on_which_the_function_fails_is_a_dead_letter_and_the_others_go_on(batch_size: int) -> None:
    values = [str(i) for i in range(50)]
    values[13] = values[14] = values[49] = "x"
    result = mapped(parsed, values, batch_size, on_error="dead_letter")
    assert result.tables["out"]["v"].to_pylist() == [i for i in range(50) if i not in (13, 14, 49)]
    assert result.dead_letters == 3


def test_a_batch_of_bad_rows_alone_leaves_nothing() -> None:
    result = mapped(parsed, ["x"] * 5, on_error="dead_letter")
    assert (result.tables["out"].num_rows, result.dead_letters) == (0, 5)


def test_without_dead_letters_the_first_failure_ends_the_run() -> None:
    with pytest.raises(UserCodeError, match="a batch of 3 events"):
        mapped(parsed, ["1", "x", "2"])


def test_a_table_is_as_good_as_a_record_batch() -> None:
    result = mapped(lambda c: pa.Table.from_batches([c]).append_column("w", pc.multiply(c["v"], 2)), [1, 2, 3])
    assert result.tables["out"]["w"].to_pylist() == [2, 4, 6]


@pytest.mark.parametrize(
    ("function", "found"), [(lambda c: c.slice(0, 1), "found 1 rows"), (lambda c: c.to_pylist(), "found list")]
)
def test_a_result_with_other_rows_is_refused(function: Any, found: str) -> None:
    with pytest.raises(SchemaError, match=found):
        mapped(function, [1, 2, 3])
