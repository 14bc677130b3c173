"""What must hold of any file given as a spec: a rendered error, or a package that compiles and computes the rule."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch

from optgen.build import Built, emit, plan_programs
from optgen.diagnostics import SpecError
from optgen.diagnostics.render import render_all, to_json
from optgen.reference.compare import Case, compare
from optgen.reference.disguise import fitted
from optgen.spec.load import load_programs
from optgen.spec.show import spec_text
from optgen.verify import imported

LIMIT = 1e4  # times the tolerance of float64: rounding that cancels is no fault, a wrong formula is far beyond


def try_spec(path: Path) -> bool:
    """True if the spec is accepted and built; False if it is refused as it should be."""
    try:
        build_text(path)
    except SpecError as error:
        text = render_all(error.diagnostics, color=True)
        assert text
        json.dumps([to_json(d) for d in error.diagnostics])
        for d in error.diagnostics:
            assert d.message.isprintable(), d
            assert 0 <= d.primary.span.start <= d.primary.span.end <= len(d.primary.span.source.text)
        return False
    return True


def build_text(path: Path) -> Built:
    """All files of a package, as text that compiles; without the formatter, which is slow."""
    spec, programs = load_programs(str(path))
    plan = plan_programs(spec, programs)
    files = emit(spec, plan, path.name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, text in files.items():
            if name.endswith(".py"):
                compile(text, name, "exec")
    spec_text(spec).encode()
    return Built(spec, programs, plan, files)


def run_spec(path: Path, backend: str = "torch") -> None:
    """A valid spec on a backend against the reference, with defaults and with other flags and choices."""
    built = build_text(path)
    other = {h.name: not h.default if isinstance(h.default, bool) else h.choices[-1] for h in built.plan.hypers if is_option(h)}
    more = (
        ((2, 35, 131),) if any(kernel.grid for kernel in built.plan.kernels) and backend != "triton" else ()
    )  # strips of rows, and parts of them
    with imported(built) as optimizer_class:
        for hypers in ({}, {**other, "maximize": False}):
            given = Case(path.stem, ((3, 5), (2, 64), *more), torch.float64, steps=3, hypers=hypers)
            for rule, program in zip(built.spec.parts, built.programs, strict=True):
                case = fitted(given, built.spec, rule)
                assert case is not None
                difference = compare(optimizer_class, program, case, backend=backend)
                assert difference.p < LIMIT and difference.state < LIMIT and not difference.far_codes, (case, difference)
                assert difference.wrong_codes <= 1, (case, difference)


def is_option(hyper: object) -> bool:
    return isinstance(getattr(hyper, "default", None), bool) or bool(getattr(hyper, "choices", ()))
