"""How many events each user has caused: state in Python, one value for each key.

`scan` calls a function with the key's state and an event; the function returns the new state and what goes
on. Here that is a milestone, now and then.

    millstream run examples/user_counts.py -- 20
"""

import sys
from pathlib import Path

import millstream as ms

EVERY = int(sys.argv[1]) if len(sys.argv) > 1 else 25

flow = ms.Flow("user-counts")


def count(seen: int, event: ms.Row) -> tuple[int, dict[str, object] | None]:
    seen += 1
    if seen % EVERY:
        return seen, None
    return seen, {"at": event.at, "user": event.user, "events": seen, "action": event.action}


flow.read_jsonl(Path(__file__).parent / "data" / "events.jsonl").key_by("user").scan(0, count).print()
