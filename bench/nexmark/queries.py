"""The queries of Nexmark, one function each: the streams of the auction house in, a stream of answers out.

docs/nexmark.md goes through them as a tutorial. Rows, text and times come first, then totals, windows, joins
and rankings.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

import pyarrow as pa

import millstream as ms
from bench.nexmark.events import AuctionHouse, Emit
from millstream import Expr, Stream, col, lit, when

Query = Callable[[AuctionHouse], Stream]

EUROS_PER_DOLLAR: Final = Decimal("0.908")


# --- row by row


def q0(house: AuctionHouse) -> Stream:
    """Every bid, as it came: what reading alone costs."""
    return house.bids.select("auction", "bidder", "price", "dateTime", "extra")


def q1(house: AuctionHouse) -> Stream:
    """Bids in euros, exact to the tenth of a cent."""
    euros = (col("price") * EUROS_PER_DOLLAR).alias("price")
    return house.bids.select("auction", "bidder", euros, "dateTime", "extra")


def q2(house: AuctionHouse) -> Stream:
    """The bids on one auction in 123."""
    return house.bids.filter(col("auction") % 123 == 0).select("auction", "price")


def q10(house: AuctionHouse) -> Stream:
    """Every bid with its day and minute, as a log would be filed."""
    at = col("dateTime").dt
    return house.bids.select(
        "auction", "bidder", "price", "dateTime", "extra", dt=at.strftime("%Y-%m-%d"), hm=at.strftime("%H:%M")
    )


def q13(house: AuctionHouse) -> Stream:
    """Each bid with what a table says about its auction."""
    numbers = range(10_000)
    table = pa.table({"key": pa.array(numbers), "value": pa.array(map(str, numbers))})
    keyed = house.bids.with_columns(key=col("auction") % 10_000)
    return keyed.lookup(table, on="key").select("auction", "bidder", "price", "dateTime", "value")


def q14(house: AuctionHouse) -> Stream:
    """Bids of a middling price in euros, the time of day in words, and how often the remark has the letter c."""
    euros = (col("price") * EUROS_PER_DOLLAR).alias("price")
    hour = col("dateTime").dt.hour()
    time_of_day = (
        when(hour.is_between(8, 18)).then("dayTime")
        .when((hour <= 6) | (hour >= 20)).then("nightTime")
        .otherwise("otherTime")
    )  # fmt: skip
    letters = col("extra").str.count_matches("c", literal=True)
    return (
        house.bids.select("auction", "bidder", euros, "dateTime", "extra")
        .filter(col("price").is_between(1_000_000, 50_000_000, closed="none"))
        .select("auction", "bidder", "price", time_of_day.alias("bidTimeType"), "dateTime", "extra", c_counts=letters)
    )


def q21(house: AuctionHouse) -> Stream:
    """Bids with the number of their channel: the great ones by name, the others by the link."""
    channel = col("channel").str.to_lowercase()
    number = (
        when(channel == "apple").then("0")
        .when(channel == "google").then("1")
        .when(channel == "facebook").then("2")
        .when(channel == "baidu").then("3")
        .otherwise(col("url").str.extract("(&|^)channel_id=([^&]*)", 2))
    )  # fmt: skip
    numbered = house.bids.select("auction", "bidder", "price", "channel", channel_id=number)
    return numbered.filter(col("channel_id").is_not_null())


def q22(house: AuctionHouse) -> Stream:
    """Bids with the first three folders of the link: https://host/dir1/dir2/dir3/..."""
    parts = col("url").str.split("/").list
    return house.bids.select(
        "auction", "bidder", "price", "channel", dir1=parts.get(3), dir2=parts.get(4), dir3=parts.get(5)
    )


# --- totals that grow with every bid

RANKS: Final = {
    "total": lit(True),
    "rank1": col("price") < 10_000,
    "rank2": col("price").is_between(10_000, 1_000_000, closed="left"),
    "rank3": col("price") >= 1_000_000,
}


