"""What the page's server answers, and whom it refuses: everything here goes through a real socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from millstream.commands import Answer, Checkpoint
from millstream.coordinator.control import Requests
from millstream.coordinator.ui import application, guard, serving
from millstream.coordinator.ui.address import Address, Door, open_door
from millstream.coordinator.ui.graph import Graph, GraphOperator
from millstream.coordinator.ui.monitor import Monitor
from millstream.coordinator.ui.past import Past
from millstream.coordinator.ui.present import Present
from millstream.coordinator.ui.server import PageServer

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-the-tests"
READ = GraphOperator("read", "read_csv('x')", "flow.py:3", "source", (), None, ("workers",), (), False)
GRAPH = Graph("clicks", 2, "workers", False, True, (READ,), ())
FIGURES: dict[str, Any] = {
    "state": "running", "seconds": 1.0, "watermark_us": 5, "partitions": [], "checkpoints": [],
    "processes": {"worker-0": {"operators": {"read": {"rows_in": 42, "rows_out": 42}}, "measured_s": 1.0,
                               "busy_us": {"read": 100}, "rows_seen": {"read": [["a"], [["1"]]]}}},
}  # fmt: skip


@dataclass
class Page:
    door: Door
    monitor: Monitor
    requests: Requests

    def ask(self, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        return httpx.request(method, f"http://127.0.0.1:{self.door.port}{path}", timeout=20, **more)

    def raw(self, data: bytes) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.door.port), timeout=20)
        made.sendall(data)
        return made


def served(folder: Path, token: str | None = None) -> Iterator[Page]:
    door = replace(open_door(Address("127.0.0.1", 0)), token=token)
    if token is not None:
        door = replace(door, host="0.0.0.0")  # as it is where a token is asked for
    requests, monitor = Requests(), Monitor(GRAPH, folder)
    server = PageServer(door, Present(monitor, requests), Past(folder))
    monitor.update(FIGURES)
    yield Page(door, monitor, requests)
    monitor.close()
    server.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    yield from served(tmp_path)


@pytest.fixture
def locked_page(tmp_path: Path) -> Iterator[Page]:
    yield from served(tmp_path, TOKEN)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (guard, serving):
        monkeypatch.setattr(module, "SLOW_S", 0.3)


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


# --- what it answers ---


def test_the_page_and_its_parts_are_served_with_a_strict_policy(page: Page) -> None:
    answer = page.ask("/")
    assert answer.status_code == 200 and "<title>Millstream</title>" in answer.text
    assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in answer.text and "style=" not in answer.text, "the policy allows nothing inline"
    assert page.ask("/page/main.js").headers["content-type"].startswith("text/javascript")


def test_the_run_and_its_picture_are_json(page: Page) -> None:
    run = page.ask("/api/v1/run").json()
    assert run["graph"]["operators"][0]["name"] == "read" and "checkpoint" in run["commands"]
    assert page.ask("/api/v1/now").json()["events_in"] == 42
    assert page.ask("/api/v1/operators/read/rows").json() == {"columns": ["a"], "rows": [["1"]]}


def test_pictures_come_as_they_are_made(page: Page) -> None:
    with httpx.stream("GET", f"{page.door.url}api/v1/events", timeout=20) as answer:
        pictures = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
        assert next(pictures)["state"] == "running"
        page.monitor.update({**FIGURES, "state": "ending"})
        assert next(pictures)["state"] == "ending"


def test_prometheus_gets_counters(page: Page) -> None:
    text = page.ask("/metrics").text
    assert 'millstream_operator_rows_in_total{flow="clicks",operator="read"} 42.0' in text


def test_a_command_goes_to_the_run_and_its_answer_comes_back(page: Page) -> None:
    def obey() -> None:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            for request in page.requests.take():
                assert request.command == Checkpoint()
                request.answer(Answer("checkpoint 7, after 0.1 s", epoch=7))
                return

    run = threading.Thread(target=obey)
    run.start()
    answer = page.ask("/api/v1/commands", "POST", json={"version": 1, "command": {"do": "checkpoint"}})
    run.join()
    assert (answer.status_code, answer.json()["answer"]["epoch"]) == (200, 7)


# --- whom it refuses ---


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"nonsense", 400), (b"[]", 400), (b'{"version": 1, "command": {"do": "explode"}}', 400),
        (b'{"version": 9, "command": {"do": "stop"}}', 400), (b"[" * 60_000, 400), (b"\xff\xfe", 400),
        (b" " * 70_000, 413),
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused(page: Page, body: bytes, status: int) -> None:
    answer = page.ask("/api/v1/commands", "POST", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert list(page.requests.take()) == []


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py", "/page/%2e%2e/server.py", "/page/..%2fserver.py", "/page//etc/passwd", "/page/%00", "/../../etc/passwd",
        "/page/....//server.py", "/page/index.html%00.js", "/nothing", "/api/v1/operators/..%2f..%2fetc/rows",
        "/api/v1/operators/nobody/rows",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(page: Page, path: str) -> None:
    answer = answer_of(page.raw(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]
    assert b"root:" not in answer and b"import" not in answer


@pytest.mark.parametrize(
    "query", ["run=x", "run=-1", "points=1e9", "from_us=99999999999999999999999999", "run=%00", "points="]
)
def test_a_number_that_is_none_is_refused_in_a_sentence(page: Page, query: str) -> None:
    answer = page.ask(f"/api/v1/timeline?{query}")
    assert answer.status_code == 400 and "error" in answer.json()


def test_more_points_than_there_may_be_are_not_given(page: Page) -> None:
    assert len(page.ask("/api/v1/timeline?points=1000000").json()["points"]) <= 500


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7373", "127.0.0.1.evil.example", "192.168.1.7", ""])
def test_a_name_that_was_made_to_point_here_is_refused(page: Page, host: str) -> None:
    assert page.ask("/api/v1/now", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1234", "[::1]:80"])
def test_a_name_of_this_machine_is_answered(page: Page, host: str) -> None:
    assert page.ask("/api/v1/now", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
    ],
)  # fmt: skip
def test_what_another_site_makes_a_browser_ask_is_refused(page: Page, headers: dict[str, str]) -> None:
    command = {"version": 1, "command": {"do": "stop"}}
    assert page.ask("/api/v1/commands", "POST", json=command, headers=headers).status_code == 403
    assert page.ask("/api/v1/now", headers=headers).status_code == 403
    assert list(page.requests.take()) == []


def test_a_form_of_another_site_is_no_command(page: Page) -> None:
    answer = page.ask("/api/v1/commands", "POST", data={"command": "stop"})
    assert answer.status_code == 415


def test_a_link_to_the_page_may_be_followed_from_anywhere(page: Page) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert page.ask("/", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/api/v1/now", "/api/v1/events", "/metrics", "/nothing"])
def test_without_the_token_nothing_is_answered(locked_page: Page, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "millstream_token=wrong"}):
        assert locked_page.ask(path, headers=headers).status_code == 401
    assert locked_page.ask(f"{path}?token=wrong").status_code == 401


def test_with_the_token_everything_is_answered(locked_page: Page) -> None:
    assert locked_page.ask("/api/v1/now", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert (
        locked_page.ask("/api/v1/now", headers={"host": "a.name", "cookie": f"millstream_token={TOKEN}"}).status_code
        == 200
    )


def test_a_token_in_the_address_goes_into_a_cookie_and_out_of_the_address(locked_page: Page) -> None:
    answer = locked_page.ask(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["set-cookie"] == f"millstream_token={TOKEN}; HttpOnly; SameSite=Strict; Path=/"


# --- too much, nonsense, too slow ---


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /api/v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)  # fmt: skip
def test_malformed_and_oversized_requests_are_refused_and_harm_nobody(
    impatient: None, tmp_path: Path, data: bytes
) -> None:
    for page in served(tmp_path):
        try:
            answer = answer_of(page.raw(data))
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:100]
        except OSError:
            pass  # it broke off while we were still sending
        assert page.ask("/api/v1/now").status_code == 200


def test_a_body_that_is_longer_than_it_says_is_cut_off(page: Page) -> None:
    head = b"POST /api/v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    try:
        with page.raw(head) as connection:
            for _ in range(20):
                connection.sendall(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
            assert b" 413 " in connection.recv(65_536)
    except OSError:
        pass
    assert list(page.requests.take()) == []


def test_a_client_that_does_not_finish_its_headers_is_dropped(impatient: None, tmp_path: Path) -> None:
    for page in served(tmp_path):
        with page.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") as connection:
            assert answer_of(connection) == b""


def test_a_client_that_does_not_finish_its_body_is_dropped(impatient: None, tmp_path: Path) -> None:
    head = b"POST /api/v1/commands HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    for page in served(tmp_path):
        with page.raw(head) as connection:
            assert answer_of(connection).startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_read_is_dropped(
    impatient: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(application, "LIVE_EVERY_S", 0.01)
    for page in served(tmp_path):
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", page.door.port))
            connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(16) == b"HTTP/1.1 200 OK\r"
            assert served_ends(page) == 1
            large = {**FIGURES, "checkpoint_failure": "x" * 1_000_000}
            deadline_s = time.monotonic() + 20
            while served_ends(page):
                assert time.monotonic() < deadline_s, "it is still being served"
                page.monitor.update(large)
                time.sleep(0.02)


def served_ends(page: Page) -> int:
    """How many connections the server holds open."""
    connections = psutil.Process().net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == page.door.port for c in connections)


def test_more_watchers_than_there_may_be_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(application, "MOST_WATCHERS", 1)
    for page in served(tmp_path):
        with httpx.stream("GET", f"{page.door.url}api/v1/events", timeout=20) as first:
            lines = first.iter_lines()  # as long as it is there, the first one watches
            assert next(lines).startswith("event")
            assert page.ask("/api/v1/events").status_code == 503


def test_the_server_ends_with_the_run_also_while_somebody_watches(tmp_path: Path) -> None:
    pages = served(tmp_path)
    page = next(pages)
    with httpx.stream("GET", f"{page.door.url}api/v1/events", timeout=20) as answer:
        lines = answer.iter_lines()
        next(lines)
        started_s = time.monotonic()
        assert next(pages, None) is None
        assert time.monotonic() - started_s < 4
        assert any(line == "event: end" for line in lines)
