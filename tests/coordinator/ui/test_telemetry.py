"""A run that is exported by OTLP arrives: metrics and one trace, at a receiver that takes the real protocol."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from millstream.coordinator.ui import telemetry
from millstream.coordinator.ui.graph import Graph, GraphOperator
from millstream.coordinator.ui.monitor import Monitor

READ = GraphOperator("read", "read_csv('x')", "flow.py:3", "source", (), None, ("workers",), (), False)
FIGURES = {
    "state": "running", "seconds": 1.0, "watermark_us": 5, "partitions": [],
    "checkpoints": [{"epoch": 3, "begun_us": 1_000_000, "duration_us": 20_000, "operators": {"agg": [1, 77]}}],
    "processes": {"worker-0": {"operators": {"read": {"rows_in": 42, "rows_out": 42}}, "measured_s": 1.0}},
}  # fmt: skip


class Receiver(ThreadingHTTPServer):
    """Takes OTLP over HTTP on loopback, as a collector does."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.spans: dict[str, tuple[int, int, list[str]]] = {}
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if not self.path.startswith("/v1/"):
            self.send_error(404)
            return
        if self.path == "/v1/metrics":
            told = ExportMetricsServiceRequest.FromString(body)
            for metric in (m for r in told.resource_metrics for s in r.scope_metrics for m in s.metrics):
                for point in (*metric.gauge.data_points, *metric.sum.data_points):
                    self.server.metrics[metric.name] = point.as_double or point.as_int
        else:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for span in (x for s in resource.scope_spans for x in s.spans):
                    took_ns = span.end_time_unix_nano - span.start_time_unix_nano
                    self.server.spans[span.name] = (span.status.code, took_ns, [e.name for e in span.events])
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        return None


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    yield server
    server.shutdown()
    server.server_close()


def test_figures_arrive_as_metrics_and_lives_and_checkpoints_as_one_trace(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_CLOSE_S", 60.0)  # a run waits for two seconds; what arrives is the question here
    monitor = Monitor(Graph("clicks", 1, "workers", False, True, (READ,), ()), tmp_path)
    monitor.begin(1)
    monitor.update(FIGURES)
    monitor.happened("lost", "worker-0 was killed")
    monitor.begin(2)
    monitor.close()
    assert receiver.metrics["millstream.operator.rows_in"] == 42
    assert set(receiver.spans) == {"run clicks", "attempt 1", "attempt 2", "checkpoint 3"}
    assert receiver.spans["checkpoint 3"][1] == 20_000_000
    error = 2
    assert receiver.spans["attempt 1"][0] == error and receiver.spans["attempt 1"][2] == ["lost"]


def test_exporting_that_does_not_work_is_told_once_by_the_run_that_it_is_of(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "_CLOSE_S", 60.0)
    said: dict[str, list[str]] = {"": [], "/nowhere": []}
    address = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    for path, heard in said.items():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address + path)
        monitor = Monitor(Graph("clicks", 1, "workers", False, True, (READ,), ()), tmp_path, heard.append)
        monitor.begin(1)
        monitor.update(FIGURES)
        monitor.close()
    assert said[""] == [] and len(said["/nowhere"]) == 1 and "OpenTelemetry: " in said["/nowhere"][0]


def test_where_nothing_is_configured_nothing_is_exported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monitor = Monitor(Graph("clicks", 1, "workers", False, True, (READ,), ()), tmp_path)
    assert monitor._telemetry is None
    monitor.close()
