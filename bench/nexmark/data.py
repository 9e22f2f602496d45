"""Nexmark events of any number, the same for the same seed, cached as files among the other benchmarks' data.

The distributions are those of the public generator. Of 50 events one is a person, three are auctions and the rest
bids. Half of the bids go to the hottest auction of the last hundred, three quarters come from the busiest bidder,
and three quarters of the auctions are of the busiest seller; ids may run ahead of the person or auction that they
name. Prices are spread evenly over six powers of ten. Half of the bids come by one of four great channels, the
others by one of ten thousand, whose number nine links in ten have. Events are two milliseconds apart and arrive
out of order within their 50. A million events take five seconds to make.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from string import ascii_lowercase
from typing import Final

import numpy as np

from bench.data import cached, dealt

SEED: Final = 7
START_MS: Final = 1_715_713_100_000
EVERY_MS: Final = 2
GROUP: Final = 50
AUCTIONS_A_GROUP: Final = 3
STRIDE: Final = 953  # without a common divisor with GROUP: the order in which the events of a group arrive
FIRST_ID: Final = 1_000
FIRST_CATEGORY, CATEGORIES = 10, 5
ID_LEAD: Final = 10
ACTIVE_PERSONS, OPEN_AUCTIONS, HOT_EVERY = 1_000, 100, 100

STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
CITIES = (
    "Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne",
)  # fmt: skip
FIRST_NAMES = ("Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter")
LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris")
GREAT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
CHANNELS: Final = 10_000


def event_file(events: int, parts: int = 1) -> Path:
    """The first ``events`` events as one file; with several parts a folder of files, blocks of lines dealt out."""
    return dealt(cached(f"nexmark-{events}.jsonl", lambda path: _write(path, events)), parts)


def _write(path: Path, events: int) -> None:
    with path.open("w") as file:
        file.writelines(Generator().lines(events))


class Generator:
    """The events in the order of their arrival."""

    def __init__(self) -> None:
        self._random = Random(SEED)
        self._letters = _letters()
        self._spaced = "".join(self._random.choices(" " + ascii_lowercase, [2] + [1] * 26, k=1 << 16))
        self._great = [(name, self._url()) for name in GREAT_CHANNELS]
        self._small = [self._channel(number) for number in range(CHANNELS)]

    def lines(self, events: int) -> Iterator[str]:
        for arrival in range(events):
            number = arrival // GROUP * GROUP + arrival * STRIDE % GROUP
            at, place = START_MS + number * EVERY_MS, number % GROUP
            if place == 0:
                kind, name, record = 0, "person", self._person(number, at)
            elif place <= AUCTIONS_A_GROUP:
                kind, name, record = 1, "auction", self._auction(number, at)
            else:
                kind, name, record = 2, "bid", self._bid(number, at)
            yield f'{{"event_type":{kind},"ts":{at},"{name}":{record}}}\n'

    def _person(self, number: int, at: int) -> str:
        choice = self._random.choice
        card = " ".join(f"{self._random.randrange(10_000):04d}" for _ in range(4))
        return (
            f'{{"id":{FIRST_ID + _last_person(number)},"name":"{choice(FIRST_NAMES)} {choice(LAST_NAMES)}",'
            f'"emailAddress":"{self._words(7)}@{self._words(5)}.com","creditCard":"{card}","city":"{choice(CITIES)}",'
            f'"state":"{choice(STATES)}","dateTime":{at},"extra":"{self._extra(106, 174)}"}}'
        )

    def _auction(self, number: int, at: int) -> str:
        start = self._price()
        # As long as it takes for so many auctions to be open at a time, and at most twice as long.
        horizon_ms = OPEN_AUCTIONS * GROUP // AUCTIONS_A_GROUP * EVERY_MS
        expires = at + 1 + self._random.randrange(2 * horizon_ms)
        seller = self._hot(_last_person(number)) if self._random.randrange(4) else self._person_before(number)
        return (
            f'{{"id":{FIRST_ID + _last_auction(number)},"itemName":"{self._words(20)}",'
            f'"description":"{self._words(100)}","initialBid":{start},"reserve":{start + self._price()},'
            f'"dateTime":{at},"expires":{expires},"seller":{FIRST_ID + seller},'
            f'"category":{FIRST_CATEGORY + self._random.randrange(CATEGORIES)},"extra":"{self._extra(270, 532)}"}}'
        )

    def _bid(self, number: int, at: int) -> str:
        auction = self._hot(_last_auction(number)) if self._random.randrange(2) else self._auction_before(number)
        bidder = self._hot(_last_person(number)) + 1 if self._random.randrange(4) else self._person_before(number)
        channel, url = self._random.choice(self._great if self._random.randrange(2) else self._small)
        return (
            # The public generator adds the first id to bidders twice; so they and persons overlap only in part.
            f'{{"auction":{FIRST_ID + auction},"bidder":{2 * FIRST_ID + bidder},"price":{self._price()},'
            f'"channel":"{channel}","url":"{url}","dateTime":{at},"extra":"{self._extra(54, 82)}"}}'
        )

    def _hot(self, last: int) -> int:
        return last // HOT_EVERY * HOT_EVERY

    def _person_before(self, number: int) -> int:
        known = _last_person(number) + 1
        active = min(known, ACTIVE_PERSONS)
        return known - active + self._random.randrange(active + ID_LEAD)

    def _auction_before(self, number: int) -> int:
        last = _last_auction(number)
        first = max(last - OPEN_AUCTIONS, 0)
        return first + self._random.randrange(last - first + 1 + ID_LEAD)

    def _price(self) -> int:
        return round(10 ** (self._random.random() * 6) * 100)

    def _channel(self, number: int) -> tuple[str, str]:
        url = self._url()
        if self._random.randrange(10):
            reversed_bits = int(f"{number:032b}"[::-1], 2)
            url += f"&channel_id={min(reversed_bits, 2**32 - reversed_bits)}"  # as a signed number, without its sign
        return f"channel-{number}", url

    def _url(self) -> str:
        folders = "/".join(self._words(5).replace(" ", "_") for _ in range(3))
        return f"https://www.nexmark.com/{folders}/item.htm?query=1"

    def _words(self, most: int) -> str:
        """Letters with a space here and there, fewer than ``most``."""
        length = 3 + self._random.randrange(most - 3)
        start = self._random.randrange(len(self._spaced) - length)
        return self._spaced[start : start + length].strip()

    def _extra(self, least: int, below: int) -> str:
        """Text that makes the record as long as it should be."""
        length = self._random.randrange(least, below)
        start = self._random.randrange((len(self._letters) - length) // 6) * 6
        return self._letters[start : start + length].replace("\\", "\\\\")


def _last_person(number: int) -> int:
    """The number of the last person before an event, from 0."""
    return number // GROUP


def _last_auction(number: int) -> int:
    """The number of the last auction before an event, or of the event itself."""
    group, place = divmod(number, GROUP)
    if place == 0:
        return max(group * AUCTIONS_A_GROUP - 1, 0)
    return group * AUCTIONS_A_GROUP + min(place, AUCTIONS_A_GROUP) - 1


def _letters() -> str:
    """By six from "a" upwards or downwards, as the public generator's signed remainders come out."""
    rng, groups = np.random.default_rng(SEED), 1 << 17
    signs = rng.choice(np.array([-1, 1]), (groups, 1))
    return bytes((ord("a") + signs * rng.integers(0, 26, (groups, 6))).astype(np.uint8).ravel()).decode()
