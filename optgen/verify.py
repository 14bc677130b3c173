"""Holds every backend to the float64 reference: what `optgen verify` runs and prints."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optgen.build import Built, build, build_programs
from optgen.in_memory import load_package, unload_package
from optgen.ir.nodes import Program
from optgen.output import write_package
from optgen.reference.cases import dtype_cases, hyper_cases, late_cases, shape_cases
from optgen.reference.codec_rule import codec_program, codec_spec
from optgen.reference.compare import Case, Difference, compare
from optgen.reference.disguise import fitted
from optgen.reference.tolerances import TOLERANCES
from optgen.runtime.cpp_compile import CompilerError, find_compiler

__all__ = ["BACKENDS", "Outcome", "Skipped", "imported", "verify"]

BACKENDS = ("torch", "compiled", "triton", "cpp")


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    backend: str
    case: Case
    difference: Difference
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the backend equals the reference here, and the rule gives numbers."""
        tolerance = TOLERANCES[str(self.case.dtype).removeprefix("torch.")]
        return self.difference.passes(tolerance) and self.difference.lost == 0


@dataclass(frozen=True)
class Skipped:
    """A backend that cannot run here, and what is missing."""

    backend: str
    reason: str


def verify(path: str, backends: tuple[str, ...] = BACKENDS, *, quick: bool = False) -> Iterator[Outcome | Skipped]:
    """Build the spec at `path` and compare each backend with the reference, one case after the other.

    On a machine with a GPU, torch and triton run there; else triton runs in its interpreter, which must have been chosen
    by TRITON_INTERPRET=1 before triton was imported.

    Raises:
        SpecError: if the spec has errors.
    """
    built = build(path)
    with imported(built) as optimizer_class:
        for backend in backends:
            missing = _missing(backend)
            if missing:
                yield Skipped(backend, missing)
                continue
            yield from _verify_rules(built, optimizer_class, backend, quick)
    yield from _verify_codecs(built, [backend for backend in backends if not _missing(backend)])


def _verify_rules(built: Built, optimizer_class: Any, backend: str, quick: bool) -> Iterator[Outcome | Skipped]:
    """Every rule on parameters that it takes."""
    for rule, program in zip(built.spec.parts, built.programs, strict=True):
        cases = [fitted(case, built.spec, rule) for case in _cases(program, backend, quick)]
        if None in cases:
            yield Skipped(backend, f"no parameter was found that the rule '{rule.name}' takes")
        for case in filter(None, cases):
            start = time.perf_counter()
            difference = compare(optimizer_class, program, case, **_options(backend))
            yield Outcome(backend, case, difference, time.perf_counter() - start)


@contextmanager
def imported(built: Built) -> Iterator[Any]:
    """Write a built package to a temporary folder, import its class, and clean up."""
    folder = Path(tempfile.mkdtemp(prefix="optgen-"))
    name = f"optgen_verified_{id(built)}"
    write_package(folder, name, built.files)
    try:
        yield getattr(load_package(folder, name), built.spec.name)
    finally:
        unload_package(name)
        shutil.rmtree(folder, ignore_errors=True)


def _verify_codecs(built: Built, backends: list[str]) -> Iterator[Outcome | Skipped]:
    """Every storage with equal arrays: the codes must be equal bit for bit."""
    seen = set()
    for state in (state for program in built.programs for state in program.states):
        if state.storage is None or (state.storage, state.unsigned) in seen:
            continue
        seen.add((state.storage, state.unsigned))
        program = codec_program(state)
        with imported(build_programs(codec_spec(program), (program,), "copy_gradient.yaml")) as optimizer_class:
            name = f"codes of {state.name}: {state.storage.bits}-bit {state.storage.codebook}"
            case = Case(name, ((4, 2 * state.storage.block), (3, state.storage.block + 5)), steps=2, hypers={"lr": 0.0})
            for backend in backends:
                start = time.perf_counter()
                difference = compare(optimizer_class, program, case, **_options(backend))
                difference.far_codes += difference.wrong_codes  # here not one may differ
                yield Outcome(backend, case, difference, time.perf_counter() - start)


def _cases(program: Program, backend: str, quick: bool) -> list[Case]:
    """What to run; fewer where a run is slow (the interpreter, a compilation)."""
    slow = backend == "triton" and not torch.cuda.is_available()
    steps = 2 if quick or slow else 8
    cases = shape_cases(program, steps)
    if backend == "compiled" or quick:
        return cases
    return [*cases, *dtype_cases(program, steps), *hyper_cases(program, steps), *late_cases(program, steps)]


def _options(backend: str) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if backend == "triton":
        return {"backend": "triton", "device": device}
    if backend == "cpp":
        return {"backend": "cpp", "device": "cpu"}
    return {"backend": "torch", "compile": backend == "compiled", "device": device}


def _missing(backend: str) -> str | None:
    """What a backend needs and does not find here."""
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if backend == "cpp":
        try:
            find_compiler()
        except CompilerError as error:
            return str(error)
    if (
        backend == "compiled"
        and not torch.cuda.is_available()
        and shutil.which("g++") is None
        and shutil.which("clang++") is None
    ):
        return "torch.compile needs a C++ compiler, and none was found"
    return None
