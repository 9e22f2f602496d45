"""State of an older version, brought to the one that the flow declares when it is read back from a checkpoint.

What is kept carries its version, key by key: files of several versions may count for one checkpoint.
"""

from __future__ import annotations

from typing import Any

from millstream.state_codec import StateError
from millstream.state_handles import Migration


class Migrator:
    """Brings the values of one state to its version.

    Args:
        where: the operator, for errors; name: of the state.
        version: that the flow declares; migrate: what the user has given for older ones.
    """

    def __init__(self, where: str, name: str, version: int, migrate: Migration | None) -> None:
        self._where = f"{where}: state {name!r}"
        self.version = version
        self._migrate = migrate

    def __call__(self, old: Any, old_version: int) -> Any:
        """
        Raises:
            StateError: it is of a newer version, nothing brings it to this one, or what should has failed.
        """
        if old_version == self.version:
            return old
        if old_version > self.version:
            raise StateError(
                f"{self._where}: the checkpoint has version {old_version}, and the flow declares {self.version}; "
                "run the flow that wrote it"
            )
        if self._migrate is None:
            raise StateError(
                f"{self._where}: the checkpoint has version {old_version}, and the flow declares {self.version} without "
                "migrate=, a function(old, old_version) that makes the one of the other"
            )
        try:
            return self._migrate(old, old_version)
        except Exception as error:
            raise StateError(
                f"{self._where}: migrate(old, {old_version}) raised {type(error).__name__}: {error}; it was given {old!r:.200}"
            ) from error
