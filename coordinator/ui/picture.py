"""From two reports of a run to what people see of it: rates, shares, lags, and what limits it.

A report is what the coordinator told at one moment: counts and times since the processes started. Two of them, a second
or a day apart, make a picture of the time between. So the history keeps reports, and may forget any of them: what is
between two that are left is as exact as before. A picture is plain data, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from millstream.coordinator.ui.graph import Graph, GraphOperator
from millstream.coordinator.ui.limits import ProcessLoad, limit_of
from millstream.meters import add_counts, quantile_us
from millstream.times import MAX_US, MIN_US

Report = Mapping[str, Any]
"""What the coordinator told, with ``time_us`` (the wall clock) and ``attempt``."""


def picture(graph: Graph, before: Report | None, after: Report, latency_since: Report | None = None) -> dict[str, Any]:
    """The run between two reports.

    Args:
        before: None: there is none; the time since the processes started is shown, as far as it is known.
        latency_since: the report from which on latencies count, where that is to be another one: windows put out
            nothing for a while, and then much at once.
    """
    if before is not None and before["attempt"] != after["attempt"]:
        before = None
    if latency_since is None or latency_since["attempt"] != after["attempt"]:
        latency_since = before
    made = _Between(graph, before, after, latency_since)
    return made.picture()


class _Between:
    def __init__(self, graph: Graph, before: Report | None, after: Report, latency_since: Report | None) -> None:
        self.graph = graph
        self.after = after
        self.now: Mapping[str, Mapping[str, Any]] = after["processes"]
        self.then: Mapping[str, Mapping[str, Any]] = {} if before is None else before["processes"]
        self.older: Mapping[str, Mapping[str, Any]] = {} if latency_since is None else latency_since["processes"]
        self.elapsed_s = after["seconds"] - (0.0 if before is None else before["seconds"])
        partitions = after.get("partitions", [])
        seen = [p["largest_us"] for p in partitions if p["largest_us"] != MIN_US]
        self.newest_us: int | None = after["time_us"] if graph.live else max(seen, default=None)

    def picture(self) -> dict[str, Any]:
        graph, after = self.graph, self.after
        operators = {o.name: self._operator(o) for o in graph.operators}
        processes = {name: self._process(name) for name in self.now}
        sources = [operators[o.name] for o in graph.operators if o.role == "source"]
        sinks = [operators[o.name] for o in graph.operators if o.role == "sink"]
        latency: dict[int, int] = {}
        for sink in graph.operators:
            add_counts(latency, self._latency(sink))
        loads = {n: ProcessLoad(p["busy"], p["operators"]) for n, p in processes.items() if p["busy"] is not None}
        hottest = {
            n: (o["hot_keys"][0]["key"], o["hot_keys"][0]["share"]) for n, o in operators.items() if o["hot_keys"]
        }
        ended = after["state"] in ("done", "failed", "stopped")
        limit = None if ended else limit_of(loads, hottest, live=graph.live, machine_cpu=after.get("machine_cpu"))
        watermark_us = after["watermark_us"]
        return {
            "time_us": after["time_us"],
            "attempt": after["attempt"],
            "state": after["state"],
            "seconds": after["seconds"],
            "span_s": self.elapsed_s,
            "events_in": _sum(sources, "rows_in"),
            "events_per_s": _sum(sources, "rows_in_per_s"),
            "rows_out": _sum(sinks, "rows_out"),
            "rows_per_s": _sum(sinks, "rows_out_per_s"),
            "bytes_in": after.get("bytes_in", 0),
            "late": _sum(operators.values(), "late"),
            "dead_letters": _sum(operators.values(), "dead_letters"),
            "unmatched": _sum(operators.values(), "unmatched"),
            "skipped": _sum(operators.values(), "skipped"),
            "state_bytes": _sum(operators.values(), "state_bytes"),
            "keys": _sum(operators.values(), "keys"),
            "watermark_us": _known_us(watermark_us),
            "lag_us": self._lag_us(watermark_us),
            "latency_p50_us": quantile_us(latency, 0.5),
            "latency_p99_us": quantile_us(latency, 0.99),
            "limit": None if limit is None else vars(limit),
            "operators": operators,
            "processes": processes,
            "partitions": [self._partition(p) for p in after.get("partitions", [])],
            "machine_cpu": after.get("machine_cpu"),
            "holder": self._holder(),
            "checkpoint": after.get("checkpoint", 0),
            "checkpoint_failure": after.get("checkpoint_failure", ""),
        }

    # --- operators ---

    def _operator(self, operator: GraphOperator) -> dict[str, Any]:
        own = self._total(operator.name)
        entrance = self._total(operator.entrance) if operator.entrance is not None else own
        names = (operator.name, *operator.parts)
        rows_in_per_s = sum(self._rate(p, operator.entrance or operator.name, "rows_in") for p in self.now)
        rows_out_per_s = sum(self._rate(p, operator.name, "rows_out") for p in self.now)
        shares = {p: self._share(p, names, "busy_us") for p in self.now if self._runs(p, names)}
        waits = [self._share(p, names, "waited_us") for p in self.now]
        latency = self._latency(operator)
        watermark_us = self._watermark_us(operator)
        return {
            "rows_in": entrance.get("rows_in", 0),
            "rows_out": own.get("rows_out", 0),
            "rows_in_per_s": rows_in_per_s,
            "rows_out_per_s": rows_out_per_s,
            "busy": _largest(shares.values()),
            "waiting": _largest(waits),
            "keys": own.get("keys", own.get("groups")),
            "state_bytes": own.get("state_bytes"),
            "late": own.get("late", 0),
            "dead_letters": sum(self._total(n).get("dead_letters", 0) for n in names),
            "unmatched": own.get("unmatched", 0),
            "skipped": own.get("skipped", 0),
            "retried": own.get("retried", 0),
            "watermark_us": _known_us(watermark_us),
            "lag_us": self._lag_us(watermark_us),
            "latency_p50_us": quantile_us(latency, 0.5),
            "latency_p99_us": quantile_us(latency, 0.99),
            "hot_keys": self._hot_keys(operator.name),
        }

    def _total(self, name: str | None) -> dict[str, int]:
        total: dict[str, int] = {}
        for figures in self.now.values():
            add_counts(total, figures.get("operators", {}).get(name, {}))
        return total

    def _runs(self, process: str, names: Iterable[str]) -> bool:
        figures = self.now[process]
        return any(n in figures.get("operators", {}) or n in figures.get("busy_us", {}) for n in names)

    def _process_elapsed_s(self, process: str) -> float | None:
        """By the clock of a process itself: its figures are a moment older than the report that has them."""
        now_s = self.now[process].get("measured_s")
        then_s = self.then.get(process, {}).get("measured_s")
        if now_s is None or then_s is None:
            return self.elapsed_s or None if now_s is None or not self.then else None
        elapsed_s: float = now_s - then_s
        return elapsed_s if elapsed_s > 0 else None

    def _rate(self, process: str, operator: str, counter: str) -> float:
        elapsed_s = self._process_elapsed_s(process)
        if elapsed_s is None:
            return 0.0
        now = self.now[process].get("operators", {}).get(operator, {}).get(counter, 0)
        then = self.then.get(process, {}).get("operators", {}).get(operator, {}).get(counter, 0)
        return max(0.0, float(now - then) / elapsed_s)

    def _share(self, process: str, operators: Iterable[str], what: str) -> float | None:
        elapsed_s = self._process_elapsed_s(process)
        if elapsed_s is None:
            return None
        now: Mapping[str, int] = self.now[process].get(what, {})
        then: Mapping[str, int] = self.then.get(process, {}).get(what, {})
        spent_us = sum(now.get(n, 0) - then.get(n, 0) for n in operators)
        return min(1.0, max(0.0, spent_us / 1e6 / elapsed_s))

    def _latency(self, operator: GraphOperator) -> dict[int, int]:
        """Rows by age, of a sink, as far as they were written since then."""
        now: dict[int, int] = {}
        for process, figures in self.now.items():
            older = _buckets(self.older.get(process, {}), operator.name)
            mine = _buckets(figures, operator.name)
            add_counts(now, {b: max(0, rows - older.get(b, 0)) for b, rows in mine.items()})
        return now

    def _watermark_us(self, operator: GraphOperator) -> int | None:
        if not operator.timed:
            return None
        known = [
            figures["watermarks"][str(stage)]
            for figures in self.now.values()
            for stage in operator.stages
            if str(stage) in figures.get("watermarks", {})
        ]
        watermark_us: int | None = min(known) if known else self.after["watermark_us"]
        return watermark_us

    def _hot_keys(self, operator: str) -> list[dict[str, Any]]:
        """The keys with most events, hottest first, with their shares, over all who send to the operator."""
        rows = 0
        keys: dict[str, int] = {}
        for figures in self.now.values():
            seen, hottest = figures.get("hot_keys", {}).get(operator, (0, ()))
            rows += seen
            add_counts(keys, dict(hottest))
        ranked = sorted(keys.items(), key=lambda item: -item[1])
        return [{"key": key, "share": count / rows} for key, count in ranked[:10]] if rows else []

    # --- processes ---

    def _process(self, name: str) -> dict[str, Any]:
        figures = self.now[name]
        elapsed_s = self._process_elapsed_s(name)
        idle_us = figures.get("idle_us")
        busy = None
        if elapsed_s is not None and idle_us is not None:
            idle_s = (idle_us - self.then.get(name, {}).get("idle_us", 0)) / 1e6
            busy = min(1.0, max(0.0, 1 - idle_s / elapsed_s))
        here = [o for o in self.graph.operators if self._runs(name, (o.name, *o.parts))]
        shares = {o.name: self._share(name, (o.name, *o.parts), "busy_us") for o in here}
        window = figures.get("window_bytes", 0)
        return {
            "busy": busy,
            "cpu": figures.get("cpu_share"),
            "rss_bytes": figures.get("rss_bytes"),
            "credit": min(1.0, figures.get("in_flight_bytes", 0) / window) if window else None,
            "waiting": bool(figures.get("blocked", False)),
            "queued_bytes": figures.get("queued_bytes", 0),
            "operators": {o: share for o, share in shares.items() if share is not None},
            "rows_in_per_s": {o.name: self._rate(name, o.entrance or o.name, "rows_in") for o in here},
        }

    # --- time ---

    def _lag_us(self, watermark_us: int | None) -> int | None:
        if watermark_us is None or self.newest_us is None or watermark_us in (MIN_US, MAX_US):
            return None
        return max(0, self.newest_us - watermark_us)

    def _partition(self, partition: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **partition,
            "largest_us": _known_us(partition["largest_us"]),
            "watermark_us": _known_us(partition["watermark_us"]),
            "lag_us": self._lag_us(partition["watermark_us"]),
        }

    def _holder(self) -> dict[str, Any] | None:
        """The source partition whose watermark is the lowest of those that count, where there are several."""
        open_ = [p for p in self.after.get("partitions", []) if not p["ended"] and not p["idle"]]
        if not self.graph.event_time or len(open_) < 2:
            return None
        ordered = sorted(open_, key=lambda p: p["watermark_us"])
        lowest, next_ = ordered[0], ordered[1]
        behind_us = None if lowest["watermark_us"] == MIN_US else next_["watermark_us"] - lowest["watermark_us"]
        return {
            "source": lowest["source"],
            "name": lowest["name"],
            "behind_us": behind_us,
            "since_us": lowest.get("since_us"),
        }


def _buckets(figures: Mapping[str, Any], sink: str) -> dict[int, int]:
    return {int(b): rows for b, rows in figures.get("latency", {}).get(sink, {}).items()}


def _known_us(time_us: int | None) -> int | str | None:
    """A watermark for people: None before the first event, "end" behind the last."""
    return None if time_us is None or time_us == MIN_US else "end" if time_us == MAX_US else time_us


def _sum(parts: Iterable[Mapping[str, Any]], name: str) -> Any:
    return sum(p[name] or 0 for p in parts)


def _largest(values: Iterable[float | None]) -> float | None:
    return max((v for v in values if v is not None), default=None)
