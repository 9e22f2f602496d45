"""What may be asked of a run while it goes on, and what it answers: the words of the control channel, as JSON.

A request is one line, ``{"version": 1, "command": {"do": "scale", "workers": 3}}``; so is its answer. Both are open to
other programs. Nothing here does input or output; control.py carries these lines.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from millstream.errors import CommandError
from millstream.queries import MOST_KEYS, MOST_ROWS

VERSION: Final = 1

LINE_BYTES: Final = 65_536
"""No request is longer."""
ANSWER_BYTES: Final = 64 << 20
"""No answer is longer."""


class Checkpoint(Struct, frozen=True, tag_field="do", tag="checkpoint", forbid_unknown_fields=True):
    """Make a checkpoint now."""


class Savepoint(Struct, frozen=True, tag_field="do", tag="savepoint", forbid_unknown_fields=True):
    """Make a checkpoint now, and put it where no later one takes its place.

    Attributes:
        to: an absolute path of a directory that is not there yet, or empty; "": one in the state directory.
    """

    to: str = ""


class Pause(Struct, frozen=True, tag_field="do", tag="pause", forbid_unknown_fields=True):
    """Read nothing more until told to; what was read is worked on."""


class Resume(Struct, frozen=True, tag_field="do", tag="resume", forbid_unknown_fields=True):
    """Read again."""


class Scale(Struct, frozen=True, tag_field="do", tag="scale", forbid_unknown_fields=True):
    """Go on with another number of workers."""

    workers: Annotated[int, Meta(ge=1, le=256)]


class Stop(Struct, frozen=True, tag_field="do", tag="stop", forbid_unknown_fields=True):
    """End the run.

    Attributes:
        drain: open windows fire and the output is finished; else a last checkpoint is made, to go on from.
        savepoint: that last checkpoint becomes a savepoint, at ``to``.
    """

    drain: bool = False
    savepoint: bool = False
    to: str = ""


AskedKey = str | list[str | int | float | bool | None]
"""Of a key its text, or a value for each key field."""


class Query(Struct, frozen=True, tag_field="do", tag="query", forbid_unknown_fields=True):
    """Tell what an operator holds.

    Attributes:
        operator: its name.
        keys: None: all keys.
        at_us: only windows that hold this time, in microseconds since the epoch; None: all that are open.
        most: how many rows the answer may have.
        format: ``arrow`` answers with ``table``, ``json`` with ``records``.
    """

    operator: str
    keys: Annotated[list[AskedKey], Meta(min_length=1, max_length=MOST_KEYS)] | None = None
    at_us: Annotated[int, Meta(ge=-(2**62), le=2**62)] | None = None
    most: Annotated[int, Meta(ge=1, le=MOST_ROWS)] = 1_000
    format: Literal["arrow", "json"] = "arrow"


class Replay(Struct, frozen=True, tag_field="do", tag="replay", forbid_unknown_fields=True):
    """Give dead letters again to the operators that had refused them; without any choice all of them.

    Attributes:
        operator: only those of this one, by its name.
        reason: only those with this in their reason.
        letters: only these, by their ids.
        dry: only say how many they are.
    """

    operator: str | None = None
    reason: str | None = None
    letters: Annotated[list[str], Meta(min_length=1, max_length=MOST_KEYS)] | None = None
    dry: bool = False


Command = Checkpoint | Savepoint | Pause | Resume | Scale | Stop | Query | Replay


class Answer(Struct, frozen=True, omit_defaults=True):
    """What came of a command.

    Attributes:
        said: a sentence for people.
        error: it was not done, and ``said`` says why.
        epoch: the checkpoint that was made.
        path: where the savepoint is.
        seconds: how long it took.
        letters: how many dead letters are replayed, or would be.
        table: what an operator holds, as an Arrow IPC stream; in JSON as base64.
        records: the same as an object for each row.
        more: there is more than was asked for.
    """

    said: str
    error: bool = False
    epoch: int | None = None
    path: str | None = None
    seconds: float | None = None
    letters: int | None = None
    table: bytes | None = None
    records: list[dict[str, Any]] | None = None
    more: bool = False


class _Request(Struct, frozen=True):
    version: Annotated[int, Meta(ge=0)]
    command: msgspec.Raw


class _Reply(Struct, frozen=True):
    version: Annotated[int, Meta(ge=0)]
    answer: msgspec.Raw


def encode_command(command: Command) -> bytes:
    return msgspec.json.encode({"version": VERSION, "command": command}) + b"\n"


def decode_command(line: bytes) -> Command:
    """
    Raises:
        CommandError: not a command, of another version, or with fields that do not fit.
    """
    try:
        request = msgspec.json.decode(line, type=_Request)
        _check_version("the command", request.version)
        command: Command = msgspec.json.decode(request.command, type=Command)
        return command
    except msgspec.MsgspecError as error:
        raise CommandError(f"not a command: {error}") from error


def encode_answer(answer: Answer) -> bytes:
    return msgspec.json.encode({"version": VERSION, "answer": answer}, enc_hook=str) + b"\n"


def decode_answer(line: bytes) -> Answer:
    """
    Raises:
        CommandError: not an answer, or of another version.
    """
    try:
        reply = msgspec.json.decode(line, type=_Reply)
        _check_version("the answer", reply.version)
        return msgspec.json.decode(reply.answer, type=Answer)
    except msgspec.MsgspecError as error:
        raise CommandError(f"the run answered what is no answer: {error}") from error


def _check_version(what: str, version: int) -> None:
    if version != VERSION:
        raise CommandError(
            f"{what} is of version {version} of the control channel, and this is version {VERSION}: they are different "
            "releases; use the release that started the run"
        )
