"""``python -m millstream.workers INDEX DESCRIPTOR``: started by the supervisor, not by hand."""

import sys

from millstream.workers.loop import main

sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
