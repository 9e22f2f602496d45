"""``python -m millstream.coordinator DESCRIPTOR``: started by the supervisor, not by hand."""

import sys

from millstream.coordinator.loop import main

sys.exit(main(int(sys.argv[1])))
