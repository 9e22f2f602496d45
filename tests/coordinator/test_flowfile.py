"""Loading flow files: which flow is meant, and what is said when there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from millstream.coordinator import flowfile
from millstream.errors import FlowError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    path_before, modules_before = list(sys.path), set(sys.modules)

    def write(source: str, name: str = "myflow.py") -> Path:
        path = tmp_path / name
        path.write_text(source)
        return path

    yield write
    sys.path[:] = path_before
    for name in set(sys.modules) - modules_before:
        del sys.modules[name]


def failure(spec: object) -> str:
    with pytest.raises(FlowError) as caught:
        flowfile.load(str(spec))
    return str(caught.value)


ONE = "import millstream as ms\nflow = ms.Flow('one')\n"
TWO = "import millstream as ms\na = ms.Flow('first')\nb = ms.Flow('second')\n"


def test_the_only_flow_of_a_file_needs_no_name(write: Write) -> None:
    path = write(ONE)
    flow, import_paths = flowfile.load(str(path))
    assert flow.name == "one"
    assert import_paths == (str(path.parent),)


def test_a_flow_under_two_names_is_one_flow(write: Write) -> None:
    assert flowfile.load(str(write(ONE + "same = flow\n")))[0].name == "one"


def test_a_name_picks_one_of_several_flows(write: Write) -> None:
    assert flowfile.load(f"{write(TWO)}:b")[0].name == "second"


def test_a_path_with_a_colon_in_it_is_still_a_path(write: Write) -> None:
    assert flowfile.load(str(write(ONE, "a:b.py")))[0].name == "one"


def test_several_flows_without_a_name_are_listed(write: Write) -> None:
    path = write(TWO)
    assert failure(path) == f"{path} has several flows (a, b); say which, as in {path}:a"


def test_an_unknown_name_is_answered_with_those_that_there_are(write: Write) -> None:
    assert "there is no flow 'c'; flows in the file: a, b" in failure(f"{write(TWO)}:c")


def test_a_name_that_is_no_flow_is_told_what_it_is(write: Write) -> None:
    assert "'a' is a int, not a Flow" in failure(f"{write('a = 1')}:a")


def test_a_colon_without_a_name_is_a_mistake(write: Write) -> None:
    assert "a name is missing behind the colon" in failure(f"{write(ONE)}:")


def test_a_file_without_a_flow_is_told_how_to_make_one(write: Write) -> None:
    assert 'flow = ms.Flow("myflow")' in failure(write("x = 1"))


def test_a_missing_file_is_answered_with_the_nearest_name(write: Write) -> None:
    path = write(ONE)
    assert failure(path.with_name("myflwo.py")).endswith(f"there is no such file; did you mean {path}?")


def test_a_folder_and_a_data_file_are_not_python_files(write: Write, tmp_path: Path) -> None:
    assert "is not a Python file" in failure(tmp_path)
    assert "is not a Python file" in failure(write("a,b", "data.csv"))


def test_a_syntax_error_shows_its_line(write: Write) -> None:
    path = write("x = 1\nif x\n    pass\n")
    assert failure(path) == f"{path}:2: expected ':'\n    if x\n        ^"


def test_a_file_that_is_not_text_is_a_syntax_error(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "binary.py"
    path.write_bytes(b"\x00\xff")
    assert str(path) in failure(path)


def test_an_exception_in_the_file_shows_only_the_users_frames(write: Write) -> None:
    path = write("def f():\n    return {}['missing']\nf()\n")
    message = failure(path)
    assert message.count('File "') == 2
    assert f'File "{path}", line 2, in f' in message
    assert message.endswith("KeyError: 'missing'")
    assert "myflow" not in sys.modules


def test_an_error_of_the_flow_api_is_passed_on_without_a_traceback(write: Write) -> None:
    message = failure(write("import millstream as ms\nflow = ms.Flow('no spaces')\n"))
    assert message.startswith("Flow('no spaces')")


def test_arguments_are_seen_in_argv_while_the_file_runs_and_not_after(write: Write) -> None:
    path = write("import sys\nimport millstream as ms\nflow = ms.Flow('_'.join(sys.argv[1:]))\n")
    before = list(sys.argv)
    assert flowfile.load(str(path), ["x", "y"])[0].name == "x_y"
    assert sys.argv == before


def test_the_main_block_does_not_run(write: Write) -> None:
    flowfile.load(str(write(ONE + "if __name__ == '__main__':\n    raise SystemExit('ran')\n")))


def test_modules_beside_the_file_can_be_imported(write: Write) -> None:
    write("NAME = 'from-the-side'\n", "beside.py")
    path = write("import beside\nimport millstream as ms\nflow = ms.Flow(beside.NAME)\n")
    assert flowfile.load(str(path))[0].name == "from-the-side"


def test_a_file_named_like_a_module_of_the_standard_library_does_not_replace_it(write: Write) -> None:
    import json

    assert flowfile.load(str(write(ONE, "json.py")))[0].name == "one"
    assert sys.modules["json"] is json
