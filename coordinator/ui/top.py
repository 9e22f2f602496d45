"""``millstream top``: a run in the terminal, from whichever terminal, over the same API as its page."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from millstream.coordinator.progress import bytes_text, count_text, rate_text, span_text
from millstream.coordinator.ui.address import left_address
from millstream.errors import CommandError
from millstream.times import format_us

_EVERY_S: Final = 1.0
_TIMEOUT_S: Final = 5.0
_BAR: Final = 8
_LATE_SHOWN: Final = 3


class PageClient:
    """Asks a running flow's page.

    Args:
        state: the state directory of the flow.
    Raises:
        CommandError: nothing runs there, or it has no page.
    """

    def __init__(self, state: Path) -> None:
        found = left_address(state)
        if found is None:
            raise CommandError(
                f"{state}: no flow with a page runs there; start it with millstream run, without --ui off"
            )
        self.url, self._token = found
        # The page is on this machine, and no proxy's affair.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str) -> Any:
        """What the API answers to a path below ``/api/v1/``.

        Raises:
            CommandError: it does not answer, or refuses.
        """
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(f"{self.url}api/v1/{path}", headers=headers)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise CommandError(f"{self.url}: {error.read(2_000).decode(errors='replace').strip()}") from error
        except (OSError, ValueError) as error:
            raise CommandError(f"{self.url}: the run does not answer: {error}") from error


def watch(client: PageClient, console: Console, *, once: bool) -> None:
    """Show a run until it ends, or once.

    Raises:
        CommandError: it does not answer.
    """
    flow = client.get("run")["graph"]["flow"]
    if once or not console.is_terminal:
        console.print(screen(flow, *_seen(client), console.width))
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        drawn: dict[str, Any] | None = None
        late: list[dict[str, Any]] = []
        while True:
            try:
                drawn, late = _seen(client)
            except CommandError:
                break  # it has ended: what was seen last stays
            live.update(screen(flow, drawn, late, console.width), refresh=True)
            time.sleep(_EVERY_S)
    console.print(screen(flow, drawn, late, console.width))
    console.print(Text("the run has ended", "dim"))


def _seen(client: PageClient) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The run as it is now, and its last late events, if it has any."""
    picture = client.get("now")
    return picture, client.get(f"late?most={_LATE_SHOWN}") if picture is not None and picture["late"] else []


def screen(
    flow: str, picture: dict[str, Any] | None, late: list[dict[str, Any]], width: int
) -> RenderableType:  # fmt: skip
    if picture is None:
        return Text(f"{flow} starts")
    below: list[RenderableType] = [Text(), _late(late)] if late else []
    return Group(
        _headline(flow, picture), _flow_line(picture), _limit(picture), Text(), _operators(picture), Text(),
        _processes(picture), *below,
    )  # fmt: skip


def _headline(flow: str, picture: dict[str, Any]) -> Text:
    text = Text.assemble(
        (flow, "bold"), "  ", (picture["state"], "bold green" if picture["state"] == "running" else "bold yellow")
    )
    text.append(f"  {span_text(picture['seconds'])}  attempt {picture['attempt']}")
    if picture["checkpoint"]:
        text.append(f"  checkpoint {picture['checkpoint']}")
    for name, key in (("late", "late"), ("dead letters", "dead_letters")):
        value = picture[key]
        text.append(f"   {name} ", "dim").append(count_text(value), "bold yellow" if value else "dim")
    return text


def _flow_line(picture: dict[str, Any]) -> Text:
    text = Text().append("in ", "dim").append(rate_text(picture["events_per_s"]), "bold")
    text.append("   out ", "dim").append(rate_text(picture["rows_per_s"]), "bold")
    text.append("   latency p50 ", "dim").append(_span(picture["latency_p50_us"]))
    text.append(" p99 ", "dim").append(_span(picture["latency_p99_us"]))
    text.append("   watermark ", "dim").append(_watermark(picture["watermark_us"]))
    return text.append(" lag ", "dim").append(_span(picture["lag_us"]))


def _limit(picture: dict[str, Any]) -> Text:
    limit = picture["limit"]
    if limit is None:
        return Text()
    return Text(limit["sentence"], "yellow" if limit["operator"] else "dim")


def _operators(picture: dict[str, Any]) -> Table:
    table = _table("operator", "in", "out", "busy", "waits", "keys", "state", "lag", "p99", "late", "dead")
    limiting = (picture["limit"] or {}).get("operator")
    for name, o in picture["operators"].items():
        table.add_row(
            Text(name, "bold yellow" if name == limiting else ""), rate_text(o["rows_in_per_s"]),
            rate_text(o["rows_out_per_s"]), _bar(o["busy"]), _percent(o["waiting"]), _count(o["keys"]),
            "" if o["state_bytes"] is None else bytes_text(o["state_bytes"]), _span(o["lag_us"], ""),
            _span(o["latency_p99_us"], ""), _count(o["late"]), _count(o["dead_letters"]),
        )  # fmt: skip
    return table


def _processes(picture: dict[str, Any]) -> Table:
    table = _table("process", "busy", "cpu", "memory", "credit")
    for name, p in picture["processes"].items():
        table.add_row(
            "supervisor" if name == "caller" else name, _bar(p["busy"]), _percent(p["cpu"]),
            "" if p["rss_bytes"] is None else bytes_text(p["rss_bytes"]), _percent(p["credit"]),
        )  # fmt: skip
    return table


def _late(events: list[dict[str, Any]]) -> Table:
    table = _table("came too late", "event time", "watermark then", "late by")
    table.add_column("event", no_wrap=True, overflow="ellipsis")
    for event in events:
        known = event["event_time_us"] is not None
        watermark = "end of the input" if known and event["watermark_us"] is None else _watermark(event["watermark_us"])
        row = ", ".join(f"{name}: {value}" for name, value in event["row"].items())
        table.add_row(
            event["operator"], _watermark(event["event_time_us"]), watermark, _span(event["late_by_us"]), Text(row)
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    table.add_column(first, min_width=12, no_wrap=True, overflow="ellipsis")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _bar(share: float | None) -> Text:
    if share is None:
        return Text("")
    filled = round(min(1.0, share) * _BAR)
    text = Text("━" * filled, "yellow" if share > 0.85 else "green").append("━" * (_BAR - filled), "bright_black")
    return text.append(f" {share:4.0%}")


def _percent(share: float | None) -> str:
    return "" if not share else f"{share:.0%}"


def _count(value: int | None) -> str:
    return count_text(value) if value else ""


def _span(us: float | None, unknown: str = "-") -> str:
    if us is None:
        return unknown
    return f"{us / 1e3:.0f} ms" if us < 1e6 else span_text(us / 1e6)


def _watermark(watermark_us: Any) -> str:
    return "-" if watermark_us is None else watermark_us if isinstance(watermark_us, str) else format_us(watermark_us)
