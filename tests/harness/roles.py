"""Which process of a run is which."""

from __future__ import annotations

import psutil


def role_of(process: psutil.Process) -> str | None:
    """The name by which it goes in the run; of one that starts, what its command line says. None: it is none of a run.

    Raises:
        psutil.Error: it is gone.
    """
    command = process.cmdline()
    if "millstream.coordinator.spare" in command:
        return "spare" if process.name().startswith("python") else process.name()
    if "millstream.coordinator" in command:
        return "coordinator"
    if "millstream.coordinator.hosting" in command:
        return "source-host"
    if "millstream.workers" in command:
        return f"worker-{command[command.index('millstream.workers') + 1]}"
    return None
