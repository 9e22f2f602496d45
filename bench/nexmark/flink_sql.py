"""The queries in Flink SQL, as the benchmark's authors ask them, run in a warm JVM into a sink that counts.

Flink is set up as for the other workloads (bench/peers/flink_sql.py). The views name the fields, so its JSON reader
skips what a query does not read. q6 is not here: Flink cannot run it. q10 writes rows instead of partitioned files,
q13 joins with a table instead of looking up in a service, and q14 counts letters with built-in functions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.job import FIXED_EVENTS, Job, Outcome, serve
from bench.nexmark.data import event_file
from bench.peers.flink_sql import timed

EVENTS = """
create table events (
    event_type int, ts bigint,
    person row<id bigint, name string, emailAddress string, creditCard string, city string, state string,
        `dateTime` bigint, extra string>,
    auction row<id bigint, itemName string, description string, initialBid bigint, reserve bigint, `dateTime` bigint,
        expires bigint, seller bigint, category bigint, extra string>,
    bid row<auction bigint, bidder bigint, price bigint, channel string, url string, `dateTime` bigint, extra string>,
    `dateTime` as to_timestamp_ltz(ts, 3),
    watermark for `dateTime` as `dateTime` - interval '4' second
) with ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'json')
"""

VIEWS = (
    """
    create view person as
    select person.id, person.name, person.emailAddress, person.creditCard, person.city, person.state, `dateTime`,
        person.extra
    from events where event_type = 0
    """,
    """
    create view auction as
    select auction.id, auction.itemName, auction.description, auction.initialBid, auction.reserve, `dateTime`,
        to_timestamp_ltz(auction.expires, 3) as expires, auction.seller, auction.category, auction.extra
    from events where event_type = 1
    """,
    """
    create view bid as
    select bid.auction, bid.bidder, bid.price, bid.channel, bid.url, `dateTime`, bid.extra
    from events where event_type = 2
    """,
)

ANSWERS = "create table answers with ('connector' = 'bench') as {query}"

RANKS = """
    count(*) as total_bids,
    count(*) filter (where price < 10000) as rank1_bids,
    count(*) filter (where price >= 10000 and price < 1000000) as rank2_bids,
    count(*) filter (where price >= 1000000) as rank3_bids
"""

DISTINCT_RANKS = ",".join(
    f"""
    count(distinct {field}) as total_{field}s,
    count(distinct {field}) filter (where price < 10000) as rank1_{field}s,
    count(distinct {field}) filter (where price >= 10000 and price < 1000000) as rank2_{field}s,
    count(distinct {field}) filter (where price >= 1000000) as rank3_{field}s
    """
    for field in ("bidder", "auction")
)

HOPS = """
    select auction, count(*) as num, window_start, window_end
    from table(hop(table bid, descriptor(`dateTime`), interval '2' second, interval '10' second))
    group by auction, window_start, window_end
