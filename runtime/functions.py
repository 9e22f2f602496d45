"""The user's functions on their way to the workers.

A `UserFunction` crosses process borders as an opaque cloudpickle blob and becomes a function only where
`load` is called: in workers. The coordinator carries plans with user functions without ever running
a line of the user's code.
"""

from __future__ import annotations

import traceback
from types import FrameType
from typing import Any

import cloudpickle

from millstream.errors import FlowError, UserCodeError

_EVENT_TEXT_LIMIT = 500


class UserFunction:
    """A user's function (or class, or object), with a name for errors and `explain`."""

    __slots__ = ("_blob", "_value", "name")

    def __init__(self, value: Any) -> None:
        self._value: Any = value
        self._blob: bytes | None = None
        self.name = getattr(value, "__qualname__", None) or type(value).__qualname__

    def load(self) -> Any:
        """The function itself: call this where user code may run.

        Raises:
            UserCodeError: it cannot be imported here, with the reason.
        """
        if self._value is None and self._blob is not None:
            try:
                self._value = cloudpickle.loads(self._blob)
            except Exception as error:
                raise UserCodeError(self.name, "loading the function in a worker", traceback.format_exc()) from error
        return self._value

    def __getstate__(self) -> tuple[str, bytes]:
        if self._blob is None:
            try:
                self._blob = cloudpickle.dumps(self._value)
            except Exception as error:
                raise FlowError(
                    f"{self.name}: the function cannot be sent to the workers: {error}; "
                    "open files, sockets and locks inside the function instead of capturing them"
                ) from error
        return (self.name, self._blob)

    def __setstate__(self, state: tuple[str, bytes]) -> None:
        self.name, self._blob = state
        self._value = None

    def __repr__(self) -> str:
        return self.name


class Text(str):
    """Text that is shown as it is, where an event would be shown by its `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def user_error(operator: str, event: object, error: BaseException) -> UserCodeError:
    """The error for a user's function that raised: its operator, the event, and the user's own traceback."""
    # The frames above the user's function are Millstream's; they would only hide the line that matters.
    calls = zip(traceback.walk_tb(error.__traceback__), traceback.extract_tb(error.__traceback__), strict=True)
    frames = [summary for (frame, _), summary in calls if not _ours(frame)]
    lines = [
        "Traceback (most recent call last):\n",
        *traceback.format_list(frames),
        *traceback.format_exception_only(error),
    ]
    text = repr(event)
    if len(text) > _EVENT_TEXT_LIMIT:
        text = text[:_EVENT_TEXT_LIMIT] + "..."
    return UserCodeError(operator, text, "".join(lines))


def _ours(frame: FrameType) -> bool:
    """By the module, not by the path: a checkout may lie in a folder of any name."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "millstream"
