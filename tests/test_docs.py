"""The examples of the documentation do what it says.

A block that begins with ```` ```python run ```` is run, in the order of its page and after the blocks before it, in an
empty directory; a ```` ```text ```` block right behind it is what it prints.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest

_DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"^```python run\n(.*?)^```\n(?:\n*^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    line: int
    code: str
    printed: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in _BLOCK.finditer(text)]


PAGES = [page for page in sorted(_DOCS.glob("*.md")) if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_and_print_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # A module of their own: the classes of state that examples define must be found by name, as in a flow file.
    module = types.ModuleType(f"example_of_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        code = compile("\n" * block.line + block.code, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, module.__dict__)
        assert block.printed in (None, printed.getvalue()), f"{page.name}:{block.line} prints something else"
