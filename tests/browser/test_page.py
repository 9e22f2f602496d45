"""The page of a run while the run goes on, as a reader uses it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser.conftest import FLOW, Running, start
from playwright.sync_api import Browser, Dialog, Page, Route, expect

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(240)]

SECONDS = 1_000
DRAWN = "new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))"


def count(page: Page, name: str) -> int:
    """How many there are in all, by what stands below a number."""
    text = page.locator("#numbers div", has_text=name).locator("small").inner_text()
    return int(re.sub(r"\D", "", text))


def past_s(page: Page) -> float:
    """How much the page's slider goes over."""
    points = page.evaluate("fetch('api/v1/timeline').then((told) => told.json())")["points"]
    return float(points[-1]["time_us"] - points[0]["time_us"]) / 1e6 if points else 0.0


def test_the_graph_shows_every_operator_and_how_rows_go(page: Page) -> None:
    names = page.locator(".node .title").all_text_contents()
    assert names == ["generate", "event_time", "map", "agg", "write_jsonl"]
    assert "by shop" in page.locator(".edge-label").all_text_contents()


def test_numbers_move_while_the_run_goes_on(page: Page) -> None:
    before = count(page, "Events read")
    page.wait_for_function(
        "before => Number(document.querySelector('#numbers small').textContent.replace(/\\D/g, '')) > before",
        arg=before,
    )


def test_the_limiting_operator_is_the_one_that_is_slow(page: Page) -> None:
    expect(page.locator("#limit")).to_contain_text("map limits the run", timeout=60 * SECONDS)
    expect(page.locator(".node.limits .title")).to_have_text("map")


def test_the_slider_goes_back_and_live_returns(page: Page) -> None:
    page.wait_for_function("document.querySelectorAll('.chart path.line').length > 5", timeout=60 * SECONDS)
    while past_s(page) < 4:  # there must be some to go to
        page.wait_for_timeout(SECONDS / 4)
    now = count(page, "Events read")
    page.locator("#slider").fill("100")
    expect(page.locator("#moment")).to_contain_text("earlier")
    page.wait_for_function(
        "now => Number(document.querySelector('#numbers small').textContent.replace(/\\D/g, '')) < now", arg=now
    )
    expect(page.locator(".chart .cursor").first).to_be_attached()
    page.get_by_role("button", name="Live").click()
    expect(page.locator("#moment")).to_have_text("now")
    page.wait_for_function(
        "now => Number(document.querySelector('#numbers small').textContent.replace(/\\D/g, '')) >= now", arg=now
    )


def test_the_hot_key_is_named_and_what_looks_like_markup_is_text(page: Page) -> None:
    first = page.locator("#keys .key").first
    expect(first).to_have_text("<b>Berlin</b>", timeout=60 * SECONDS)
    assert page.locator("#keys b").count() == 0


def test_an_operator_opens_by_keyboard_and_shows_its_last_rows(page: Page) -> None:
    node = page.locator('[data-operator="map"]')
    node.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#detail h3").first).to_have_text("map")
    expect(page.locator("#detail tbody tr").first).to_be_visible(timeout=60 * SECONDS)
    assert "shop" in page.locator("#detail thead").inner_text()
    page.locator("#detail .close").click()
    expect(page.locator("#detail")).to_be_hidden()
    assert page.evaluate("document.activeElement.dataset.operator") == "map"


def test_a_key_is_looked_up_in_an_operator(page: Page) -> None:
    expect(page.locator("#lookup-operator")).to_have_text("agg")
    page.get_by_role("textbox", name="Key").fill("<b>Berlin</b>")
    for _ in range(40):  # a window of a second comes and goes
        page.get_by_role("button", name="Look up").click()
        page.wait_for_timeout(SECONDS / 4)
        if page.locator("#lookup-found tbody tr").count():
            break
    expect(page.locator("#lookup-found tbody tr").first).to_contain_text("<b>Berlin</b>")
    page.get_by_role("textbox", name="Key").fill("nowhere")
    page.get_by_role("button", name="Look up").click()
    expect(page.locator("#lookup-found")).to_have_text("'agg' holds nothing of that")


def test_an_answer_that_another_has_overtaken_is_not_shown(page: Page) -> None:
    held: list[Route] = []
    page.route("**/api/v1/commands", lambda route: route.continue_() if held else held.append(route))
    page.get_by_role("button", name="Look up").click()  # every key
    page.get_by_role("textbox", name="Key").fill("nowhere")
    page.get_by_role("button", name="Look up").click()
    expect(page.locator("#lookup-found")).to_have_text("'agg' holds nothing of that", timeout=60 * SECONDS)
    with page.expect_response("**/api/v1/commands") as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate(DRAWN)
    expect(page.locator("#lookup-found")).to_have_text("'agg' holds nothing of that")


