"""``python -m millstream.coordinator.spare DESCRIPTOR``: a process that will be whichever is needed (spares.py).

It has imported what a worker and the coordinator need, which takes a second of a core, and waits to be told.
"""

import sys

from millstream.bootstrap import begin_child
from millstream.coordinator import loop as coordinator
from millstream.process import go_by
from millstream.topology import COORDINATOR
from millstream.workers import loop as worker


def main(descriptor: int) -> int:
    go_by("spare")
    bootstrap, frames = begin_child(descriptor)
    return coordinator.main(bootstrap, frames) if bootstrap.name == COORDINATOR else worker.main(bootstrap, frames)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