def by_rank(what: str, aggregate: Callable[[Expr], ms.Aggregate], value: object = True) -> dict[str, ms.Aggregate]:
    """An aggregate of all bids, and of those of each rank of prices: nulls are not counted."""
    return {f"{rank}_{what}": aggregate(when(counts).then(value)) for rank, counts in RANKS.items()}


def bids_bidders_auctions() -> dict[str, ms.Aggregate]:
    return {
        **by_rank("bids", ms.count),
        **by_rank("bidders", ms.count_distinct, col("bidder")),
        **by_rank("auctions", ms.count_distinct, col("auction")),
    }


def q15(house: AuctionHouse) -> Stream:
    """How many bids, bidders and auctions each day has, in all and by rank of price."""
    return house.bids.key_by(day=col("dateTime").dt.date()).agg(**bids_bidders_auctions(), emit=house.emit)


def q16(house: AuctionHouse) -> Stream:
    """The same by channel and day, with the latest minute seen."""
    days = house.bids.key_by("channel", day=col("dateTime").dt.date())
    totals = days.agg(minute=ms.max("dateTime"), **bids_bidders_auctions(), emit=house.emit)
    return totals.with_columns(minute=col("minute").dt.strftime("%H:%M"))


def q17(house: AuctionHouse) -> Stream:
    """What is bid on each auction and day: how often, and the least, highest, mean and total price."""
    totals = house.bids.key_by("auction", day=col("dateTime").dt.date()).agg(
        **by_rank("bids", ms.count),
        min_price=ms.min("price"),
        max_price=ms.max("price"),
        avg_price=ms.mean("price"),
        sum_price=ms.sum("price"),
        emit=house.emit,
    )
    return totals.with_columns(avg_price=col("avg_price").cast("int64"))


# --- windows


def q5(house: AuctionHouse) -> Stream:
    """The auctions with the most bids in the last ten seconds, every two seconds."""
    windows = house.bids.key_by("auction").window(ms.hopping("10s", every="2s")).agg(num=ms.count())
    counts = windows.select("auction", "num", until=col("window_end"))
    # What a window puts out has the last time before its end: so all of one window meets in these two seconds again.
    last_hop = ms.tumbling("2s")
    most = counts.key_by("until").window(last_hop).agg(num=ms.max("num"))
    return counts.key_by("num").window(last_hop).join(most.key_by("num")).select("auction", "num")


def q7(house: AuctionHouse) -> Stream:
    """The bids with the highest price of their ten seconds."""
    highest = house.bids.key_by(house=lit("all")).window(ms.tumbling("10s")).agg(price=ms.max("price"))
    # The maximum comes with the last time before the window's end; a bid exactly at the end counts, too.
    found = house.bids.key_by("price").join(highest.key_by("price"), within=("-1us", "10s"))
    in_window = col("dateTime").is_between(col("window_start"), col("window_end"))
    return found.filter(in_window).select("auction", "bidder", "price", "dateTime", "extra")


def q8(house: AuctionHouse) -> Stream:
    """Who opened an auction within the ten seconds in which they registered."""
    persons, sellers = house.persons.key_by("id"), house.auctions.key_by(id=col("seller"))
    eager = persons.window(ms.tumbling("10s")).join(sellers, how="semi")
    return eager.select("id", "name", stime=col("window_start"))


def q11(house: AuctionHouse) -> Stream:
    """How many bids each bidder makes in one go, without ten seconds of silence."""
    sessions = house.bids.key_by("bidder").window(ms.session("10s")).agg(bid_count=ms.count())
    return sessions.select("bidder", "bid_count", starttime=col("window_start"), endtime=col("window_end"))


def q12(house: AuctionHouse) -> Stream:
    """How many bids each bidder makes in ten seconds of the clock on the wall."""
    windows = house.arriving_bids.key_by("bidder").window(ms.tumbling("10s")).agg(bid_count=ms.count())
    return windows.select("bidder", "bid_count", starttime=col("window_start"), endtime=col("window_end"))


# --- joins

ANTIQUES: Final = 10
"""The category that q3 and q20 ask for."""

