"""The run for Prometheus: counters since it started, gauges as they are now, latencies as histograms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from millstream.coordinator.ui.graph import Graph
from millstream.meters import BUCKETS_AN_OCTAVE, add_counts

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_COUNTERS: Final = {
    "rows_in": "Rows that an operator took.",
    "rows_out": "Rows that an operator put out.",
    "late": "Events that came after all of their windows had expired.",
    "dead_letters": "Records that could not be processed.",
    "unmatched": "Events of a type that no handler is subscribed to.",
    "skipped": "Events on which a function with on_error='skip' raised.",
    "retried": "Events for which a function that raised was called again, once for each time.",
}
_GAUGES: Final = {
    "keys": "Keys, or groups of key and window, that an operator holds.",
    "state_bytes": "Bytes of state.",
}
_BOUNDS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000)


class _Run(Protocol):
    @property
    def graph(self) -> Graph: ...
    def report(self) -> Mapping[str, Any] | None: ...
    def picture(self) -> dict[str, Any] | None: ...


def exposition(run: _Run) -> bytes:
    """What ``/metrics`` answers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(run))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, run: _Run) -> None:
        self._run = run

    def collect(self) -> Iterable[Metric]:
        report, drawn = self._run.report(), self._run.picture()
        if report is None or drawn is None:
            return
        flow = self._run.graph.flow
        yield from _of_run(flow, report, drawn)
        yield from _of_operators(flow, report, drawn)
        yield from _of_processes(flow, report)
        yield from _latencies(flow, report)


def _of_run(flow: str, report: Mapping[str, Any], drawn: Mapping[str, Any]) -> Iterator[Metric]:
    state = GaugeMetricFamily("millstream_run_info", "The run; always 1.", labels=["flow", "state", "attempt"])
    state.add_metric([flow, report["state"], str(report["attempt"])], 1)
    yield state
    for name, text, value in (
        ("millstream_run_seconds", "For how long this life of the run has gone on.", report["seconds"]),
        ("millstream_attempt", "Which life of the flow this is.", report["attempt"]),
        ("millstream_checkpoint", "The newest checkpoint.", report.get("checkpoint", 0)),
        ("millstream_watermark_lag_seconds", "How far the watermark is behind.", _seconds(drawn["lag_us"])),
        ("millstream_watermark_seconds", "The watermark, since the epoch.", _seconds(drawn["watermark_us"])),
    ):
        if value is not None:
            gauge = GaugeMetricFamily(name, text, labels=["flow"])
            gauge.add_metric([flow], float(value))
            yield gauge
    for name, text, total in (
        ("millstream_read_bytes", "Bytes read from sources.", report.get("bytes_in", 0)),
        ("millstream_read_rows", "Events read from sources.", drawn["events_in"]),
        ("millstream_written_rows", "Rows written to sinks.", drawn["rows_out"]),
    ):
        counter = CounterMetricFamily(name, text, labels=["flow"])
        counter.add_metric([flow], float(total))
        yield counter


def _of_operators(flow: str, report: Mapping[str, Any], drawn: Mapping[str, Any]) -> Iterator[Metric]:
    labels = ["flow", "operator"]
    for name, text in _COUNTERS.items():
        counter = CounterMetricFamily(f"millstream_operator_{name}", text, labels=labels)
        for operator, figures in drawn["operators"].items():
            counter.add_metric([flow, operator], figures[name])
        yield counter
    for name, text in _GAUGES.items():
        gauge = GaugeMetricFamily(f"millstream_operator_{name}", text, labels=labels)
        for operator, figures in drawn["operators"].items():
            if figures[name] is not None:
                gauge.add_metric([flow, operator], figures[name])
        yield gauge
    lag = GaugeMetricFamily("millstream_operator_watermark_lag_seconds", "How far it is behind.", labels=labels)
    for operator, figures in drawn["operators"].items():
        if figures["lag_us"] is not None:
            lag.add_metric([flow, operator], figures["lag_us"] / 1e6)
    yield lag
    for what, text in (("busy", "worked"), ("waited", "waited for credit")):
        spent = CounterMetricFamily(
            f"millstream_operator_{what}_seconds", f"For how long an operator has {text}.", labels=[*labels, "process"]
        )
        for process, figures in report["processes"].items():
            told = figures.get(f"{what}_us", {})
            for operator in dict.fromkeys([*figures.get("busy_us", {}), *told]):
                spent.add_metric([flow, operator, process], told.get(operator, 0) / 1e6)
        yield spent


def _of_processes(flow: str, report: Mapping[str, Any]) -> Iterator[Metric]:
    labels = ["flow", "process"]
    cpu = CounterMetricFamily("millstream_process_cpu_seconds", "CPU time.", labels=labels)
    idle = CounterMetricFamily("millstream_process_idle_seconds", "For how long it had nothing to do.", labels=labels)
    memory = GaugeMetricFamily("millstream_process_resident_bytes", "Memory.", labels=labels)
    flight = GaugeMetricFamily("millstream_process_in_flight_bytes", "Bytes sent and not finished.", labels=labels)
    for process, figures in report["processes"].items():
        for metric, name, scale in (
            (cpu, "cpu_s", 1.0), (idle, "idle_us", 1e-6), (memory, "rss_bytes", 1.0), (flight, "in_flight_bytes", 1.0),
        ):  # fmt: skip
            if figures.get(name) is not None:
                metric.add_metric([flow, process], figures[name] * scale)
    yield from (cpu, idle, memory, flight)


def _latencies(flow: str, report: Mapping[str, Any]) -> Iterator[Metric]:
    family = HistogramMetricFamily(
        "millstream_latency_seconds", "Age of rows when a sink wrote them, since their oldest event was read.",
        labels=["flow", "sink"],
    )  # fmt: skip
    sinks: dict[str, dict[int, int]] = {}
    for figures in report["processes"].values():
        for sink, buckets in figures.get("latency", {}).items():
            add_counts(sinks.setdefault(sink, {}), {int(b): rows for b, rows in buckets.items()})
    for sink, buckets in sinks.items():
        upper_us = {b: 2 ** ((b + 1) / BUCKETS_AN_OCTAVE) for b in buckets}
        bounds = [
            (str(ms / 1e3), sum(rows for b, rows in buckets.items() if upper_us[b] <= ms * 1e3)) for ms in _BOUNDS_MS
        ]
        total_s = sum(rows * upper_us[b] for b, rows in buckets.items()) / 1e6
        family.add_metric([flow, sink], [*bounds, ("+Inf", sum(buckets.values()))], total_s)
    yield family


def _seconds(time_us: Any) -> float | None:
    return time_us / 1e6 if isinstance(time_us, int) else None
