"""Where records end: cuts must be those of Python's csv module, wherever the bytes were torn."""

from __future__ import annotations

import csv
import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.connectors import text
from millstream.connectors.text import csv_records, cut_csv, cut_lines

# What decides about records, and little else.
csv_bytes = st.text(alphabet='",\nab', max_size=60).map(str.encode)


def records_of(data: bytes) -> list[bytes]:
    ends = [0, *csv_records(data, at_end=True).ends.tolist()]
    return [data[start:end] for start, end in pairwise(ends)]


def closed(data: bytes) -> bool:
    return not csv_records(data, at_end=True).broken


def test_lines_are_cut_after_the_last_newline() -> None:
    assert cut_lines(b"a\nb\nc", at_end=False) == 4
    assert cut_lines(memoryview(b"a\nb\nc"), at_end=True) == 5
    assert cut_lines(b"abc", at_end=False) == 0
    assert cut_lines(b"", at_end=True) == 0


def test_a_newline_inside_quotes_does_not_end_a_record() -> None:
    assert cut_csv(b'1,"a\nb"\n2,"c\nd', at_end=False) == len(b'1,"a\nb"\n')
    assert cut_csv(b'1,"a\nb"\n2,"c\nd', at_end=True) == len(b'1,"a\nb"\n2,"c\nd')


def test_a_quote_inside_a_plain_field_is_data() -> None:
    data = b'a,5" pipe\nb,"x\ny"\nc,d\n'
    assert records_of(data) == [b'a,5" pipe\n', b'b,"x\ny"\n', b"c,d\n"]


@given(csv_bytes.filter(closed))
def test_records_are_those_of_the_csv_module(data: bytes) -> None:
    ours = [next(csv.reader(io.StringIO(record.decode(), newline=""))) for record in records_of(data)]
    assert ours == list(csv.reader(io.StringIO(data.decode(), newline="")))


@given(csv_bytes, st.integers(0, 60))
def test_records_do_not_depend_on_where_the_bytes_were_torn(data: bytes, torn: int) -> None:
    end = cut_csv(data[:torn], at_end=False)
    rest = data[end:]
    assert records_of(data[:end]) + records_of(rest) == records_of(data)


@given(csv_bytes, st.lists(st.integers(0, 60), max_size=4))
def test_an_open_quote_costs_one_line_wherever_the_bytes_were_torn(data: bytes, torn: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "MAX_RECORD_BYTES", 12)
        whole, pieces, pending = records_of(data), [], b""
        bounds = [0, *sorted(torn), len(data)]
        for start, stop in pairwise(bounds):
            pending += data[start:stop]
            end = cut_csv(pending, at_end=False)
            pieces += records_of(pending[:end])
            pending = pending[end:]
        assert pieces + records_of(pending) == whole


def test_a_quote_that_is_never_closed_does_not_swallow_the_file() -> None:
    lines = [b"a,b\n"] * 10 + [b'c,"d\n'] + [b"e,f\n"] * 300_000
    records = csv_records(b"".join(lines), at_end=True)
    assert len(records.ends) == len(lines)
    assert records.broken == {10: "a quote is not closed"}


def test_a_record_longer_than_the_limit_is_broken() -> None:
    data = b"a,b\n" + b"x" * (text.MAX_RECORD_BYTES + 1) + b"\nc,d\n"
    records = csv_records(data, at_end=True)
    assert len(records.ends) == 3
    assert list(records.broken) == [1]
    assert "longer than" in records.broken[1]
