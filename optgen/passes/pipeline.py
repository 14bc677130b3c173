"""The passes in their order, with the reason for each constraint, and the checks between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from optgen.ir.nodes import Program
from optgen.ir.verify import verify
from optgen.passes.expand_powers import expand_powers
from optgen.passes.expand_words import expand_words
from optgen.passes.fold_constants import fold_constants
from optgen.passes.fold_scalar_factors import fold_scalar_factors
from optgen.passes.hoist_scalars import hoist_scalars
from optgen.passes.name_reductions import name_reductions
from optgen.passes.name_vectors import name_vectors
from optgen.passes.number_conditions import number_conditions
from optgen.passes.remove_dead import remove_dead
from optgen.passes.select_branches import select_branches
from optgen.passes.share_subexpressions import share_subexpressions

__all__ = ["PASSES", "Pass", "run_passes", "trace"]


class Pass(NamedTuple):
    """A named rewrite and the phase its output belongs to."""

    name: str
    rewrite: Callable[[Program], Program]
    phase: str


PASSES: tuple[Pass, ...] = (
    Pass("expand-words", expand_words, "rule"),
    # merges `x = a` and `x = b` of two branches, so it must see them before locals are split off
    Pass("select-branches", select_branches, "rule"),
    # 2*0.5 as an exponent must be a constant when powers are expanded
    Pass("fold-constants", fold_constants, "rule"),
    Pass("expand-powers", expand_powers, "plain"),
    # must come before hoisting, which takes whole host expressions: lr*(m/c) -> (lr/c)*m leaves one scalar, not two
    Pass("fold-scalar-factors", fold_scalar_factors, "plain"),
    # after branches have become choices, which would give a name to half of a value
    Pass("name-reductions", name_reductions, "plain"),
    Pass("hoist-scalars", hoist_scalars, "hoisted"),
    # after hoisting, which leaves host scalars by name
    Pass("name-vectors", name_vectors, "hoisted"),
    # after hoisting, when what two expressions share is per element and worth a register
    Pass("share-subexpressions", share_subexpressions, "hoisted"),
    # after sharing, which gives names to conditions
    Pass("number-conditions", number_conditions, "hoisted"),
    Pass("remove-dead", remove_dead, "hoisted"),
)


def trace(program: Program) -> Iterator[tuple[str, Program]]:
    """Every intermediate program with the name of the pass that made it, verified."""
    for name, rewrite, phase in PASSES:
        program = rewrite(program)
        verify(program, name, phase)
        yield name, program


def run_passes(program: Program, after: str | None = None) -> Program:
    """The program after all passes, or after the pass named `after`.

    Raises:
        KeyError: if there is no pass of that name.
    """
    stages = dict(trace(program))
    made = stages[after if after is not None else PASSES[-1].name]
    return replace(made, points=tuple((name, run_passes(point, after)) for name, point in program.points))
