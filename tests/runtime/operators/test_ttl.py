"""State that expires: at the moment it does, and what is left of it."""

from __future__ import annotations

from typing import Any

from millstream.operators.process_state import KeyRecord, ProcessState
from millstream.state_codec import StateCodec
from millstream.state_handles import Kind, StateDeclaration
from millstream.times import MAX_US


class Bench:
    """A table with one state that lives for 10, and a clock."""

    def __init__(self, kind: Kind, default: Any = None) -> None:
        self.table = ProcessState({"it": StateDeclaration(kind, default, ttl_us=10)}, True, StateCodec("op"), "op")
        self.moment = self.table.moments["event"]

    def at(self, now_us: int, key: str = "a") -> Any:
        record: KeyRecord = self.table.record(key)
        self.moment.now_us, self.moment.record = now_us, record
        return record.handles[0]

    def watermark(self, now_us: int) -> None:
        self.table.free("event", now_us)
        self.table.sweep()

    @property
    def keys(self) -> list[str]:
        return list(self.table.records)

    @property
    def freed(self) -> int:
        return self.table.expiries["event"].freed


def test_a_value_is_seen_until_just_before_it_expires() -> None:
    bench = Bench(Kind.VALUE, 0)
    bench.at(100).value = 5
    assert [bench.at(t).value for t in (100, 109, 110, 109)] == [5, 5, 0, 0]


def test_a_value_that_is_assigned_again_lives_on() -> None:
    bench = Bench(Kind.VALUE, 0)
    bench.at(100).value = 5
    bench.at(105).value += 1
    bench.watermark(110)
    assert bench.at(114).value == 6
    bench.watermark(115)
    assert (bench.keys, bench.freed) == ([], 1)


def test_an_event_that_comes_out_of_order_does_not_shorten_a_life() -> None:
    bench = Bench(Kind.VALUE, 0)
    bench.at(100).value = 5
    bench.at(95).value = 6
    assert bench.at(109).value == 6


def test_a_default_that_is_changed_in_place_is_kept() -> None:
    bench = Bench(Kind.VALUE, [])
    bench.at(100).value.append(1)
    assert bench.at(105).value == [1]
    assert bench.at(110).value == []


def test_each_element_of_a_list_has_its_own_life() -> None:
    bench = Bench(Kind.LIST)
    for t in (100, 104, 104, 108):
        bench.at(t).append(t)
    assert list(bench.at(109)) == [100, 104, 104, 108]
    assert (list(bench.at(110)), len(bench.at(113)), list(bench.at(114))) == ([104, 104, 108], 3, [108])
    bench.watermark(130)
    assert (bench.keys, bench.freed) == ([], 4)


def test_a_list_filled_out_of_order_forgets_in_the_order_of_time() -> None:
    bench = Bench(Kind.LIST)
    for t in (108, 100, 104):
        bench.at(t).append(t)
    assert list(bench.at(110)) == [108, 104]
    bench.at(110)[0] = "new"
    assert list(bench.at(118)) == ["new"]
    bench.watermark(500)
    assert bench.keys == []


def test_each_entry_of_a_map_has_its_own_life() -> None:
    bench = Bench(Kind.MAP)
    for t, key in [(100, "x"), (103, "y"), (105, "x")]:
        bench.at(t)[key] = t
    assert dict(bench.at(112)) == {"y": 103, "x": 105}
    assert dict(bench.at(113)) == {"x": 105}
    assert ("y" in bench.at(113), bench.at(113).get("y"), len(bench.at(113)), bool(bench.at(115))) == (
        False, None, 1, False,
    )  # fmt: skip
    bench.watermark(200)
    assert bench.keys == []


def test_a_map_filled_out_of_order_shows_nothing_that_has_expired() -> None:
    bench = Bench(Kind.MAP)
    bench.at(108)["late"] = 1
    bench.at(100)["early"] = 2
    assert (dict(bench.at(111)), len(bench.at(111)), list(bench.at(111))) == ({"late": 1}, 1, ["late"])


def test_memory_follows_what_lives_and_freeing_looks_at_nothing_else() -> None:
    bench = Bench(Kind.VALUE, 0)
    for t in range(100_000):
        bench.at(t, f"key{t}").value = t
        if t % 100 == 99:
            bench.watermark(t)
    assert len(bench.keys) <= 11
    assert len(bench.table.expiries["event"]) <= 11


def test_a_key_that_is_always_written_has_one_entry_among_the_expiries() -> None:
    bench = Bench(Kind.VALUE, 0)
    for t in range(1_000):
        bench.at(t).value = t
        bench.watermark(t)
    assert len(bench.table.expiries["event"]) == 1
    bench.at(1_000).clear()
    bench.watermark(2_000)
    assert (bench.keys, bench.table.expiries["event"].next_us) == ([], MAX_US)


def test_state_that_is_restored_expires_as_it_would_have() -> None:
    for kind in Kind:
        bench = Bench(kind, 0)
        handle = bench.at(100)
        match kind:
            case Kind.VALUE:
                handle.value = 5
            case Kind.LIST:
                handle.extend([5, 6])
            case Kind.MAP:
                handle["x"] = 5
        encoded = bench.table.encode(bench.table.records["a"])
        other = Bench(kind, 0)
        other.table.restore("a", encoded)
        bench.table.restore("a", encoded)
        for each in (bench, other):
            assert not each.at(109).blank
            each.watermark(109)
            assert each.keys == ["a"]
            each.watermark(110)
            assert each.keys == []
