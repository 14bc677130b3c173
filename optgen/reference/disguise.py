"""Parameters that a given rule takes: cases with names and tags, and with shapes that its condition asks for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, product

from optgen.reference.compare import Case
from optgen.runtime.rules import Parameter
from optgen.spec.model import Rule, Spec

__all__ = ["fitted"]

USUAL = ((33,), (16, 256), (5, 7), (4, 3, 5), (3, 2, 2, 3), ())
ROWS = 4  # of the matrices that a rule sees which cuts others
LARGEST = 2**20  # elements of a parameter that is tried


def fitted(case: Case, spec: Spec, rule: Rule) -> Case | None:
    """A case for one rule of a spec: those of its shapes that can be made to take it, or else others; None if none was found."""
    if not rule.name:
        return case
    if rule.spec.view:
        case = replace(case, hypers={**case.hypers, rule.spec.view: ROWS})
    found = [made for shape in case.shapes if (made := _disguised(spec, rule, shape)) is not None]
    if not found:
        shapes = (shape for shape in chain(USUAL, _asked_shapes(spec)) if math.prod(shape) <= LARGEST)
        found = [made for shape in shapes if (made := _disguised(spec, rule, shape)) is not None][:2]
    if not found:
        return None
    return replace(case, name=f"{rule.name}: {case.name}", shapes=tuple(tuple(p.shape) for p in found), given=tuple(found))


def _disguised(spec: Spec, rule: Rule, shape: tuple[int, ...]) -> Parameter | None:
    """A parameter of this shape with a name and tags such that the rule takes it."""
    conditions = [other.condition for other in spec.rules if other.condition is not None]
    patterns = dict.fromkeys(pattern for condition in conditions for pattern in condition.asked("named"))
    tags = dict.fromkeys(tag for condition in conditions for tag in condition.asked("tagged"))
    names: list[str | None] = ["parameter", *map(_example, patterns)] if patterns else [None]
    for name, chosen in product(names, [(), *((tag,) for tag in tags), tuple(tags)]):
        parameter = Parameter(name, shape, frozenset(chosen))
        is_cut = {
            "": True,
            "rows": len(shape) > 1 and shape[-2] % ROWS == 0,
            "cols": len(shape) > 0 and shape[-1] % ROWS == 0,
            "matrix": len(shape) > 1,
        }[rule.spec.cut]
        if is_cut and spec.rule_for(parameter) is rule:
            return parameter
    return None


def _example(pattern: str) -> str:
    """A name like the pattern, of those without brackets."""
    return pattern.replace("*", "x").replace("?", "x")


def _asked_shapes(spec: Spec) -> Iterator[tuple[int, ...]]:
    """Shapes whose sizes are about the numbers of the conditions."""
    numbers = {number for rule in spec.rules if rule.condition for number in rule.condition.numbers}
    for number in sorted(numbers):
        for size in (number, number + 1, number - 1, 2 * number):
            if 0 < size <= LARGEST:
                yield from (
                    (size,),
                    (1, size),
                    (size, 1),
                    (2, size),
                    (size, 2),
                    (size, size),
                    (size + 1, size),
                    (size, size + 1),
                )
    for number in sorted(numbers):
        if 0 <= number <= 8:
            yield from ((3,) * number, (3,) * (number + 1))
