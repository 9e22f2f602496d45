"""What is told of the time in which a run stood still adds up to all of it."""

from __future__ import annotations

from millstream.coordinator.standstill import Standstill


def test_every_phase_is_told_and_what_is_left_is_the_beginning_of_the_processes() -> None:
    standstill = Standstill(10.0)
    standstill.passed("the others end", 10.25)
    standstill.passed("pause", 10.35)
    assert standstill.sentence(restoring_s=3.0, restoring_cpu_s=2.5, now_s=14.0) == (
        "the run goes on, 4.0 s after the loss: the others end 0.25 s, pause 0.10 s, processes begin 0.65 s, "
        "state is read 3.00 s (2.50 s of CPU)"
    )
