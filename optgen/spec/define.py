"""`define(name=..., ...)`: a spec in Python, with the keys of a YAML spec and the same diagnostics."""

from __future__ import annotations

import ast
import linecache
import sys
import warnings
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from optgen.diagnostics import Diagnostics, Source, Span
from optgen.spec.python_nodes import PythonNodes
from optgen.spec.yaml_nodes import Mapping, Node

__all__ = ["Definition", "Recorder", "define", "in_file", "nodes_at", "recording"]


@dataclass(frozen=True)
class Definition:
    """What `define` was called with, and the faults that show already."""

    root: Mapping
    folder: Path  # where specs that it extends are looked for
    seen: tuple[Path, ...] = ()  # the file that it comes from
    storage: Node | None = None  # what `optimizer_class` was asked for in place of the spec's
    faults: Diagnostics = field(default_factory=Diagnostics, compare=False, repr=False)


def in_file(root: Mapping, path: str) -> Definition:
    """What the spec file at `path` says."""
    place = Path(path).resolve()
    return Definition(root, place.parent, (place,))


@dataclass
class Recorder:
    """The file that is being read, and the definitions in it."""

    source: Source
    found: list[Definition] = field(default_factory=list)


recording: ContextVar[Recorder | None] = ContextVar("recording", default=None)


def define(**keys: Any) -> Definition:
    """Define an optimizer: what a spec file `my.py` does once, or a notebook for `optgen.optimizer_class`.

    Args:
        keys: the keys of a spec (docs/spec-language.md) with texts, numbers, lists and dicts: `name`, `summary`, `extends`,
            `hyper`, `state`, `update` and so on. Formulas are texts. None removes what is inherited.

    Returns:
        The definition, which is checked when it is built.
    """
    recorder = recording.get()
    nodes, call = nodes_at(_frame(sys._getframe(1), recorder), recorder)
    place = Path(nodes.source.path)
    folder = place.resolve().parent if place.is_file() else Path.cwd()  # cells of notebooks are no files
    definition = Definition(nodes.call(keys, call), folder, faults=nodes.found)
    if recorder is not None:
        recorder.found.append(definition)
    return definition


def nodes_at(frame: FrameType, recorder: Recorder | None) -> tuple[PythonNodes, ast.Call | None]:
    """What makes nodes of the arguments of the call that a frame is just making, and its expression if it is known."""
    path = recorder.source.path if recorder is not None else frame.f_code.co_filename
    source = recorder.source if recorder is not None else Source(path, "".join(linecache.getlines(path)))
    call = _call(source.text, frame)
    nodes = PythonNodes(source, Diagnostics(), Span(source, 0, 0))
    if call is not None:
        nodes.place = nodes.span(call.func)
    elif source.text:
        start = nodes.offset(frame.f_lineno, 0)
        nodes.place = Span(source, start, start + len(source.line_text(source.line_index(start))))
    return nodes, call


def _frame(caller: FrameType, recorder: Recorder | None) -> FrameType:
    """The innermost frame of the file that is being read, or the caller."""
    frame: FrameType | None = caller
    while recorder is not None and frame is not None:
        if frame.f_code.co_filename == recorder.source.path:
            return frame
        frame = frame.f_back
    return caller


def _call(text: str, frame: FrameType) -> ast.Call | None:
    """The expression that a frame is just evaluating."""
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            place = node.lineno, node.end_lineno, node.col_offset, node.end_col_offset
            if place == positions:
                return node
    return None
