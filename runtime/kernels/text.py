"""Text: parts of it, and what is found in it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from millstream.kernels.scan import count_byte, is_one_byte
from millstream.kernels.types import INT64, STRING, Kernel, Refused, Value, as_text, as_type, family_of

_SPECIAL: Final = frozenset(r"\.+*?()|[]{}^$")


def of_text(function: Kernel, value: Value, **options: Any) -> Any:
    return function(as_text(value), **options)


def count_of_text(function: Kernel, value: Value, **options: Any) -> Any:
    return function(as_text(value), **options).cast(INT64)


def concat_str(*values: Value, separator: str = "") -> Any:
    texts = [value if family_of(value) == "string" else value.cast(STRING) for value in values]
    dtype = pa.large_string() if any(text.type == pa.large_string() for text in texts) else STRING
    return pc.binary_join_element_wise(*(as_type(text, dtype) for text in texts), pa.scalar(separator, dtype))


def contains(value: Value, pattern: str, literal: bool) -> Any:
    return (pc.match_substring if literal else pc.match_substring_regex)(as_text(value), pattern)


def count_matches(value: Value, pattern: str, literal: bool) -> Any:
    text = as_text(value)
    if is_one_byte(pattern) and (literal or pattern not in _SPECIAL):
        return count_byte(text, pattern)
    return (pc.count_substring if literal else pc.count_substring_regex)(text, pattern).cast(INT64)


def slice_chars(value: Value, offset: int, length: int | None) -> Any:
    stop = None if length is None else offset + length
    if stop is not None and offset < 0 <= stop:
        stop = None  # from the end, to the end
    return pc.utf8_slice_codeunits(as_text(value), offset, stop)


def strip_chars(value: Value, characters: str | None) -> Any:
    return pc.utf8_trim_whitespace(as_text(value)) if characters is None else pc.utf8_trim(as_text(value), characters)


def replace(most: int | None, column: Value, pattern: str, value: str, literal: bool) -> Any:
    function = pc.replace_substring if literal else pc.replace_substring_regex
    return function(as_text(column), pattern, value, max_replacements=most)


def extract(value: Value, pattern: str, group: int | str) -> Any:
    return pc.struct_field(pc.extract_regex(as_text(value), _one_group(pattern, group)), "g")


_GROUP: Final = re.compile(
    r"\\Q.*?(?:\\E|$)|\\.|\[\^?\]?(?:\[:\w+:\]|\\.|[^\]\\])*\]|(?P<named>\(\?P?<(?P<name>\w+)>)|(?P<plain>\((?!\?))",
    re.DOTALL,
)


@lru_cache(maxsize=256)
def _one_group(pattern: str, group: int | str) -> str:
    """The pattern with the wanted group named "g" and all others not capturing, as Arrow's extract needs it."""
    count, found = 0, group == 0

    def renamed(match: re.Match[str]) -> str:
        nonlocal count, found
        if not match["plain"] and not match["named"]:
            return match[0]  # an escape or a class of characters: its parenthesis opens no group
        count += 1
        wanted = group in (count, match["name"])
        found |= wanted
        return "(?P<g>" if wanted else "(?:"

    rewritten = _GROUP.sub(renamed, pattern)
    if not found:
        raise Refused(f"the pattern has no group {group!r}; there are {count}, and 0 is the whole match")
    return f"(?P<g>{rewritten})" if group == 0 else rewritten
