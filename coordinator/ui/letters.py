"""The newest dead letters and late events: the ends of the files in which a run keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_TAIL_BYTES: Final = 256 * 1024
_FILES: Final = 64
_VALUE_LENGTH: Final = 2_000
_UNREAD: Final = frozenset(("row", "header"))
"""Of a dead letter, what only its operator can read."""


def newest_letters(folder: Path, most: int) -> list[dict[str, Any]]:
    """The last dead letters in the files of a folder, from the file written last; each says which file it is in."""
    letters = _newest(folder, most)
    for letter in letters:
        letter["fields"] = {n: v for n, v in letter["fields"].items() if n not in _UNREAD}
    return letters


def _newest(folder: Path, most: int) -> list[dict[str, Any]]:
    """The last of the JSON lines in the files of a folder."""
    try:
        files = [p for p in folder.rglob("*") if p.is_file() and p.suffix == ".jsonl"]
        files.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    except OSError:
        return []
    found: list[dict[str, Any]] = []
    for path in files[:_FILES]:
        if len(found) >= most:
            break
        found += _last_lines(path, str(path.relative_to(folder)), most - len(found))
    return found


def late_in_files(folder: Path, most: int) -> list[dict[str, Any]]:
    """The newest late events in the files of those operators whose late output nobody takes, as far as these tell."""
    return [
        {
            "operator": letter["file"].split("/")[0], "seen_us": None, "event_time_us": None, "watermark_us": None,
            "late_by_us": None, "row": letter["fields"],
        }
        for letter in _newest(folder, most)
    ]  # fmt: skip


def _last_lines(path: Path, name: str, most: int) -> list[dict[str, Any]]:
    """The last lines of a file that are whole, the newest first."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - _TAIL_BYTES)
            file.seek(start)
            lines = file.read(_TAIL_BYTES).split(b"\n")
    except OSError:
        return []
    if start:
        lines = lines[1:]
    found: list[dict[str, Any]] = []
    for line in reversed(lines):
        if len(found) == most:
            break
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            found.append({"file": name, "fields": {k: _shortened(v) for k, v in fields.items()}})
    return found


def _shortened(value: Any) -> Any:
    return value[:_VALUE_LENGTH] + "…" if isinstance(value, str) and len(value) > _VALUE_LENGTH else value