"""

TUMBLES = "from table(tumble(table {table}, descriptor(`dateTime`), interval '10' second))"

VALID_BIDS = "auction a join bid b on a.id = b.auction where b.`dateTime` between a.`dateTime` and a.expires"

QUERIES = {
    "q0": "select auction, bidder, price, `dateTime`, extra from bid",
    "q1": "select auction, bidder, 0.908 * price as price, `dateTime`, extra from bid",
    "q2": "select auction, price from bid where mod(auction, 123) = 0",
    "q3": """
        select p.name, p.city, p.state, a.id from auction a join person p on a.seller = p.id
        where a.category = 10 and p.state in ('OR', 'ID', 'CA')
    """,
    "q4": f"""
        select category, avg(final) as final
        from (select max(b.price) as final, a.category from {VALID_BIDS} group by a.id, a.category)
        group by category
    """,
    "q5": f"""
        select a.auction, a.num
        from ({HOPS}) a
        join (select max(num) as most, window_start, window_end from ({HOPS}) group by window_start, window_end) m
        on a.window_start = m.window_start and a.window_end = m.window_end and a.num >= m.most
    """,
    "q7": f"""
        select b.auction, b.bidder, b.price, b.`dateTime`, b.extra
        from bid b
        join (select max(price) as highest, window_end as ended
            {TUMBLES.format(table="bid")} group by window_start, window_end) m
        on b.price = m.highest
        where b.`dateTime` between m.ended - interval '10' second and m.ended
    """,
    "q8": f"""
        select p.id, p.name, p.window_start as stime
        from (select id, name, window_start, window_end {TUMBLES.format(table="person")}
            group by id, name, window_start, window_end) p
        join (select seller, window_start, window_end {TUMBLES.format(table="auction")}
            group by seller, window_start, window_end) a
        on p.id = a.seller and p.window_start = a.window_start and p.window_end = a.window_end
    """,
    "q9": f"""
        select id, itemName, description, initialBid, reserve, opened, expires, seller, category, extra,
            auction, bidder, price, bid_dateTime, bid_extra
        from (
            select a.id, a.itemName, a.description, a.initialBid, a.reserve, a.`dateTime` as opened, a.expires,
                a.seller, a.category, a.extra, b.auction, b.bidder, b.price, b.`dateTime` as bid_dateTime,
                b.extra as bid_extra,
                row_number() over (partition by a.id order by b.price desc, b.`dateTime` asc) as place
            from {VALID_BIDS}
        ) where place <= 1
    """,
    "q10": """
        select auction, bidder, price, `dateTime`, extra, date_format(`dateTime`, 'yyyy-MM-dd') as dt,
            date_format(`dateTime`, 'HH:mm') as hm
        from bid
    """,
    "q11": """
        select bidder, count(*) as bid_count, session_start(`dateTime`, interval '10' second) as starttime,
            session_end(`dateTime`, interval '10' second) as endtime
        from bid group by bidder, session(`dateTime`, interval '10' second)
    """,
    "q12": """
        select bidder, count(*) as bid_count, window_start as starttime, window_end as endtime
        from table(tumble(table arriving_bid, descriptor(arrived), interval '10' second))
        group by bidder, window_start, window_end
    """,
    "q13": """
        select b.auction, b.bidder, b.price, b.`dateTime`, s.`value`
        from (select *, mod(auction, 10000) as place from bid) b join side s on b.place = s.`key`
    """,
    "q14": """
        select auction, bidder, 0.908 * price as price,
            case when hour(`dateTime`) between 8 and 18 then 'dayTime'
                when hour(`dateTime`) <= 6 or hour(`dateTime`) >= 20 then 'nightTime'
                else 'otherTime' end as bidTimeType,
            `dateTime`, extra, char_length(extra) - char_length(replace(extra, 'c', '')) as c_counts
        from bid where 0.908 * price > 1000000 and 0.908 * price < 50000000
    """,
    "q15": f"""
        select date_format(`dateTime`, 'yyyy-MM-dd') as `day`, {RANKS}, {DISTINCT_RANKS}
        from bid group by date_format(`dateTime`, 'yyyy-MM-dd')
    """,
    "q16": f"""
        select channel, date_format(`dateTime`, 'yyyy-MM-dd') as `day`,
            max(date_format(`dateTime`, 'HH:mm')) as `minute`, {RANKS}, {DISTINCT_RANKS}
        from bid group by channel, date_format(`dateTime`, 'yyyy-MM-dd')
    """,
    "q17": f"""
        select auction, date_format(`dateTime`, 'yyyy-MM-dd') as `day`, {RANKS},
            min(price) as min_price, max(price) as max_price, avg(price) as avg_price, sum(price) as sum_price
        from bid group by auction, date_format(`dateTime`, 'yyyy-MM-dd')
    """,
    "q18": """
        select auction, bidder, price, channel, url, `dateTime`, extra
        from (select *, row_number() over (partition by bidder, auction order by `dateTime` desc) as place from bid)
        where place <= 1
    """,
    "q19": """
        select *
        from (select *, row_number() over (partition by auction order by price desc) as rank_number from bid)
        where rank_number <= 10
    """,
    "q20": """
        select b.auction, b.bidder, b.price, b.channel, b.url, b.`dateTime` as bid_dateTime, b.extra as bid_extra,
            a.itemName, a.description, a.initialBid, a.reserve, a.`dateTime` as auction_dateTime, a.expires, a.seller,
            a.category, a.extra as auction_extra
        from bid b join auction a on b.auction = a.id where a.category = 10
    """,
    "q21": """
        select auction, bidder, price, channel,
            case when lower(channel) = 'apple' then '0'
                when lower(channel) = 'google' then '1'
                when lower(channel) = 'facebook' then '2'
                when lower(channel) = 'baidu' then '3'
                else regexp_extract(url, '(&|^)channel_id=([^&]*)', 2) end as channel_id
        from bid
        where regexp_extract(url, '(&|^)channel_id=([^&]*)', 2) is not null
            or lower(channel) in ('apple', 'google', 'facebook', 'baidu')
    """,
    "q22": """
        select auction, bidder, price, channel, split_index(url, '/', 3) as dir1, split_index(url, '/', 4) as dir2,
            split_index(url, '/', 5) as dir3
        from bid
    """,
}

FURTHER = {
    "q12": ["create view arriving_bid as select bid.bidder, proctime() as arrived from events where event_type = 2"],
    "q13": [
        """
        create table numbers (`key` bigint) with ('connector' = 'datagen', 'fields.key.kind' = 'sequence',
            'fields.key.start' = '0', 'fields.key.end' = '9999', 'rows-per-second' = '1000000')
        """,
        "create view side as select `key`, cast(`key` as string) as `value` from numbers",
    ],
}
"""What a query needs beside the three streams."""


def statements(query: str, events: int, parallelism: int) -> list[str]:
    """The tables and views, and the query into a sink that counts its rows."""
    table = EVENTS.format(path=event_file(events, parallelism))
    asked = [table, *VIEWS, *FURTHER.get(query, []), ANSWERS.format(query=QUERIES[query])]
    return [" ".join(statement.split()) for statement in asked]  # a blank line would end a statement


def run(job: Job) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        large = statements(job.workload, job.events, job.parallelism)
        small = statements(job.workload, FIXED_EVENTS, job.parallelism)
        return timed(job, Path(directory), large, small)


if __name__ == "__main__":
    serve(dict.fromkeys(QUERIES, run))
