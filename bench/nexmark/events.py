"""The auction house: persons register, open auctions and bid, and each of it is one JSON line.

A line holds one of three records, and ``event_type`` says which::

    {"event_type":2,"ts":1715713100006,"bid":{"auction":1012,"bidder":2000,"price":980, ...}}
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa

import millstream as ms
from millstream import col

Emit = Literal["updates", "final"]

OUT_OF_ORDERNESS = "4s"
NUMBER, TEXT, TIME = pa.int64(), pa.string(), pa.timestamp("ms", "UTC")

PERSON = {
    "id": NUMBER, "name": TEXT, "emailAddress": TEXT, "creditCard": TEXT, "city": TEXT, "state": TEXT,
    "dateTime": TIME, "extra": TEXT,
}  # fmt: skip
AUCTION = {
    "id": NUMBER, "itemName": TEXT, "description": TEXT, "initialBid": NUMBER, "reserve": NUMBER,
    "dateTime": TIME, "expires": TIME, "seller": NUMBER, "category": NUMBER, "extra": TEXT,
}  # fmt: skip
BID = {
    "auction": NUMBER, "bidder": NUMBER, "price": NUMBER, "channel": TEXT, "url": TEXT,
    "dateTime": TIME, "extra": TEXT,
}  # fmt: skip
RECORDS = {"person": PERSON, "auction": AUCTION, "bid": BID}
"""The records, in the order of their ``event_type``."""


def _fields(types: Mapping[str, pa.DataType]) -> list[pa.Field[pa.DataType]]:
    """Fields of a record; that times are milliseconds since 1970 is said to the JSON reader by the metadata."""
    return [pa.field(n, t, metadata={"unit": "ms"} if pa.types.is_timestamp(t) else None) for n, t in types.items()]


SCHEMA = pa.schema(
    _fields({"event_type": NUMBER, "ts": TIME})
    + [pa.field(name, pa.struct(_fields(types))) for name, types in RECORDS.items()]
)


class AuctionHouse:
    """The streams that every query starts from, cut out of one.

    All of them read the same source, and of it only those fields that the queries of the flow ask for.

    Args:
        path: a file of events, or a glob of such files.
        partitions: "files" reads several files side by side.
        emit: when a query that revises its answers puts them out: with every change, or at the end.
    """

    def __init__(
        self, flow: ms.Flow, path: Path | str, *, partitions: Literal["one", "files"] = "one", emit: Emit = "updates"
    ) -> None:
        self.emit = emit
        self._arriving = flow.read_jsonl(str(path), schema=SCHEMA, partitions=partitions)

    @cached_property
    def persons(self) -> ms.Stream:
        return _records("person", self._events)

    @cached_property
    def auctions(self) -> ms.Stream:
        return _records("auction", self._events)

    @cached_property
    def bids(self) -> ms.Stream:
        return _records("bid", self._events)

    @cached_property
    def arriving_bids(self) -> ms.Stream:
        """Bids without event time: windows over them go by the time of their arrival."""
        return _records("bid", self._arriving)

    @cached_property
    def _events(self) -> ms.Stream:
        return self._arriving.event_time("ts", out_of_orderness=OUT_OF_ORDERNESS)


def _records(name: str, events: ms.Stream) -> ms.Stream:
    """The events that hold a record of this name, with the record's fields in place of the event's."""
    number = list(RECORDS).index(name)
    return events.filter(col("event_type") == number).select(*(col(name).struct.field(f) for f in RECORDS[name]))
