"""The dead letters of a flow for people: ``millstream dead-letters``. Files are read a line at a time, however long they are."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from millstream.breaker import kind_of
from millstream.coordinator.replaying import asked_for
from millstream.deadletters import LETTERS, name_of, stored

_REASONS_SHOWN: Final = 50


def counted(state: Path) -> Table:
    """How many there are by operator and reason; reasons that differ only in values are one, of which the first is shown."""
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    again: Counter[tuple[str, str]] = Counter()
    asked = asked_for(state)
    for letter in stored(state):
        operator, reason = str(letter.get("operator")), str(letter.get("reason"))
        kind = operator, kind_of(reason)
        counts[kind] += 1
        first.setdefault(kind, reason)
        again[kind] += letter.get("id", "") in asked
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("operator", "letters", "replayed", "such as"):
        shown.add_column(column, justify="right" if column in ("letters", "replayed") else "left", overflow="fold")
    for kind, count in counts.most_common(_REASONS_SHOWN):
        shown.add_row(Text(kind[0]), f"{count:,}", f"{again[kind]:,}", Text(first[kind]))
    others = counts.total() - sum(count for _, count in counts.most_common(_REASONS_SHOWN))
    if others:
        shown.add_row("", f"{others:,}", "", "for other reasons")
    shown.caption = f"{counts.total():,} in all, in {state / LETTERS}"
    shown.caption_justify = "left"
    return shown


def last(state: Path, operator: str | None, most: int) -> Iterator[dict[str, Any]]:
    """The last letters, in the order in which each process wrote them.

    Args:
        operator: only those of this one, by its name; None: all.
    """
    kept: deque[dict[str, Any]] = deque(maxlen=most)
    kept.extend(
        letter for letter in stored(state) if operator is None or name_of(str(letter.get("operator"))) == operator
    )
    return iter(kept)


def as_text(letter: dict[str, Any]) -> str:
    """A letter on two lines: where and why, and the record."""
    where = [str(letter.get("operator"))]
    if "origin" in letter:
        where.append(str(letter["origin"]) + (f", line {letter['line']}" if "line" in letter else ""))
    if "id" in letter:
        where.append(str(letter["id"]))
    record, replayed = letter.get("record", letter.get("record_base64")), letter.get("replayed", 0)
    again = f" (replayed {'once' if replayed == 1 else f'{replayed} times'} before)" if replayed else ""
    return f"{'; '.join(where)}: {letter.get('reason')}{again}\n    {record}"
