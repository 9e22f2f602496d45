"""The workers of a run as the coordinator sees them: who has said hello, what each has told, who hangs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from millstream.wire import Failed

HANG_TIMEOUT_S: Final = 60.0
_SLOWEST_RESTORE_BYTES_PER_US: Final = 10
"""Before its hello a worker reads its state: it may take longer for as long as it reads 10 MB a second."""


@dataclass(slots=True)
class _Member:
    finished: bool = False
    seen_us: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)


class Members:
    """A pure decision about who is there; times are readings of the clock that tells liveness.

    Args:
        hang_timeout_s: how long a worker may give no sign of life.
        restored_bytes: how much state all of them read before they say hello.

    Attributes:
        awaited: who has to say hello before anything begins.
    """

    def __init__(self, names: Iterable[str], hang_timeout_s: float, restored_bytes: int) -> None:
        self._all = {name: _Member() for name in names}
        self.awaited = set(self._all)
        self._hang_timeout_us = int(hang_timeout_s * 1e6)
        self._restore_us = restored_bytes // _SLOWEST_RESTORE_BYTES_PER_US
        self._watched_since_us: int | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __contains__(self, name: object) -> bool:
        return name in self._all

    def watch(self, now_us: int) -> None:
        """From the first call on silence counts."""
        if self._watched_since_us is None:
            self._watched_since_us = now_us

    def seen(self, name: str, now_us: int) -> None:
        self._all[name].seen_us = now_us

    def told(self, name: str, figures: Mapping[str, Any], now_us: int, *, finished: bool = False) -> None:
        """A worker says what it has done so far, and whether that was all."""
        member = self._all[name]
        member.seen_us, member.figures = now_us, figures
        member.finished |= finished

    @property
    def unfinished(self) -> list[str]:
        return [name for name, member in self._all.items() if not member.finished]

    def lost(self, now_us: int) -> Iterator[Failed]:
        """Who hangs: after its hello everyone says something every quarter of a second."""
        self.watch(now_us)
        assert self._watched_since_us is not None
        for name, member in self._all.items():
            silent_us = now_us - max(member.seen_us, self._watched_since_us)
            limit_us = self._hang_timeout_us + (self._restore_us if name in self.awaited else 0)
            if member.finished or silent_us <= limit_us:
                continue
            silent_s = silent_us // 1_000_000
            text = f"{name} gave no sign of life for {silent_s} s: it hangs, or the machine was asleep"
            if name in self.awaited:
                text = f"{name} did not start within {silent_s} s"
            yield Failed(name, ["ProcessLost", text])

    def figures(self) -> dict[str, Mapping[str, Any]]:
        return {name: member.figures for name, member in self._all.items()}
