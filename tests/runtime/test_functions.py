"""What is told of a function of the user's that raised."""

from __future__ import annotations

from typing import Any

import pytest

from millstream.functions import user_error


def told(path: str, code: str) -> str:
    module: dict[str, Any] = {"__name__": "orders"}
    exec(compile(code, path, "exec"), module)
    try:
        module["price"](1)
    except Exception as error:
        return str(user_error("map (orders.py:7)", {"n": 1}, error))
    raise AssertionError("it did not raise")


@pytest.mark.parametrize("path", ["/home/ann/orders.py", "/home/ann/millstream/orders.py"])
def test_the_traceback_has_the_users_line_wherever_it_lies(path: str) -> None:
    said = told(path, "def price(n):\n    return n + None\n")
    assert "map (orders.py:7): the function raised on {'n': 1}" in said
    assert f'File "{path}", line 2, in price' in said


def test_the_traceback_leaves_out_what_is_ours() -> None:
    said = told(
        "/home/ann/orders.py",
        "from millstream.times import duration_us\n\ndef price(n):\n    return duration_us('soon', 'here')\n",
    )
    assert "line 4, in price" in said
    assert "in duration_us" not in said
