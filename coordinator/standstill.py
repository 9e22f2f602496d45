"""How long a run stands still when it has lost a process, and what with: it is told when the run goes on."""

from __future__ import annotations


class Standstill:
    """Phase after phase; times are readings of `time.monotonic`.

    Args:
        noticed_s: when the process was seen to be gone.
    """

    def __init__(self, noticed_s: float) -> None:
        self._noticed_s = self._since_s = noticed_s
        self._phases: list[tuple[str, float]] = []

    def passed(self, phase: str, now_s: float) -> None:
        """A phase is over, and the next begins."""
        self._phases.append((phase, now_s - self._since_s))
        self._since_s = now_s

    def sentence(self, restoring_s: float, restoring_cpu_s: float, now_s: float) -> str:
        """What is told when the run goes on.

        Args:
            restoring_s: how long the worker took to read its state that took longest.
            restoring_cpu_s: what it had of a core in that time: where that is much less, it waited for the disk or for a core.
        """
        starting_s = max(0.0, now_s - self._since_s - restoring_s)
        phases = [*self._phases, ("processes begin", starting_s), ("state is read", restoring_s)]
        told = ", ".join(f"{phase} {took_s:.2f} s" for phase, took_s in phases)
        return (
            f"the run goes on, {now_s - self._noticed_s:.1f} s after the loss: {told} ({restoring_cpu_s:.2f} s of CPU)"
        )
