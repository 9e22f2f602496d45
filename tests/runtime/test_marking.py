"""Lines that workers print know whose they are."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.marking import MarkedStream, unmarked


def printed(parts: list[str], operator: str) -> list[str]:
    stream = io.StringIO()
    marked = MarkedStream(stream, lambda: operator)
    for part in parts:
        assert marked.write(part) == len(part)
    text = stream.getvalue()
    return text.removesuffix("\n").split("\n") if text else []


def test_each_line_says_which_operator_was_at_work() -> None:
    assert [unmarked(line) for line in printed(["a", "\n", "b\nc\n"], "map")] == [
        ("map", "a"),
        ("map", "b"),
        ("map", "c"),
    ]


def test_without_an_operator_at_work_lines_are_as_they_were() -> None:
    assert printed(["a\nb\n"], "") == ["a", "b"]


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]) | st.just("\n"))))
def test_what_is_shown_is_what_was_printed(parts: list[str]) -> None:
    assert [unmarked(line)[1] for line in printed(parts, "agg")] == "".join(parts).removesuffix("\n").split(
        "\n"
    ) * bool("".join(parts))


@pytest.mark.parametrize("line", ["plain", "", "\x02no second mark"])
def test_a_line_without_a_whole_mark_is_shown_as_it_is(line: str) -> None:
    assert unmarked(line) == ("", line)
