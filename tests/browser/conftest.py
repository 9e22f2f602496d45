"""A real run, and a real browser that looks at its page: Chromium from the system's packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from millstream.coordinator.ui.address import left_address

FLOW = """
import datetime, time
import pyarrow as pa
import millstream as ms
from millstream.connectors.generate import Choice, Counter, EventTime

flow = ms.Flow("orders")


def price(row):
    time.sleep(0.0005)  # the slow one: two workers do some 3,500 a second, whatever else the machine does
    if row.number % 50 == 7:
        raise ValueError(f"no price for order {row.number}")
    return {"shop": row.shop, "number": row.number}


orders = flow.generate(
    {
        "number": Counter(),
        "shop": Choice(["<b>Berlin</b>", "Oslo", "Rome"], [8, 1, 1]),
        "at": EventTime(jitter="3s", start=datetime.datetime.now(datetime.UTC)),
    },
    rate=4_000.0,
).event_time("at", out_of_orderness="1s")
priced = orders.map(price, schema=pa.schema({"shop": pa.string(), "number": pa.int64()}), on_error="dead_letter")
priced.key_by("shop").window(ms.tumbling("1s")).agg(orders=ms.count()).write_jsonl("out.jsonl")
"""
_DEADLINE_S = 60.0


@dataclass
class Running:
    """A run under way, with its page."""

    process: subprocess.Popen[bytes]
    state: Path
    url: str
    token: str | None


def start(folder: Path, *arguments: str, flow: str = FLOW) -> Running:
    (folder / "flow.py").write_text(flow)
    command = [str(Path(sys.executable).parent / "millstream"), "run", "flow.py", "--workers", "2", "--plain"]
    process = subprocess.Popen(
        [*command, "--checkpoint-interval", "2s", *(arguments or ("--ui", "127.0.0.1:0"))], cwd=folder,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(folder / "errors").open("wb"),
    )  # fmt: skip
    state = folder / ".millstream" / "orders"
    deadline_s = time.monotonic() + _DEADLINE_S
    while (found := left_address(state)) is None:
        assert process.poll() is None and time.monotonic() < deadline_s, (folder / "errors").read_text()
        time.sleep(0.05)
    return Running(process, state, *found)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    run = start(tmp_path_factory.mktemp("run"))
    yield run
    run.process.kill()
    run.process.wait()


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """The page of the run, open, with figures on it; an error in its scripts fails the test."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    opened.goto(running.url)
    opened.wait_for_selector(".node .rate:not(:empty)")
    yield opened
    opened.close()
    assert errors == []
