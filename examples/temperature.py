"""Thermometers: one handler for each type of event, then the mean of half an hour for each sensor.

Events of a type that no handler is subscribed to (here: heartbeats) are counted, and shown at the end.

    millstream run examples/temperature.py
"""

from pathlib import Path

import millstream as ms
from millstream import col

LOW_BATTERY = 60

flow = ms.Flow("temperature")


def reading(event: ms.Row) -> dict[str, object]:
    """What a handler returns goes on, as an event at the same time."""
    return {"sensor": event.sensor, "celsius": event.celsius}


def battery(event: ms.Row) -> None:
    """A handler that returns nothing ends here. What it prints stands above the live view, with the worker's name."""
    if event.percent < LOW_BATTERY:
        print(f"{event.at}: the battery of the {event.sensor} is at {event.percent} %")


(
    flow.read_jsonl(Path(__file__).parent / "data" / "sensors.jsonl")
    .event_time("at", out_of_orderness="1m")
    .on("reading", reading)
    .on("battery", battery)
    .key_by("sensor")
    .window(ms.tumbling("30m"))
    .agg(mean=ms.mean("celsius"), highest=ms.max("celsius"))
    .select("window_start", "sensor", "highest", mean=col("mean").round(1))
    .print()
)
