"""Numbers and their hashes, against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millstream.state.hash_table import HashTable

LONGEST = 200
# Some fall on the same place of the first table, some at its end, from where the search goes on at its beginning.
hashes = st.sampled_from([0, 1, 2_048, 4_096, 2_047, 2 * 2_048 - 1, 2**64 - 1, 7])
steps = st.lists(st.tuples(st.sampled_from(["insert", "remove", "rebuild"]), st.lists(hashes, max_size=8)), max_size=24)


@given(steps)
def test_a_number_is_found_by_its_hash_and_what_it_stands_for_until_it_is_removed(
    given_steps: list[tuple[str, list[int]]],
) -> None:
    table, known, live = HashTable(), np.zeros(LONGEST, np.uint64), dict[int, int]()
    given_out = 0
    for what, some in given_steps:
        if what == "insert":
            numbers = np.arange(given_out, given_out + len(some))
            known[numbers] = np.array(some, np.uint64)
            assert table.has_room(len(numbers))
            table.insert(known, numbers)
            live.update(zip(numbers.tolist(), some, strict=True))
            given_out += len(some)
        elif what == "remove":
            gone = [n for n, h in live.items() if h in some]
            table.remove(known, np.array(gone, np.int64))
            for number in gone:
                del live[number]
        else:
            table.rebuild(known, np.array(sorted(live), np.int64))
        # Each number stands for itself: those of one hash are told apart by that.
        rows = np.arange(given_out)
        found = table.find(known, known[:given_out], rows, lambda numbers, rows: numbers == rows)
        assert found.tolist() == [n if n in live else -1 for n in range(given_out)]


def test_where_equal_hashes_are_enough_nothing_is_compared_and_only_the_rows_asked_for_are_looked_for() -> None:
    table, known = HashTable(), np.array([5, 2**63, 9], np.uint64)
    table.insert(known, np.array([0, 1, 2]))
    wanted = np.array([9, 5, 6, 2**63], np.uint64)
    assert table.find(known, wanted, np.array([0, 2, 3]), None).tolist() == [2, -1, -1, 1]
