"""The whole pipeline on one page: spec -> program -> passes -> plan -> files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optgen.backends.cpp import emit_cpp
from optgen.backends.render import format_files
from optgen.backends.torch import emit_torch
from optgen.backends.triton import emit_triton
from optgen.backends.view import package_view
from optgen.ir.nodes import Program
from optgen.passes import run_passes
from optgen.plan import Plan, make_plan
from optgen.spec.define import Definition
from optgen.spec.lower import load_program
from optgen.spec.model import Spec

__all__ = ["Built", "build", "build_program"]


@dataclass(frozen=True)
class Built:
    """Every stage of one spec, and the files of its package by name."""

    spec: Spec
    program: Program  # as lowered from the spec
    plan: Plan
    files: dict[str, str]


def build(path: str | Definition) -> Built:
    """Compile the spec at `path`, or one that was defined in Python.

    Raises:
        SpecError: if the spec has errors.
    """
    spec, program = load_program(path)  # text -> Spec -> Program; every user error ends here
    return build_program(spec, program, _shown(spec.source.path))


def build_program(spec: Spec, program: Program, shown: str) -> Built:
    """Compile a program; `shown` is the path that its files name as their origin."""
    plan = make_plan(run_passes(program))  # Program -> Program -> Plan
    view = package_view(spec, plan, shown, spec.source.text)
    files = {**emit_torch(view, plan), **emit_triton(view, plan), **emit_cpp(view, plan)}  # Plan -> text
    return Built(spec, program, plan, format_files(files))


def _shown(path: str) -> str:
    """The path as generated files show it: relative, with forward slashes, or else the file name alone."""
    shown = Path(path)
    if shown.is_absolute():
        shown = shown.relative_to(Path.cwd()) if shown.is_relative_to(Path.cwd()) else Path(shown.name)
    return "".join(c if c.isprintable() else "?" for c in shown.as_posix())
