"""Where dead letters go: a JSON lines file for each process, in the state directory.

Each letter in a file has an ``id`` of its own, whatever lives the run had: its process, the life in which that began to
write, and a number.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from millstream.operators.base import DeadLetter

LETTERS: Final = "dead-letters"
"""The folder in the state directory."""
LETTERS_KEPT: Final = 1_000
_AFTER: Final = "after_checkpoint"


class DeadLetterFile:
    """Appends dead letters to a file, which is made with the first.

    Args:
        attempt: which life of the run this is; 0: letters get no id.

    Attributes:
        kept: the first of them, where there is no file.
    """

    def __init__(self, path: Path | None, attempt: int = 0) -> None:
        self.path = path
        self._attempt = attempt
        self._written = 0
        self.kept: list[DeadLetter] = []
        self._file: IO[str] | None = None

    def __call__(self, letter: DeadLetter) -> None:
        if self.path is None:
            if len(self.kept) < LETTERS_KEPT:
                self.kept.append(letter)
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        fields = as_json(letter)
        if self._attempt:
            fields["id"] = f"{self.path.stem}-{self._attempt}-{self._written}"
            self._written += 1
        self._file.write(json.dumps(fields, ensure_ascii=False) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def cut_back(folder: Path, epoch: int) -> None:
    """Take out the letters from after a checkpoint: a run that goes on from there refuses those records again.

    Args:
        epoch: of the checkpoint; 0: the run starts anew.
    Raises:
        OSError: a file cannot be written.
    """
    for path in folder.glob("*.jsonl"):  # nobody writes to them now
        kept = path.with_suffix(".kept")
        with path.open("rb") as letters, kept.open("wb") as out:
            out.writelines(line for line in letters if _is_before(line, epoch))
        kept.replace(path)


def _is_before(line: bytes, epoch: int) -> bool:
    try:
        return bool(json.loads(line).get(_AFTER, 0) < epoch)
    except ValueError:
        return False  # whoever wrote it was killed in the middle


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as it is stored: what is unknown is left out, bytes that are no text are base64."""
    fields: dict[str, Any] = {"operator": letter.operator, "reason": letter.reason}
    if letter.origin:
        fields["origin"] = letter.origin
    if letter.line:
        fields["line"] = letter.line
    if letter.offset >= 0:
        fields["offset"] = letter.offset
    if letter.after:
        fields[_AFTER] = letter.after
    if letter.replayed:
        fields["replayed"] = letter.replayed
    if isinstance(letter.record, str):
        fields["record"] = letter.record
    else:
        try:
            fields["record"] = letter.record.decode()
        except UnicodeDecodeError:
            fields["record_base64"] = base64.b64encode(letter.record).decode()
    for name, data in (("row", letter.row), ("header", letter.header)):
        if data:
            fields[name] = base64.b64encode(data).decode()
    return fields


def from_json(fields: Mapping[str, Any]) -> DeadLetter:
    """What `as_json` has made; a record that was bytes is bytes or text.

    Raises:
        ValueError, KeyError, TypeError: it has made this not.
    """
    record = base64.b64decode(fields["record_base64"]) if "record_base64" in fields else fields["record"]
    return DeadLetter(
        fields["operator"], fields.get("origin", ""), fields.get("line", 0), fields.get("offset", -1), fields["reason"],
        record, fields.get(_AFTER, 0), base64.b64decode(fields.get("row", "")),
        base64.b64decode(fields.get("header", "")), fields.get("replayed", 0),
    )  # fmt: skip


def letters_in(lines: bytes) -> list[DeadLetter]:
    """The letters that are to be replayed, of a block of them."""
    return [from_json(json.loads(line)) for line in lines.splitlines()]


def stored(state: Path) -> Iterator[dict[str, Any]]:
    """The letters in a state directory, as `as_json` has made them, in the order in which each process wrote them."""
    for path in sorted((state / LETTERS).glob("*.jsonl")):
        yield from stored_in(path)


def stored_in(path: Path) -> Iterator[dict[str, Any]]:
    """The letters of one file."""
    with path.open("rb") as lines:
        for line in lines:
            try:
                letter = json.loads(line)
            except ValueError:
                continue  # it is being written, or whoever wrote it was killed
            if isinstance(letter, dict):
                yield letter


def after(fields: Mapping[str, Any]) -> int:
    """The newest checkpoint when a stored letter was refused; every later one counts it."""
    return int(fields.get(_AFTER, 0))


def name_of(title: str) -> str:
    """An operator's name in the flow, without the user's line."""
    return title.partition(" (")[0]
