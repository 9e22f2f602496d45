"""``python -m millstream.workers INDEX DESCRIPTOR``: started by the supervisor, not by hand."""

import sys

from millstream.bootstrap import begin_child
from millstream.workers.loop import main

sys.exit(main(*begin_child(int(sys.argv[2]))))
