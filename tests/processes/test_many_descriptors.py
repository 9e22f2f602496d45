"""A run that is started by a process with very many open files."""

from __future__ import annotations

import os
import resource

import pytest

import millstream as ms


def test_a_run_starts_where_more_than_a_thousand_files_are_open() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1_500:
        pytest.skip("so many files may not be open here")
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        flow = ms.Flow("many")
        flow.read_iterable([{"v": n} for n in range(10)]).collect("out")
        assert flow.run(workers=1).tables["out"]["v"].to_pylist() == list(range(10))
    finally:
        for descriptor in held:
            os.close(descriptor)
