"""State in Python as it is at one moment, encoded while the operator goes on with it.

At a barrier the operator notes which states count (`Frozen`), which costs a list of keys. The thread that writes the
snapshot encodes them, a few at a time. Those that the operator is about to change it encodes itself before it does (`keep`), so
what is written is as it was at the barrier, and nobody waits for a million states.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from threading import Lock
from typing import Any, Final, Generic, TypeVar

from millstream.checkpoints.tables import Pause

S = TypeVar("S")
E = TypeVar("E")

CHUNK_KEYS: Final = 4_096
"""So many keys become columns at once."""
_KEYS_AT_ONCE: Final = 64
_NOT_KEPT: Final = object()


class Frozen(Generic[S, E]):
    """States that are to be encoded as they are now.

    Args:
        states: by key; they change and go on being used, but none of them without `keep`.
        keys: whose states are to be encoded; None: those of all keys.
        encode: what is kept of a state; called from two threads, never at the same time.
        lock: held while it is; one for all that encode with the same. (A checkpoint that was given up elsewhere may still
            be written when the next one begins.)
    """

    def __init__(
        self, states: Mapping[Any, S], keys: Collection[Any] | None, encode: Callable[[Any, S], E], lock: Lock
    ) -> None:  # fmt: skip
        self._states, self._encode = states, encode
        self._keys = list(states if keys is None else keys)
        self._wanted: Container[Any] = states if keys is None else frozenset(keys)
        self._kept: dict[Any, E] = {}
        self._written = not self._keys
        self._lock = lock

    def keep(self, keys: Iterable[Any]) -> None:
        """The states of these keys are about to change: encode what they are.

        Of keys that came since the moment, or have been written, that is done in vain, but once.

        Raises:
            StateError: one cannot be kept.
        """
        with self._lock:
            if self._written:
                return
            for key in keys:
                if key in self._wanted and key not in self._kept:
                    self._kept[key] = self._encode(key, self._states[key])

    def chunks(self, pause: Pause) -> Iterator[tuple[list[Any], list[E]]]:
        """All keys in their order, and what their states are encoded as; once.

        Raises:
            StateError: one cannot be kept.
        """
        for start in range(0, len(self._keys), CHUNK_KEYS):
            chunk = self._keys[start : start + CHUNK_KEYS]
            encoded: list[E] = []
            for first in range(0, len(chunk), _KEYS_AT_ONCE):
                with self._lock:
                    encoded += [self._take(key) for key in chunk[first : first + _KEYS_AT_ONCE]]
                pause()
            yield chunk, encoded
        with self._lock:
            self._written, self._keys, self._kept = True, [], {}

    def _take(self, key: Any) -> E:
        kept: Any = self._kept.get(key, _NOT_KEPT)
        return self._encode(key, self._states[key]) if kept is _NOT_KEPT else kept
