"""The whole pipeline on one page: spec -> program -> passes -> plan -> files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optgen.backends.cpp import emit_cpp
from optgen.backends.render import format_files
from optgen.backends.torch import emit_torch
from optgen.backends.triton import emit_triton
from optgen.backends.view import package_view
from optgen.diagnostics import Diagnostics
from optgen.ir.nodes import Program
from optgen.passes import run_passes
from optgen.plan import Plan, make_plan
from optgen.spec.define import Definition
from optgen.spec.load import load_programs
from optgen.spec.model import Spec
from optgen.spec.resolve import MAXIMIZE

__all__ = ["Built", "build", "build_programs", "emit", "plan_programs"]


@dataclass(frozen=True)
class Built:
    """Every stage of one spec, and the files of its package by name."""

    spec: Spec
    programs: tuple[Program, ...]  # as lowered from the spec, one for each of `spec.parts`
    plan: Plan
    files: dict[str, str]

    @property
    def program(self) -> Program:
        """That of a spec without rules."""
        (program,) = self.programs
        return program


def build(path: str | Definition) -> Built:
    """Compile the spec at `path`, or one that was defined in Python.

    Raises:
        SpecError: if the spec has errors.
    """
    spec, programs = load_programs(path)  # text -> Spec -> Programs; every user error ends here
    return build_programs(spec, programs, _shown(spec.source.path))


def build_programs(spec: Spec, programs: tuple[Program, ...], shown: str) -> Built:
    """Compile the programs of a spec's rules; `shown` is the path that its files name as their origin."""
    plan = plan_programs(spec, programs)  # Programs -> Plan
    return Built(spec, programs, plan, format_files(emit(spec, plan, shown)))  # Plan -> text


def plan_programs(spec: Spec, programs: tuple[Program, ...]) -> Plan:
    """Run all passes over the program of each rule, and plan it."""
    rules = [(rule.name, run_passes(program)) for rule, program in zip(spec.parts, programs, strict=True)]
    plan = make_plan(spec.name, (*spec.hypers, MAXIMIZE), rules)
    _check_phases(spec, plan)
    return plan


def _check_phases(spec: Spec, plan: Plan) -> None:
    """Rules wait for a reduction over all their parameters behind the same phase, or one would wait for ever."""
    found = Diagnostics()
    first: dict[str, int] = {}
    for rule, part in zip(plan.rules, spec.parts, strict=True):
        for joint in (reduction.joint for kernel in rule.kernels for reduction in kernel.joint):
            if joint is not None and joint.of_all and first.setdefault(joint.name, joint.phase) != joint.phase:
                assert part.span is not None
                message = "the parameters of this rule wait for others at another time than those of the first"
                help_text = (
                    "let its own reductions over=group or over=optimizer follow those of transforms, or do without these"
                )
                found.add("bad-rule", message, part.span, help=help_text)
                break
    found.raise_if_any()


def emit(spec: Spec, plan: Plan, shown: str) -> dict[str, str]:
    """The files of a package, not formatted yet."""
    view = package_view(spec, plan, shown, spec.source.text)
    return {**emit_torch(view, plan), **emit_triton(view, plan), **emit_cpp(view, plan)}


def _shown(path: str) -> str:
    """The path as generated files show it: relative, with forward slashes, or else the file name alone."""
    shown = Path(path)
    if shown.is_absolute():
        shown = shown.relative_to(Path.cwd()) if shown.is_relative_to(Path.cwd()) else Path(shown.name)
    return "".join(c if c.isprintable() else "?" for c in shown.as_posix())
