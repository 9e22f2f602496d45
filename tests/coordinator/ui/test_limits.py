"""Which operator limits a run, and how that is told."""

from __future__ import annotations

from millstream.coordinator.ui.limits import Limit, ProcessLoad, limit_of


def limit(processes: dict[str, ProcessLoad], hot: dict[str, tuple[str, float]] | None = None, **more: object) -> Limit:
    found = limit_of(processes, hot or {}, live=bool(more.get("live", False)), machine_cpu=more.get("machine_cpu"))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_operator_that_a_busy_process_spends_most_time_with_limits_the_run() -> None:
    found = limit({"worker-0": ProcessLoad(0.99, {"decode": 0.2, "agg": 0.75}), "coordinator": ProcessLoad(0.3)})
    assert (found.operator, found.process) == ("agg", "worker-0")
    assert found.sentence == "`agg` limits the run: 75 % busy"


def test_a_hot_key_is_named_with_its_share() -> None:
    found = limit({"worker-0": ProcessLoad(0.98, {"agg": 0.97})}, {"agg": ("a", 0.41)})
    assert found.sentence == "`agg` limits the run: 97 % busy, key 'a' carries 41 % of its events"


def test_a_key_like_others_is_not_named() -> None:
    assert "key" not in limit({"worker-0": ProcessLoad(0.98, {"agg": 0.97})}, {"agg": ("a", 0.01)}).sentence


def test_one_worker_that_is_busy_alone_is_named() -> None:
    found = limit({"worker-0": ProcessLoad(0.99, {"agg": 0.9}), "worker-1": ProcessLoad(0.2, {"agg": 0.2})})
    assert found.sentence == "`agg` limits the run: 90 % busy in worker-0 alone, while others have room"


def test_where_no_process_is_busy_nothing_limits_the_run() -> None:
    found = limit({"worker-0": ProcessLoad(0.4, {"agg": 0.4})}, live=True)
    assert found.operator is None
    assert found.sentence == "the run keeps up with its input: the busiest process, worker-0, is 40 % busy"


def test_where_all_seem_busy_what_takes_most_time_counts() -> None:
    found = limit({"a": ProcessLoad(1.0, {"x": 0.4}), "b": ProcessLoad(0.98, {"y": 0.6})}, machine_cpu=1.0)
    assert found.operator == "y"
    assert found.sentence == "`y` limits the run: 60 % busy; all cores of the machine are in use"


def test_a_process_that_is_clearly_busier_counts_before_a_larger_share_elsewhere() -> None:
    assert limit({"a": ProcessLoad(1.0, {"x": 0.6}), "b": ProcessLoad(0.9, {"y": 0.85})}).operator == "x"


def test_where_others_use_the_cores_no_operator_is_blamed() -> None:
    found = limit({"a": ProcessLoad(1.0, {"x": 0.07})}, machine_cpu=0.99)
    assert (found.operator, found.sentence[:26]) == (None, "the machine limits the run")


def test_before_anything_is_known_there_is_no_sentence() -> None:
    assert limit_of({}, {}, live=True) is None
