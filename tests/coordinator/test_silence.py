"""Silence: who has said nothing for too long, while somebody listened."""

from __future__ import annotations

from millstream.coordinator.silence import Silence


def listen(silence: Silence, from_s: float, to_s: float) -> bool:
    """Look every tenth of a second; whether it was ever too long."""
    looks = range(round(from_s * 10), round(to_s * 10) + 1)
    return any(silence.too_long(tenth / 10) for tenth in looks)


def test_what_is_silent_for_longer_than_the_limit_is_found() -> None:
    silence = Silence(2.0)
    assert not listen(silence, 100.0, 102.0)
    assert silence.too_long(102.2)


def test_who_says_something_in_time_is_not() -> None:
    silence = Silence(2.0)
    for start in range(0, 20, 2):
        assert not listen(silence, start, start + 1.5)
        silence.heard()


def test_time_in_which_nobody_listened_does_not_count() -> None:
    silence = Silence(2.0)
    assert not listen(silence, 0.0, 0.5)
    assert not silence.too_long(3_600.0)  # asleep for an hour: what was said meanwhile is still to be heard
    silence.heard()
    assert not listen(silence, 3_600.1, 3_602.0)
