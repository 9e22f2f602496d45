"""The workloads: what each one asks, what it reads, and who can answer it on how many events.

A contestant's number of events makes its timed run last ten seconds or more on a core or two of a common machine;
events/s does not depend on it, since they stream through. DuckDB is the exception: it holds all groups at once and
slows down as they grow, so it gets fewer events and repeats its query until ten seconds have passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench import data
from bench.job import BenchError

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """One stated question."""

    name: str
    question: str
    prepare: Callable[[int, str], object]
    """Makes the files that a contestant reads, before anything is timed: takes the number of events and its name."""
    events: Mapping[str, int]
    """Events of a timed run by contestant; who is missing cannot run this workload."""
    keys: Callable[[int], int] | None = None
    """Distinct keys of so many events, where memory per key is part of the question."""
    few_keys: str = ""
    """The job beyond whose memory that of the keys is counted: as many events, of which hardly any has a key of its own."""

    def events_for(self, contestant: str) -> int:
        if contestant not in self.events:
            raise BenchError(f"{self.name}: {contestant} does not run it; these do: {', '.join(self.events)}")
        return self.events[contestant]


def _columns(stream: str) -> Callable[[int, str], object]:
    def prepare(events: int, contestant: str) -> object:
        if contestant == "flink":
            return data.dump_file(stream, events)
        if contestant == "pathway":
            return data.json_file(stream, events)
        return data.arrow_files(stream, events)

    return prepare


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "W1",
            "How fast are count, sum, mean and max per key in tumbling windows of 10 s? 10,000 keys (Zipf 1.2), an "
            "event a millisecond, up to 2 s out of order; columns in, results dropped.",
            _columns("zipf"),
            {
                "millstream": 160 * MILLION,
                "duckdb": 40 * MILLION,
                "flink": 24 * MILLION,
                "bytewax": 200_000,
                "pathway": MILLION,
            },
        ),
        Workload(
            "W1u",
            "What if almost every event brings a new key? W1 over 10 million uniform UUID keys; memory per key.",
            _columns("uuid"),
            {
                "millstream": 60 * MILLION,
                "duckdb": 10 * MILLION,
                "flink": 10 * MILLION,
                "bytewax": 200_000,
                "pathway": MILLION,
            },
            keys=lambda events: data.distinct_keys("uuid", events),
        ),
        Workload(
            "W8",
            "How much memory does a key take? Count, sum and max per key in a window of a day, over a million events of ten "
            "million uniform UUID keys; beyond what as many events of 10,000 keys take.",
            _columns("uuid"),
            dict.fromkeys(("millstream", "flink", "bytewax"), MILLION),
            keys=lambda events: data.distinct_keys("uuid", events),
            few_keys="W8few",
        ),
        Workload(
            "W2",
            "W1 from a file of JSON lines to a file of JSON lines.",
            lambda events, _: data.json_file("zipf", events),
            {
                "millstream": 40 * MILLION,
                "duckdb": 40 * MILLION,
                "flink": 10 * MILLION,
                "bytewax": 200_000,
                "pathway": MILLION,
            },
        ),
        Workload(
            "W3",
            "Word count with expressions (split, explode). An event is a line of 10 words out of 50,000 (Zipf 1.2).",
            lambda events, _: data.text_file(events),
            {
                "millstream": 30 * MILLION,
                "duckdb": 30 * MILLION,
                "flink": 4 * MILLION,
                "bytewax": 1_500_000,
                "pathway": MILLION,
            },
        ),
        Workload(
            "W3f",
            "Word count with a Python flat_map. Lines as in W3.",
            lambda events, _: data.text_file(events),
            {"millstream": 2 * MILLION, "bytewax": 1_500_000, "pathway": MILLION},
        ),
        Workload(
            "W4",
            "What do a Python map per event and then a Python scan per key cost? Running mean and deviation, an alert "
            "where a value is above mean + 3 deviations; events as in W1.",
            _columns("zipf"),
            {"millstream": 8 * MILLION, "duckdb": 8 * MILLION, "bytewax": 6 * MILLION, "pathway": MILLION},
        ),
        Workload(
            "W5",
            "Sessions of each key with a gap of 5 s: count and sum. Events as in W1.",
            _columns("zipf"),
            {"millstream": 120 * MILLION, "duckdb": 8 * MILLION, "flink": 8 * MILLION},
        ),
        Workload(
            "W6",
            "Hopping windows of 60 s every 10 s: count per key. Events as in W1; each counts in six windows.",
            _columns("zipf"),
            {"millstream": 120 * MILLION, "duckdb": 8 * MILLION, "flink": 8 * MILLION},
        ),
        Workload(
            "W7",
            "Join of two streams on their key, 10 s either way. Half of the events in each stream, 10,000 uniform keys, "
            "an event a millisecond in each: two matches for an event.",
            lambda events, contestant: [_columns(stream)(events // 2, contestant) for stream in ("left", "right")],
            {"millstream": 50 * MILLION, "duckdb": MILLION, "flink": 4 * MILLION},
        ),
    )
}


def workload(name: str) -> Workload:
    if name not in WORKLOADS:
        raise BenchError(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
    return WORKLOADS[name]
