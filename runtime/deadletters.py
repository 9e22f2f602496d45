"""Where dead letters go: a JSON lines file for each process, in the state directory."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import IO, Any, Final

from millstream.operators.base import DeadLetter

LETTERS: Final = "dead-letters"
"""The folder in the state directory."""
LETTERS_KEPT: Final = 1_000
_AFTER: Final = "after_checkpoint"


class DeadLetterFile:
    """Appends dead letters to a file, which is made with the first.

    Attributes:
        kept: the first of them, where there is no file.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
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
        self._file.write(json.dumps(as_json(letter), ensure_ascii=False) + "\n")

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
    for path in folder.glob("*.jsonl"):
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
    if isinstance(letter.record, str):
        fields["record"] = letter.record
    else:
        try:
            fields["record"] = letter.record.decode()
        except UnicodeDecodeError:
            fields["record_base64"] = base64.b64encode(letter.record).decode()
    return fields
