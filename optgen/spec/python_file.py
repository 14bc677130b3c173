"""A spec file in Python -> nodes: it is run, and what it defines is read. What it raises is a fault with a place."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from pathlib import Path
from types import CodeType, ModuleType

from optgen.diagnostics import Diagnostics, Source, Span
from optgen.spec.define import Definition, Recorder, recording
from optgen.spec.yaml_nodes import Mapping

__all__ = ["read_python"]

MODULE = "__optgen_spec__"
HELP = "call define(name=..., summary=..., ...) once, from 'from optgen import define'"


def read_python(source: Source, found: Diagnostics) -> Mapping | None:
    """The keys of the spec that a Python file defines; None after a fault that leaves nothing to read.

    The file is a program of the user's own and is run as one: with its folder on the import path.
    """
    code = _compiled(source, found)
    if code is None:
        return None
    recorder = Recorder(source)
    if not _run(code, recorder, found):
        return None
    definition = _only(recorder, found)
    if definition is None:
        return None
    found.extend(definition.faults)
    return definition.root


def _compiled(source: Source, found: Diagnostics) -> CodeType | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code: CodeType = compile(source.text, source.path, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = min(error.lineno or 1, len(source.line_starts))
        start = source.line_starts[line - 1] + max((error.offset or 1) - 1, 0)
        message = f"this is not Python: {error.msg}"
        found.add("python-failed", message, _one(source, start), help="Python could not read on from here")
        return None
    except (ValueError, RecursionError, MemoryError) as error:
        message = f"Python cannot read this file: {error or type(error).__name__}"
        found.add("python-failed", message, _one(source, 0), help="write it more simply")
        return None
    return code


def _run(code: CodeType, recorder: Recorder, found: Diagnostics) -> bool:
    """Run the file; what it prints goes to standard error. False if it raised."""
    module = ModuleType(MODULE)
    module.__file__ = recorder.source.path
    folder = str(Path(recorder.source.path).resolve().parent)
    before, here = set(sys.modules), Path.cwd()
    sys.path.insert(0, folder)
    sys.modules[MODULE] = module
    token = recording.set(recorder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(code, module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 -- whatever a user's program raises is a fault of the spec
        _report(error, recorder.source, found)
        return False
    finally:
        recording.reset(token)
        sys.modules.pop(MODULE, None)
        os.chdir(here)
        _forget(set(sys.modules) - before, Path(folder))
        if folder in sys.path:
            sys.path.remove(folder)
    return True


def _forget(names: set[str], folder: Path) -> None:
    """Drop the modules that a spec imported from beside it: another spec's may have the same names."""
    for name in names:
        top = name.split(".")[0]
        if top == "optgen":
            continue
        if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
            sys.modules.pop(name, None)


def _report(error: BaseException, source: Source, found: Diagnostics) -> None:
    """An exception at the line of the file where it came up."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source.path]
    index = min((lines[-1] if lines else None) or 1, len(source.line_starts)) - 1
    text = source.line_text(index)
    start = source.line_starts[index] + len(text) - len(text.lstrip())
    end = source.line_starts[index] + len(text.rstrip())
    try:
        said = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 -- an exception of the user's, which cannot even be printed
        said = ""
    message = f"this raised {type(error).__name__}" + (f": {said[:200]}" if said else "")
    found.add("python-failed", message, Span(source, start, max(end, start)), help="mend the program that computes the spec")


def _only(recorder: Recorder, found: Diagnostics) -> Definition | None:
    """The one definition of a file."""
    if not recorder.found:
        found.add("python-definition", "this file defines no optimizer", _one(recorder.source, 0), help=HELP)
        return None
    for second in recorder.found[1:]:
        message = "a file defines one optimizer, and this is another"
        found.add("python-definition", message, second.root.span, help="put it into a file of its own")
    return recorder.found[0]


def _one(source: Source, start: int) -> Span:
    """One character."""
    start = min(start, len(source.text))
    return Span(source, start, min(start + 1, len(source.text)))
