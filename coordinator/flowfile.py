"""From ``flights.py:flow`` on the command line to the `Flow` that this file builds.

The file is run once, as a module under its own name, so a ``if __name__ == "__main__"`` block stays
quiet. Its functions travel to the workers by value: they need not be importable there. Modules that it
imports from its own folder are imported again in the workers, which is what the import paths are for.

Whatever is wrong with the file is the user's to mend, so it is told without a line of ours: a syntax error
with its line, an exception with the traceback from the user's first frame on.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

import cloudpickle

from millstream.errors import FlowError, MillstreamError
from millstream.flow import Flow


def load(spec: str, arguments: Sequence[str] = ()) -> tuple[Flow, tuple[str, ...]]:
    """Run a flow file and find the flow in it.

    Args:
        spec: ``FLOW.py``, or ``FLOW.py:name`` where the file has several flows.
        arguments: what the file sees in ``sys.argv[1:]``.
    Returns:
        The flow, and the folders from which workers import what the file imports.
    Raises:
        FlowError: there is no such file or flow, or running the file failed; with the user's own lines.
    """
    path, name = _split(spec)
    # As Python does for a script: its folder comes first, for the modules that lie beside it.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _run(path, arguments)
    cloudpickle.register_pickle_by_value(module)
    return _find(module, path, name), (folder,)


def _split(spec: str) -> tuple[Path, str | None]:
    before, colon, after = spec.rpartition(":")
    path, name = (Path(before), after) if colon and not Path(spec).is_file() else (Path(spec), None)
    if not path.exists():
        near = get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=1, cutoff=0.7)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise FlowError(f"{path}: there is no such file{hint}")
    if not path.is_file() or path.suffix != ".py":
        raise FlowError(f"{path} is not a Python file; give the .py file that builds the flow")
    if name == "":
        raise FlowError(f"{path}: a name is missing behind the colon, as in {path}:flow")
    return path, name


def _run(path: Path, arguments: Sequence[str]) -> ModuleType:
    full = path.resolve()
    try:
        code = compile(full.read_bytes(), str(full), "exec")
    except SyntaxError as error:
        raise FlowError(_syntax_error(path, error)) from None
    except OSError as error:
        raise FlowError(f"{path} cannot be read: {error.strerror}") from None
    module = ModuleType(_module_name(path.stem))
    module.__file__ = str(full)
    sys.modules[module.__name__] = module
    try:
        with _argv([str(path), *arguments]):
            exec(code, module.__dict__)
    except MillstreamError:
        del sys.modules[module.__name__]
        raise
    except Exception as error:
        del sys.modules[module.__name__]
        raise FlowError(f"{path} raised while it was loaded\n{_users_traceback(error)}") from None
    return module


def _module_name(stem: str) -> str:
    """The file's own name, unless a module of that name is there already: json.py must not become `json`."""
    taken = stem in sys.stdlib_module_names or stem in sys.modules
    return f"flow_file_{stem}" if taken or not stem.isidentifier() else stem


@contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before


def _syntax_error(path: Path, error: SyntaxError) -> str:
    lines = [f"{path}:{error.lineno or 1}: {error.msg}"]
    if error.text:
        text = error.text.rstrip()
        lines.append(f"    {text.lstrip()}")
        if error.offset:
            indent = len(text) - len(text.lstrip())
            lines.append(" " * (4 + max(0, error.offset - 1 - indent)) + "^")
    return "\n".join(lines)


def _users_traceback(error: Exception) -> str:
    summary = traceback.TracebackException.from_exception(error)
    # The first frame is the exec above.
    summary.stack = traceback.StackSummary.from_list(summary.stack[1:])
    return "".join(summary.format()).rstrip()


def _find(module: ModuleType, path: Path, name: str | None) -> Flow:
    flows = {n: v for n, v in vars(module).items() if isinstance(v, Flow)}
    named = ", ".join(flows)
    if name is None:
        different = list({id(f): f for f in flows.values()}.values())
        if len(different) == 1:
            return different[0]
        if not flows:
            raise FlowError(
                f'{path} builds no flow; it needs one at module level, as in flow = ms.Flow("{_suggestion(path)}")'
            )
        raise FlowError(f"{path} has several flows ({named}); say which, as in {path}:{next(iter(flows))}")
    if name in flows:
        return flows[name]
    if name in vars(module):
        raise FlowError(
            f"{path}: {name!r} is a {type(vars(module)[name]).__name__}, not a Flow; flows in the file: {named or 'none'}"
        )
    raise FlowError(f"{path}: there is no flow {name!r}; flows in the file: {named or 'none'}")


def _suggestion(path: Path) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in path.stem)
