"""What a rule is verified on: shapes, dtypes, and hyperparameters that take every branch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import torch

from optgen.ir.constants import by_part, evaluate_condition
from optgen.ir.infer import knows_rows, refs
from optgen.ir.nodes import Assign, Const, Domain, Expr, Hyper, Op, Program, Ref
from optgen.reference.compare import Case

__all__ = ["dtype_cases", "hyper_cases", "late_cases", "shape_cases"]

SMALL = ((), (1,), (33,), (5, 7))
SMALL_MATRICES = ((1, 1), (2, 3, 4, 5), (3, 33), (70, 5))
MODES = ("nearest", "kahan", "correction8", "correction16")
LATE = 1000
MOST = 2**16  # elements of a parameter that makes several states codes
OTHERS = (0.1, 0.5, 0.9, 0.0, 1.0, 2.0, 1e-3, -1.0, 10.0)  # what a number is set to when its default will not do


def shape_cases(program: Program, steps: int) -> list[Case]:
    """Matrices that are stored as codes, with and without padding, and parameters that are too small for codes."""
    return [Case("matrices", _matrices(program), steps=steps), Case("small", _small(program), steps=steps)]


def _small(program: Program) -> tuple[tuple[int, ...], ...]:
    """Small parameters; of a rule that knows rows and columns matrices."""
    return SMALL_MATRICES if knows_rows(program) else SMALL


def dtype_cases(program: Program, steps: int) -> list[Case]:
    """The other dtypes of parameters and gradients."""
    shapes = (_matrices(program)[0], *_small(program)[2:3])
    return [
        Case("bfloat16", shapes, torch.bfloat16, steps),
        Case("float16", _small(program)[2:], torch.float16, steps),
        *(Case(f"bfloat16, {mode}", shapes, torch.bfloat16, steps, {"low_precision": mode}) for mode in MODES),
        *(Case(f"float16, {mode}", _small(program)[2:], torch.float16, steps, {"low_precision": mode}) for mode in MODES[1:]),
        Case("float64", shapes, torch.float64, steps),
    ]


def hyper_cases(program: Program, steps: int) -> list[Case]:
    """Every flag and choice that is not the default, and every side of a condition on numbers.

    Numbers whose default is zero are set to something else, so that no term and no nested branch is left out.
    """
    shapes = (_matrices(program)[0], *_small(program)[2:3])
    full = _without_zeros(program)
    chosen: list[tuple[str, dict[str, Any]]] = [("no zeros", full)] if full else []
    for hyper in program.hypers:
        others: tuple[Any, ...] = (not hyper.default,) if isinstance(hyper.default, bool) else hyper.choices
        chosen += [(f"{hyper.name}={other}", {**full, hyper.name: other}) for other in others if other != hyper.default]
    chosen += _numeric_branches(program, [values for _, values in chosen])
    return [Case(name, shapes, steps=steps, hypers=values) for name, values in chosen]


def late_cases(program: Program, steps: int) -> list[Case]:
    """Steps from the thousandth on, if a condition compares t or what is computed from it."""
    first = Op("eq", (Ref("t"), Const(1)))
    timed = {guard.flag for statement in program.body for guard in statement.guards if guard.flag not in program.flags}
    values = [s.value for s in program.body if isinstance(s, Assign) and s.target in timed and s.value != first]
    full = _without_zeros(program)
    return (
        [Case("late steps", (_matrices(program)[0], *_small(program)[2:3]), steps=steps, hypers=full, start=LATE)]
        if values
        else []
    )


def _matrices(program: Program) -> tuple[tuple[int, ...], ...]:
    """Shapes with whole blocks, padded ones and, if blocks differ, rows of a length between theirs."""
    blocks = [s.storage.block for s in program.states if s.storage is not None and s.domain == Domain.ELEMENT]
    wide, long = max([128, *blocks]), _long(program)
    if not blocks:
        return ((16, 2 * wide), *long)
    between = min(blocks) + 8
    return ((16, 2 * wide), (40, wide + 7), *(((-(-4096 // between), between),) if between < wide else ()), *long)


def _long(program: Program) -> tuple[tuple[int, ...], ...]:
    """Shapes with as many rows, columns or matrices as states that have a number for each need to be stored as codes."""
    need = {
        s.domain: max(s.storage.min_size, s.storage.block, s.storage.row) + 8 for s in program.states if s.storage is not None
    }
    rows, cols, count = (need.get(domain, 3) for domain in (Domain.ROW, Domain.COL, Domain.MATRIX))
    stacks = [(count, 2, 3)] if Domain.MATRIX in need else []
    if not {Domain.ROW, Domain.COL} & need.keys():
        return tuple(stacks)
    if {Domain.ROW, Domain.COL} <= need.keys() and rows * cols > MOST:
        return (rows, 3), (3, cols), *stacks
    return (rows, cols), *stacks


def _without_zeros(program: Program) -> dict[str, Any]:
    """The arguments that are zero by default, set to another value of their range."""
    values: dict[str, Any] = {}
    for hyper in program.hypers:
        default = hyper.default
        if isinstance(default, tuple) and 0 in default:
            values[hyper.name] = tuple(number or _other(hyper) for number in default)
        elif not isinstance(default, bool | str | tuple) and default == 0:
            values[hyper.name] = _other(hyper)
    return values


def _other(hyper: Hyper) -> float:
    """The first of the usual values that lies in the range of a number and is not zero; zero if there is none."""
    return next((value for value in OTHERS if value and _allowed(hyper, value)), 0.0)


def _allowed(hyper: Hyper, value: float) -> bool:
    return (
        (hyper.min is None or value >= hyper.min)
        and (hyper.above is None or value > hyper.above)
        and (hyper.max is None or value <= hyper.max)
        and (hyper.below is None or value < hyper.below)
    )


def _numeric_branches(program: Program, tried: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Arguments for each side of a condition that neither the defaults nor the arguments `tried` take."""
    found: list[tuple[str, dict[str, Any]]] = []
    for condition in program.flags.values():
        for side in (True, False):
            seen = [{}, *tried, *(values for _, values in found)]
            if any(_is_taken(program, condition, values, side) for values in seen):
                continue
            for values in islice(_assignments(program, set(refs(condition))), 2000):
                if _is_taken(program, condition, values, side):
                    found.append((", ".join(f"{name}={value}" for name, value in values.items()), values))
                    break
    return found


def _is_taken(program: Program, condition: Expr, values: dict[str, Any], side: bool) -> bool:
    """Whether a case with these arguments takes this side of a condition: in one of its steps, for inputs are given to some."""
    names = by_part(program, values)
    every = dict.fromkeys(each.name for each in program.inputs)
    return any(bool(evaluate_condition(condition, known)) == side for known in (names, {**names, **every}))


def _assignments(program: Program, names: set[str]) -> Iterator[dict[str, Any]]:
    """Arguments that set the hyperparameters of a condition to the usual values."""
    hypers = [hyper for hyper in program.hypers if hyper.name in names or names & set(hyper.names)]
    for values in product(*(list(_candidates(hyper)) for hyper in hypers)):
        yield {hyper.name: value for hyper, value in zip(hypers, values, strict=True)}


def _candidates(hyper: Hyper) -> Iterator[Any]:
    if isinstance(hyper.default, bool):
        yield from (True, False)
    elif hyper.choices:
        yield from hyper.choices
    else:
        numbers = [value for value in OTHERS if _allowed(hyper, value)]
        yield from product(numbers, repeat=len(hyper.names)) if hyper.names else numbers
