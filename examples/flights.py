"""Delays of flights out of New York: hourly windows by the time when a plane should have left.

Rows come in the order in which planes left. A flight that leaves five hours late comes after its hour has
been closed: it is a late event, and is written to a file of its own.

    millstream run examples/flights.py --workers 2
    millstream run examples/flights.py -- flights-2013.csv.gz     another file than January's, with the same fields
"""

import sys
from pathlib import Path

import millstream as ms
from millstream import col

january = Path(__file__).parent / "data" / "flights-january.csv.gz"
departures = sys.argv[1] if len(sys.argv) > 1 else january

flow = ms.Flow("flights")

delays = (
    flow.read_csv(departures)
    .filter(col("departed").is_not_null())  # cancelled flights never depart
    .event_time("scheduled", out_of_orderness="2h")
    .key_by("carrier")
    .window(ms.tumbling("1h"), allowed_lateness="30m")
    .agg(flights=ms.count(), mean_delay=ms.mean("dep_delay"), worst=ms.max("dep_delay"))
)
delays.write_jsonl("out/delays.jsonl")
delays.late.write_jsonl("out/late.jsonl")
