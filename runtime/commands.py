"""What may be asked of a run while it goes on, and what it answers: the words of the control channel, as JSON.

A request is one line, ``{"version": 1, "command": {"do": "scale", "workers": 3}}``; so is its answer. Both are open to
other programs. Nothing here does input or output; control.py carries these lines.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from millstream.errors import CommandError

VERSION: Final = 1

LINE_BYTES: Final = 65_536
"""No request and no answer is longer."""


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


Command = Checkpoint | Savepoint | Pause | Resume | Scale | Stop


class Answer(Struct, frozen=True, omit_defaults=True):
    """What came of a command.

    Attributes:
        said: a sentence for people.
        error: it was not done, and ``said`` says why.
        epoch: the checkpoint that was made.
        path: where the savepoint is.
        seconds: how long it took.
    """

    said: str
    error: bool = False
    epoch: int | None = None
    path: str | None = None
    seconds: float | None = None


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
        if request.version != VERSION:
            raise CommandError(
                f"the command is of version {request.version} of the control channel and the run of version {VERSION}: "
                "they are different releases; use the release that started the run"
            )
        command: Command = msgspec.json.decode(request.command, type=Command)
        return command
    except msgspec.MsgspecError as error:
        raise CommandError(f"not a command: {error}") from error


def encode_answer(answer: Answer) -> bytes:
    return msgspec.json.encode({"version": VERSION, "answer": answer}) + b"\n"


def decode_answer(line: bytes) -> Answer:
    """
    Raises:
        CommandError: not an answer, or of another version.
    """
    try:
        reply = msgspec.json.decode(line, type=_Reply)
        if reply.version != VERSION:
            raise CommandError(
                f"the run answers in version {reply.version} of the control channel, and this is version {VERSION}: "
                "they are different releases; use the release that started the run"
            )
        return msgspec.json.decode(reply.answer, type=Answer)
    except msgspec.MsgspecError as error:
        raise CommandError(f"the run answered what is no answer: {error}") from error
