"""What becomes of the state in a checkpoint when a changed flow goes on from it, as a table for people."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from millstream.checkpoints.evolution import Fate, Verdict
from millstream.coordinator.progress import bytes_text

_STYLES: Final = {Verdict.NEW: "green", Verdict.DROPPED: "red", Verdict.INCOMPATIBLE: "red"}
_WIDTH: Final = 160


def changes(found: Sequence[Fate]) -> Table:
    """A row for each operator with state, source and sink."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("operator", "", "state", "rows", "bytes", ""):
        table.add_column(column, justify="right" if column in ("rows", "bytes") else "left", overflow="fold")
    for fate in found:
        held = (f"{fate.rows:,}", bytes_text(fate.size_bytes)) if fate.rows else ("", "")
        verdict = Text(fate.verdict.value, _STYLES.get(fate.verdict, ""))
        table.add_row(fate.name, fate.what, verdict, *held, "; ".join(fate.remarks))
    return table


def as_text(found: Sequence[Fate]) -> str:
    """The same for a log."""
    out = io.StringIO()
    Console(file=out, width=_WIDTH, color_system=None, highlight=False).print(changes(found))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
