"""A real Prometheus reads a real run, and every query of the Grafana dashboard finds something there."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser.conftest import Running

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(180)]

DASHBOARD = Path(__file__).parents[2] / "examples" / "monitoring" / "grafana-dashboard.json"
_DEADLINE_S = 90.0


@pytest.fixture
def prometheus(running: Running, tmp_path: Path) -> Iterator[str]:
    """Its address, with a server that has been reading the run for a moment."""
    command = shutil.which("prometheus")
    if command is None:
        pytest.skip("no prometheus here: apt-get install prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = running.url.removeprefix("http://").rstrip("/")
    (tmp_path / "prometheus.yml").write_text(
        f"scrape_configs: [{{job_name: millstream, scrape_interval: 1s, static_configs: [{{targets: ['{target}']}}]}}]"
    )
    process = subprocess.Popen(
        [command, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


def asked(address: str, query: str) -> list[object]:
    try:
        answer = httpx.get(f"{address}/api/v1/query", params={"query": query}, timeout=10)
    except httpx.TransportError:
        return []  # it is still starting
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return []  # likewise: it reads its log again
    told = answer.json()
    assert told["status"] == "success", f"{query}: {told.get('error')}"
    result: list[object] = told["data"]["result"]
    return result


def test_every_query_of_the_dashboard_finds_something(prometheus: str) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = {t["expr"] for panel in panels for t in panel["targets"]}
    assert len(queries) >= 15
    left = {q.replace("$__rate_interval", "20s").replace("$flow", ".*") for q in queries}
    deadline_s = time.monotonic() + _DEADLINE_S
    while left:
        assert time.monotonic() < deadline_s, f"nothing was found by {left}"
        left = {query for query in left if not asked(prometheus, query)}
        time.sleep(1)


def test_what_prometheus_counts_is_what_the_run_counts(prometheus: str, running: Running) -> None:
    deadline_s = time.monotonic() + _DEADLINE_S
    while not (found := asked(prometheus, 'millstream_read_rows_total{flow="orders"}')):
        assert time.monotonic() < deadline_s
        time.sleep(0.5)
    counted = float(found[0]["value"][1])  # type: ignore[index]
    assert 0 < counted <= httpx.get(f"{running.url}api/v1/now").json()["events_in"]