BID_AND_AUCTION: Final = {
    "dateTime": "bid_dateTime", "extra": "bid_extra",
    "dateTime_right": "auction_dateTime", "extra_right": "auction_extra",
}  # fmt: skip
"""Names for the fields that a bid and its auction both have; a join adds "_right" to those of the second."""


def q3(house: AuctionHouse) -> Stream:
    """Who sells antiques in Oregon, Idaho or California; seller and auction may come in any order."""
    antiques = house.auctions.filter(col("category") == ANTIQUES).key_by("seller")
    sellers = house.persons.filter(col("state").is_in(["OR", "ID", "CA"])).key_by(seller=col("id"))
    return antiques.join(sellers).select("name", "city", "state", "id")


def q20(house: AuctionHouse) -> Stream:
    """The bids on antiques, each with its auction."""
    antiques = house.auctions.filter(col("category") == ANTIQUES).key_by(auction=col("id"))
    return house.bids.key_by("auction").join(antiques).rename(BID_AND_AUCTION).select(
        "auction", "bidder", "price", "channel", "url", "bid_dateTime", "bid_extra",
        "itemName", "description", "initialBid", "reserve", "auction_dateTime", "expires", "seller", "category",
        "auction_extra",
    )  # fmt: skip


def valid_bids(house: AuctionHouse) -> Stream:
    """The bids that came while their auction was open, each with the auction; ``auction`` is its id."""
    auctions = house.auctions.key_by(auction=col("id"))
    bids = house.bids.key_by("auction").join(auctions).rename(BID_AND_AUCTION)
    return bids.filter(col("bid_dateTime").is_between(col("auction_dateTime"), col("expires")))


def q4(house: AuctionHouse) -> Stream:
    """What the auctions of each category bring on average."""
    bids = valid_bids(house).key_by("auction", "category")
    winning = bids.agg(final=ms.max("price"), emit=house.emit)
    means = winning.key_by(id=col("category")).agg(final=ms.mean("final"), emit=house.emit)
    return means.with_columns(final=col("final").cast("int64"))


def winning_bids(house: AuctionHouse, emit: Emit) -> Stream:
    """The highest bid of each auction, of equal ones the earliest, with the auction."""
    return valid_bids(house).key_by("auction").top_n(1, by=[ms.desc("price"), "bid_dateTime"], emit=emit)


def q9(house: AuctionHouse) -> Stream:
    """Each auction with its winning bid."""
    return winning_bids(house, house.emit).select(
        col("auction").alias("id"), "itemName", "description", "initialBid", "reserve",
        col("auction_dateTime").alias("dateTime"), "expires", "seller", "category",
        col("auction_extra").alias("extra"), "auction", "bidder", "price", "bid_dateTime", "bid_extra",
    )  # fmt: skip


def q6(house: AuctionHouse) -> Stream:
    """What each seller's last eleven auctions brought on average, after each auction."""
    recent = winning_bids(house, "final").key_by("seller").window(ms.sliding(rows=11))
    means = recent.agg(avg_price=ms.mean("price"))
    return means.select("seller", avg_price=col("avg_price").cast("int64"))


# --- rankings


def q18(house: AuctionHouse) -> Stream:
    """Each bidder's last bid on each auction."""
    last = house.bids.key_by("bidder", "auction").dedupe(keep="last", emit=house.emit)
    return last.select("auction", "bidder", "price", "channel", "url", "dateTime", "extra")


def q19(house: AuctionHouse) -> Stream:
    """Each auction's ten highest bids, with their rank."""
    best = house.bids.key_by("auction").top_n(10, by=[ms.desc("price")], rank="rank_number", emit=house.emit)
    return best.select("auction", "bidder", "price", "channel", "url", "dateTime", "extra", "rank_number")


QUERIES: Final[dict[str, Query]] = {
    query.__name__: query
    for query in (
        q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, q10, q11, q12, q13, q14, q15, q16, q17, q18, q19, q20, q21, q22,
    )
}  # fmt: skip
"""Every query by its name."""

ROW_BY_ROW: Final = ("q0", "q1", "q2", "q10", "q13", "q14", "q21", "q22")
"""Those that look at one row at a time: what limits them is how fast JSON is decoded."""