def test_dead_letters_are_shown_with_their_reason(page: Page) -> None:
    expect(page.locator("#letters tbody tr").first).to_contain_text("no price for order", timeout=60 * SECONDS)


MENDED = """
from pathlib import Path
import millstream as ms
from millstream.connectors.generate import Counter

flow = ms.Flow("orders")


def price(row):
    if row.number % 100 == 7 and not Path("prices").exists():
        raise ValueError(f"no price for order {row.number}")
    return {"number": row.number}


orders = flow.generate({"number": Counter()}, rate=500.0)
orders.map(price, schema={"number": int}, on_error="dead_letter").write_jsonl("out.jsonl")
"""


def test_dead_letters_are_replayed_by_a_button_once_what_refused_them_is_mended(
    browser: Browser, tmp_path: Path
) -> None:
    run = start(tmp_path, flow=MENDED)
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        asked: list[str] = []

        def accept(dialog: Dialog) -> None:
            asked.append(dialog.message)
            dialog.accept()

        page.on("dialog", accept)
        page.goto(run.url)
        row = page.locator("#letters tbody tr", has_text="no price for order").first
        expect(row).to_be_visible(timeout=60 * SECONDS)
        number = int(re.findall(r"number=(\d+)", row.inner_text())[0])
        (tmp_path / "prices").touch()
        page.locator("#letters tbody tr", has_text=f"number={number})").get_by_role("button", name="Replay").click()
        expect(page.locator("#said")).to_contain_text(
            "1 dead letter goes again to the operator that had refused it: 1 of map", timeout=60 * SECONDS
        )
        assert asked[0].startswith("1 dead letter goes again to the operator that had refused it: 1 of map")
        page.locator("#replay-all").click()
        expect(page.locator("#said")).to_contain_text("1 dead letter had been replayed before", timeout=60 * SECONDS)
        page.locator("#replay-all").click()
        expect(page.locator("#said.error")).to_contain_text("no dead letter is replayed", timeout=60 * SECONDS)
        page.locator("button[data-command=stop]").click()
        run.process.wait(60)
    finally:
        run.process.kill()
        run.process.wait()
    written = [json.loads(line)["number"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(written) == list(range(len(written))), "each order is there once, also those that had been refused"
    assert number in written


def test_late_events_are_shown_with_the_watermark_they_came_behind_and_as_many_are_counted(page: Page) -> None:
    page.get_by_role("tab", name="Late events").click()
    first = page.locator("#letters tbody tr").first
    expect(first.locator("td").first).to_have_text("agg", timeout=60 * SECONDS)
    assert page.locator("#letters th").all_text_contents() == [
        "operator", "late by", "event time", "watermark then", "event",
    ]  # fmt: skip
    cells = first.locator("td").all_text_contents()
    assert re.fullmatch(r"[\d.]+ (µs|ms|s)", cells[1]) and cells[2] < cells[3] and "shop: " in cells[4]
    told = page.evaluate("fetch('api/v1/late').then((told) => told.json())")
    counted = page.evaluate("fetch('api/v1/now').then((told) => told.json())")["late"]
    assert 0 < len(told) <= counted
    assert all(event["late_by_us"] >= 0 and event["event_time_us"] < event["watermark_us"] for event in told)


def test_checkpoints_tell_what_was_written_beside_the_whole_state(page: Page) -> None:
    expect(page.locator("#checkpoints tbody tr").first).to_be_visible(timeout=60 * SECONDS)
    heads = page.locator("#checkpoints th").all_text_contents()
    assert heads[3:5] == ["written", "whole state"]


def test_a_checkpoint_is_made_by_a_button_and_appears(page: Page) -> None:
    page.get_by_role("button", name="Checkpoint").click()
    expect(page.locator("#said")).to_contain_text("checkpoint", timeout=60 * SECONDS)
    expect(page.locator("#said")).to_contain_text("after")
    expect(page.locator("#checkpoints tbody tr").first).to_be_visible(timeout=60 * SECONDS)


def test_pause_and_resume_do_what_they_say(page: Page) -> None:
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#state")).to_have_text("paused", timeout=60 * SECONDS)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#state")).to_have_text("running", timeout=60 * SECONDS)


def test_the_run_goes_on_with_another_number_of_workers(page: Page) -> None:
    page.on("dialog", lambda dialog: dialog.accept("1"))
    page.get_by_role("button", name="Scale").click()
    expect(page.locator("#said")).to_contain_text("1 worker", timeout=90 * SECONDS)
    expect(page.locator("#meta")).to_contain_text("1 worker ·", timeout=60 * SECONDS)


def test_everything_is_reached_and_named_without_a_mouse(page: Page) -> None:
    named = page.locator("button, input, [tabindex='0'], [role=tab]")
    assert named.count() > 10
    for element in named.all():
        name = element.evaluate(
            "e => e.getAttribute('aria-label') || e.textContent.trim() || e.getAttribute('aria-labelledby') || e.id"
        )
        assert name, element.evaluate("e => e.outerHTML.slice(0, 200)")
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize(("width", "height"), [(390, 844), (768, 1024), (1600, 1000)])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate(DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: Browser, running: Running, scheme: str) -> None:
    opened = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    opened.goto(running.url)
    opened.wait_for_selector(".node .rate:not(:empty)")
    ratios = opened.evaluate(
        """() => {
        const style = getComputedStyle(document.documentElement);
        const light = (name) => {
            const hex = style.getPropertyValue(name).trim().slice(1);
            const [r, g, b] = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
                .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
        return ["--ink", "--soft", "--faint", "--hot", "--bad"].flatMap((text) => ["--card", "--page"].map((back) => [text, back, ratio(text, back)]));
    }"""
    )
    assert [r for r in ratios if r[2] < 4.5] == [], "WCAG AA asks for 4.5"
    opened.close()


def test_a_loss_is_told_and_the_page_outlives_it(page: Page, running: Running) -> None:
    import psutil

    children = psutil.Process(running.process.pid).children(recursive=True)
    worker = next(c for c in children if c.name() == "worker-0")
    worker.kill()
    expect(page.locator("#happenings .lost")).to_contain_text("was killed by SIGKILL", timeout=60 * SECONDS)
    expect(page.locator("#meta")).to_contain_text(re.compile(r"attempt [2-9]"), timeout=60 * SECONDS)


def test_a_token_is_demanded_where_there_is_one(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_TOKEN", "token-of-this-test")
    run = start(tmp_path)
    try:
        opened = browser.new_context().new_page()
        answer = opened.goto(run.url)
        assert answer is not None and answer.status == 401
        assert "a token is needed" in opened.inner_text("body")
        opened.goto(f"{run.url}?token={run.token}")
        opened.wait_for_selector(".node .rate:not(:empty)", timeout=60 * SECONDS)
        assert opened.url == run.url, "the token is not left in the address"
    finally:
        run.process.kill()
        run.process.wait()


def test_the_end_of_a_run_is_told_and_what_was_seen_stays(browser: Browser, tmp_path: Path) -> None:
    run = start(tmp_path)
    try:
        opened = browser.new_page()
        opened.goto(run.url)
        opened.wait_for_selector(".node .rate:not(:empty)", timeout=60 * SECONDS)
        opened.on("dialog", lambda dialog: dialog.accept())
        opened.get_by_role("button", name="Stop").click()
        expect(opened.locator("#said")).to_contain_text("The run has ended", timeout=60 * SECONDS)
        assert opened.locator(".node").count() == 5
    finally:
        run.process.kill()
        run.process.wait()


def test_a_failure_is_shown_with_the_users_own_traceback(browser: Browser, tmp_path: Path) -> None:
    raises = FLOW.replace('on_error="dead_letter"', 'on_error="fail"').replace(
        "% 50 == 7", '>= 0 and Path("raise").exists()'
    )
    run = start(tmp_path, flow=f"from pathlib import Path\n{raises}")
    try:
        opened = browser.new_page()
        opened.goto(run.url)
        opened.wait_for_selector(".node .rate:not(:empty)", timeout=60 * SECONDS)
        (tmp_path / "raise").touch()
        expect(opened.locator("#happenings .failed")).to_contain_text("the function raised on", timeout=120 * SECONDS)
        expect(opened.locator("#happenings pre")).to_contain_text(re.compile(r"ValueError: no price for order \d+"))
        expect(opened.locator("#state")).to_have_text("failed")
    finally:
        run.process.kill()
        run.process.wait()


def test_the_page_of_a_run_that_is_over_shows_its_past(browser: Browser, running: Running, tmp_path: Path) -> None:
    shutil.copytree(running.state, tmp_path / "orders", ignore=shutil.ignore_patterns("*.sock", "checkpoints"))
    command = [
        str(Path(sys.executable).parent / "millstream"),
        "history",
        str(tmp_path / "orders"),
        "--ui",
        "127.0.0.1:0",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        url = process.stderr.readline().removeprefix("page: ").strip()
        opened = browser.new_page()
        opened.goto(url)
        opened.wait_for_selector(".node .rate:not(:empty)", timeout=60 * SECONDS)
        assert count(opened, "Events read") > 0
        assert opened.locator("#commands button").count() == 0
    finally:
        process.kill()
        process.wait()
