"""Which operator limits a run, and why, in one sentence.

A process is one thread. Where one is busy all the time, whatever it spends most of its time on limits the run; all
others wait for credit or for rows. Where none is, the run keeps up with its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SATURATED: Final = 0.85
"""The busy share from which on a process counts as working all the time: clocks and reports are not exact."""
_HAS_ROOM: Final = 0.65
_HOT_KEY: Final = 0.1
_NO_CPU_LEFT: Final = 0.95
_AS_BUSY: Final = 0.03
_HARDLY: Final = 0.3
_MOSTLY: Final = 0.5


@dataclass(frozen=True)
class ProcessLoad:
    """Attributes:
    busy: the share of its time in which it did not wait, 0 to 1.
    operators: the share of its time for each operator.
    """

    busy: float
    operators: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """Attributes:
    operator: None: nothing limits the run but its input.
    """

    operator: str | None
    process: str | None
    busy: float
    sentence: str


def limit_of(
    processes: Mapping[str, ProcessLoad],
    hot_keys: Mapping[str, tuple[str, float]],
    *,
    live: bool,
    machine_cpu: float | None = None,
) -> Limit | None:
    """What limits a run; None: nothing is known yet.

    Args:
        hot_keys: by operator, the key with the most events, and its share of them.
        live: whether the input comes as it happens, so that to keep up with it is all that there is to do.
        machine_cpu: the share of all cores that is in use, by whomever; None: not known.
    """
    if not processes:
        return None
    saturated = [n for n, p in processes.items() if p.busy >= SATURATED and p.operators]
    if not saturated:
        busiest = max(processes, key=lambda name: processes[name].busy)
        busy = processes[busiest].busy
        return Limit(None, None, busy, _keeps_up(busiest, busy, live))
    most = max(processes[name].busy for name in saturated)
    # Where cores are short all seem busy, those that wait for a core among them: then what takes most time counts.
    short_of_cores = machine_cpu is not None and machine_cpu >= _NO_CPU_LEFT
    least = SATURATED if short_of_cores else most - _AS_BUSY
    share, operator, busiest = max(
        (share, operator, name)
        for name in saturated
        if processes[name].busy >= least
        for operator, share in processes[name].operators.items()
    )
    if share < _HARDLY and short_of_cores:
        return Limit(None, None, most, "the machine limits the run: all of its cores are in use, by whomever")
    sentence = _reason(operator, share, busiest, processes, hot_keys.get(operator))
    if short_of_cores:
        sentence += "; all cores of the machine are in use"
    return Limit(operator, busiest, share, sentence)


def _keeps_up(busiest: str, busy: float, live: bool) -> str:
    what = "the run keeps up with its input" if live else "no operator limits the run"
    return f"{what}: the busiest process, {busiest}, is {busy:.0%} busy".replace("%", " %")


def _reason(
    operator: str, share: float, process: str, processes: Mapping[str, ProcessLoad], hot: tuple[str, float] | None
) -> str:
    busy = processes[process].busy
    if share >= _MOSTLY * busy:
        parts = [f"{share:.0%} busy"]
    else:
        parts = [f"{process} is {busy:.0%} busy, {share:.0%} with it"]
    others = {n: p.busy for n, p in processes.items() if operator in p.operators and n != process}
    if others and max(others.values()) < _HAS_ROOM:
        where = f"in {process} alone" if share >= _MOSTLY * busy else "alone"
        parts[0] += f" {where}, while others have room"
    if hot is not None and hot[1] >= _HOT_KEY:
        parts.append(f"key {hot[0]!r} carries {hot[1]:.0%} of its events")
    return f"`{operator}` limits the run: {', '.join(parts)}".replace("%", " %")
