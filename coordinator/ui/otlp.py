"""OpenTelemetry's SDK, fed by a run; imported only where it is configured."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from millstream.coordinator.ui.history import CheckpointMade
from millstream.coordinator.ui.telemetry import GAUGES, OPERATOR_COUNTERS, OPERATOR_GAUGES, PROCESS_GAUGES, measured

_Picture = Callable[[], Mapping[str, Any] | None]
_LOGGER = logging.getLogger("opentelemetry")
_Observe = Callable[[CallbackOptions], Iterable[Observation]]


class OtlpTelemetry:
    """Exports until it is closed.

    Args:
        say: is told, once, that exporting does not work.
        close_s: how long the last export may take.
    """

    def __init__(self, flow: str, picture: _Picture, say: Callable[[str], None], close_s: float) -> None:
        self._close_s = close_s
        self._complaints = _Once(say)
        _LOGGER.addHandler(self._complaints)
        _LOGGER.propagate = False
        resource = Resource.create({"service.name": "millstream", "millstream.flow": flow})
        self._metrics = MeterProvider(
            resource=resource,
            shutdown_on_exit=False,
            metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())],
        )
        self._traces = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._traces.get_tracer("millstream")
        self._run = self._tracer.start_span(f"run {flow}")
        self._life: Span | None = None
        meter = self._metrics.get_meter("millstream")
        for name, (field, unit, scale) in GAUGES.items():
            meter.create_observable_gauge(name, [_of_run(picture, field, scale)], unit)
        for name, field in OPERATOR_COUNTERS.items():
            meter.create_observable_counter(name, [_of_group(picture, "operators", field)])
        for name, field in OPERATOR_GAUGES.items():
            meter.create_observable_gauge(name, [_of_group(picture, "operators", field)])
        for name, field in PROCESS_GAUGES.items():
            meter.create_observable_gauge(name, [_of_group(picture, "processes", field)])

    def begin(self, attempt: int) -> None:
        self._end_life()
        self._life = self._tracer.start_span(
            f"attempt {attempt}", set_span_in_context(self._run), attributes={"millstream.attempt": attempt}
        )

    def checkpoint(self, made: CheckpointMade) -> None:
        parent = set_span_in_context(self._life or self._run)
        sizes = {f"millstream.size.{name}": size for name, (_, size, *_) in made.operators.items()}
        span = self._tracer.start_span(
            f"checkpoint {made.epoch}", parent, start_time=made.begun_us * 1_000,
            attributes={"millstream.epoch": made.epoch, **sizes},
        )  # fmt: skip
        span.end((made.begun_us + made.duration_us) * 1_000)

    def happened(self, kind: str, text: str, detail: str) -> None:
        span = self._life or self._run
        span.add_event(kind, {"text": text, **({"detail": detail} if detail else {})})
        if kind in ("lost", "failed"):
            span.set_status(Status(StatusCode.ERROR, text))

    def close(self) -> None:
        self._end_life()
        self._run.end()
        # Exporters try again for longer than a run should take to end; who cannot be reached is not waited for.
        closing = [
            threading.Thread(target=provider.shutdown, name="telemetry", daemon=True)
            for provider in (self._traces, self._metrics)
        ]
        for thread in closing:
            thread.start()
        deadline_s = time.monotonic() + self._close_s
        for thread in closing:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        _LOGGER.removeHandler(self._complaints)  # what another run's exporters say is not for this one's view

    def _end_life(self) -> None:
        if self._life is not None:
            self._life.end()
            self._life = None


class _Once(logging.Handler):
    """What exporters complain of, said once: they would go on complaining."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            self._say(f"OpenTelemetry: {record.getMessage()}")


def _of_run(picture: _Picture, field: str, scale: float) -> _Observe:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        drawn = picture()
        return [] if drawn is None or drawn[field] is None else [Observation(drawn[field] * scale)]

    return observe


def _of_group(picture: _Picture, group: str, field: str) -> _Observe:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, attributes) for value, attributes in measured(picture(), group, field)]

    return observe
