"""Where the page may be, and what it then asks for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from millstream.coordinator.ui.address import (
    TOKEN_VARIABLE,
    Address,
    leave_address,
    left_address,
    open_door,
    parse_address,
    take_address_away,
)
from millstream.errors import FlowError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("on", Address()), ("off", None), ("127.0.0.1:80", Address("127.0.0.1", 80)), (":81", Address("127.0.0.1", 81)),
        ("0.0.0.0", Address("0.0.0.0")), ("[::1]:82", Address("::1", 82)), ("[::1]", Address("::1")),
    ],
)  # fmt: skip
def test_an_address_is_read(text: str, address: Address | None) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["127.0.0.1:http", ":70000", "h:-1"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(FlowError, match="is not a port; use on, off, HOST:PORT or :PORT"):
        parse_address(text)


def test_on_loopback_no_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    door = open_door(Address("127.0.0.1", 0))
    assert door.token is None and door.link == door.url
    door.socket.close()


def test_elsewhere_there_is_a_token_in_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    door = open_door(Address("0.0.0.0", 0))
    assert door.token is not None and len(door.token) >= 32 and door.link.endswith(f"?token={door.token}")
    door.socket.close()


def test_a_token_of_the_users_is_used_and_a_short_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "a-token-of-my-own")
    door = open_door(Address("127.0.0.1", 0))
    assert door.token == "a-token-of-my-own"
    door.socket.close()
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(FlowError, match="16 to 200 letters"):
        open_door(Address("127.0.0.1", 0))


def test_a_port_in_use_is_refused_when_it_was_asked_for_by_number() -> None:
    door = open_door(Address("127.0.0.1", 0))
    with pytest.raises(FlowError, match=f"--ui 127.0.0.1:{door.port}: cannot listen there: .*choose another address"):
        open_door(Address("127.0.0.1", door.port))
    door.socket.close()


def test_two_pages_at_the_usual_port_get_two_ports() -> None:
    doors = [open_door(Address()) for _ in range(2)]
    assert doors[0].port != doors[1].port
    for door in doors:
        door.socket.close()


def test_the_address_is_left_for_its_owner_alone(tmp_path: Path) -> None:
    door = open_door(Address("127.0.0.1", 0))
    leave_address(tmp_path, door)
    assert left_address(tmp_path) == (door.url, None)
    assert stat.S_IMODE((tmp_path / "page.json").stat().st_mode) == 0o600
    take_address_away(tmp_path)
    assert left_address(tmp_path) is None
    door.socket.close()


def test_an_address_that_another_process_has_left_stays(tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(f'{{"url": "http://127.0.0.1:1/", "token": null, "process": {os.getppid()}}}')
    take_address_away(tmp_path)
    assert left_address(tmp_path) == ("http://127.0.0.1:1/", None)


def test_of_a_run_that_is_gone_there_is_no_address(tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text('{"url": "http://127.0.0.1:1/", "token": null, "process": 4194304}')
    assert left_address(tmp_path) is None
    (tmp_path / "page.json").write_text("nonsense")
    assert left_address(tmp_path) is None
