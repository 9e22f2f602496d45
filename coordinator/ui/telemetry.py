"""The run for OpenTelemetry: its figures as metrics; its lives and checkpoints as spans of one trace.

It is on when the environment configures an OTLP exporter the way OpenTelemetry says (``OTEL_EXPORTER_OTLP_ENDPOINT`` and
its kin) and the extra ``otel`` is installed. Exporters have threads and queues of their own, which are bounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from millstream.coordinator.ui.history import CheckpointMade

_CONFIGURED_BY: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)  # fmt: skip
_CLOSE_S: Final = 2.0


class Telemetry(Protocol):
    """What is told of a run as it goes on."""

    def begin(self, attempt: int) -> None: ...
    def checkpoint(self, made: CheckpointMade) -> None: ...
    def happened(self, kind: str, text: str, detail: str) -> None: ...
    def close(self) -> None: ...


def start_telemetry(
    flow: str, picture: Callable[[], Mapping[str, Any] | None], say: Callable[[str], None]
) -> Telemetry | None:
    """Export a run; None where nothing is configured.

    Args:
        picture: the run as it is now.
        say: is told where it is configured and cannot be done.
    """
    if not any(os.environ.get(name) for name in _CONFIGURED_BY) or os.environ.get("OTEL_SDK_DISABLED") == "true":
        return None
    try:
        from millstream.coordinator.ui.otlp import OtlpTelemetry
    except ImportError as error:
        say(f"OpenTelemetry is configured, and {error.name} is not installed: pip install 'millstream[otel]'")
        return None
    return OtlpTelemetry(flow, picture, say, _CLOSE_S)


GAUGES: Final[Mapping[str, tuple[str, str, float]]] = {
    "millstream.events.rate": ("events_per_s", "{event}/s", 1.0),
    "millstream.rows.rate": ("rows_per_s", "{row}/s", 1.0),
    "millstream.watermark.lag": ("lag_us", "s", 1e-6),
    "millstream.latency.p50": ("latency_p50_us", "s", 1e-6),
    "millstream.latency.p99": ("latency_p99_us", "s", 1e-6),
    "millstream.state.size": ("state_bytes", "By", 1.0),
    "millstream.attempt": ("attempt", "{attempt}", 1.0),
}
"""By metric: the field of the picture, the unit, and what the field is multiplied by."""

OPERATOR_COUNTERS: Final = {
    "millstream.operator.rows_in": "rows_in", "millstream.operator.rows_out": "rows_out",
    "millstream.operator.late": "late", "millstream.operator.dead_letters": "dead_letters",
}  # fmt: skip
OPERATOR_GAUGES: Final = {
    "millstream.operator.busy": "busy", "millstream.operator.waiting": "waiting", "millstream.operator.keys": "keys",
    "millstream.operator.state.size": "state_bytes",
}  # fmt: skip
PROCESS_GAUGES: Final = {
    "millstream.process.busy": "busy", "millstream.process.cpu": "cpu", "millstream.process.memory": "rss_bytes",
}  # fmt: skip


def measured(drawn: Mapping[str, Any] | None, group: str, field: str) -> Iterable[tuple[float, dict[str, str]]]:
    """(value, attributes) of each member of a group of a picture, "operators" or "processes", as far as known."""
    members: Mapping[str, Mapping[str, Any]] = {} if drawn is None else drawn[group]
    label = "operator" if group == "operators" else "process"
    return [(float(m[field]), {label: name}) for name, m in members.items() if m[field] is not None]
