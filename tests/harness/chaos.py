"""``scripts/chaos``: many histories of simulated runs, or real runs of which processes are killed.

scripts/chaos --sim --seeds 2000              histories from seeds, on all cores
scripts/chaos --sim --seeds 1 --from 1234     one of them again, and how it went
scripts/chaos --kills 30                      real processes, kill -9 at random moments
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from .flows import FLOWS, answer
from .history import History, Story
from .kills import Kills

_SEEDS_AT_ONCE = 20


@dataclass
class Summary:
    """What came of some histories.

    Attributes:
        endings: how often a life ended in which way.
        wrong: what is to be looked at, with the seed first.
    """

    seeds: int = 0
    lives: int = 0
    checkpoints: int = 0
    recoveries: int = 0
    refused: int = 0
    endings: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, story: Story) -> None:
        self.seeds += 1
        self.lives += story.lives
        self.checkpoints += story.completed
        self.recoveries += story.recoveries
        self.refused += story.refused
        for ending in story.endings:
            self.endings[ending] = self.endings.get(ending, 0) + 1

    def merge(self, other: Summary) -> None:
        self.seeds += other.seeds
        self.lives += other.lives
        self.checkpoints += other.checkpoints
        self.recoveries += other.recoveries
        self.refused += other.refused
        self.wrong += other.wrong
        for ending, times in other.endings.items():
            self.endings[ending] = self.endings.get(ending, 0) + times

    @property
    def kills(self) -> int:
        return sum(times for ending, times in self.endings.items() if "killed" in ending)

    def __str__(self) -> str:
        return (
            f"{self.seeds:,} seeds: {len(self.wrong)} wrong; {self.lives:,} lives, {self.kills:,} of them ended by a kill, "
            f"{self.checkpoints:,} checkpoints, {self.recoveries:,} recoveries, {self.refused:,} damaged checkpoints passed over"
        )


def history(seed: int) -> History:
    """The history of a seed: its flow, and everything that happens to it."""
    return History(FLOWS[seed % len(FLOWS)], seed, answer=answer)


def simulate(seeds: Iterable[int]) -> Summary:
    summary = Summary()
    for seed in seeds:
        made = history(seed)
        try:
            made.run()
        except Exception as error:
            last = "\n".join(["", *made.story.last, ""])
            notes = "\n".join(getattr(error, "__notes__", []))
            found = traceback.format_exception_only(error)[0].strip()
            where = traceback.format_tb(error.__traceback__)[-1]
            summary.wrong.append(
                f"seed {seed}: {found}\n{where}{last}{notes}\nagain: scripts/chaos --sim --seeds 1 --from {seed}"
            )
        summary.add(made.story)
    return summary


def _simulate_all(first: int, count: int, jobs: int) -> Summary:
    started_s = time.monotonic()
    total = Summary()
    pieces = [range(s, min(s + _SEEDS_AT_ONCE, first + count)) for s in range(first, first + count, _SEEDS_AT_ONCE)]
    with ProcessPoolExecutor(jobs) as pool:
        for summary in pool.map(simulate, pieces):
            total.merge(summary)
            for wrong in summary.wrong:
                print(f"\n{wrong}\n", flush=True)
            if sys.stdout.isatty():
                print(f"\r{total.seeds:,} seeds, {len(total.wrong)} wrong", end="", flush=True)
    print(f"\n{total}; {time.monotonic() - started_s:.0f} s")
    for ending, times in sorted(total.endings.items(), key=lambda item: -item[1]):
        print(f"  {times:7,}  {ending}")
    return total


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--sim", action="store_true", help="simulate, each seed one history")
    parser.add_argument("--seeds", type=int, default=2_000, metavar="N", help="how many [2000]")
    parser.add_argument("--from", type=int, default=0, metavar="SEED", dest="first", help="the first [0]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes [all cores]")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill real processes so often")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chooses victims and moments [0]")
    options = parser.parse_args()
    if not options.sim and not options.kills:
        parser.error("say --sim or --kills N")
    right = True
    if options.sim and options.seeds == 1:
        print(history(options.first).run())
    elif options.sim:
        right &= not _simulate_all(options.first, options.seeds, options.jobs).wrong
    if options.kills:
        right &= Kills(options.kills, options.seed, say=lambda line: print(line, flush=True)).run()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
