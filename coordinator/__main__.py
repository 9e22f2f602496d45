"""``python -m millstream.coordinator DESCRIPTOR``: started by the supervisor, not by hand."""

import sys

from millstream.bootstrap import begin_child
from millstream.coordinator.loop import main

sys.exit(main(*begin_child(int(sys.argv[1]))))
