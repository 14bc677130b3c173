"""Which functions of a plan its Triton kernels look up in tables, where each table lies, and the cells of step functions."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from optgen.ir.infer import walk
from optgen.ir.nodes import Call, Expr, Function, Kind, Steps, Values
from optgen.plan.nodes import RulePlan

__all__ = ["Cells", "Tables", "cells", "tables_of"]

MANTISSA = 23  # bits of a float32 behind the point
FINEST = 8  # bits of the mantissa that tell cells apart, at most
MOST_ENTRIES = 4096  # of a table: 16 KiB of shared memory
SLACK = 2  # floats by which a border may lie elsewhere than it is said to


@dataclass(frozen=True)
class Cells:
    """Numbers from `low` to 1, by bit pattern, that agree but for the lowest `shift` bits share one of `count` cells.

    `low` is a multiple of their whole width, which makes the lookup cheap.
    """

    shift: int
    low: int
    count: int  # a power of two, of either sign


@functools.cache
def cells(steps: Steps) -> Cells | None:
    """The fewest cells with at most one border each; None if they are too many, or a border is zero."""
    patterns = np.array([abs(border) for border in steps.borders], dtype=np.float32).view(np.int32).astype(np.int64)
    signs = np.array(steps.borders) < 0
    if not len(patterns) or patterns.min() <= SLACK:
        return None
    for shift in range(MANTISSA, MANTISSA - FINEST - 1, -1):
        first, last = (patterns - SLACK) >> shift, (patterns + SLACK) >> shift
        taken = [sorted(zip(first[signs == sign], last[signs == sign], strict=True)) for sign in (False, True)]
        if all(below[1] < above[0] for half in taken for below, above in pairwise(half)):
            lowest, one = int(first.min()), int(np.float32(1.0).view(np.int32)) >> shift
            count = 1 << (one ^ lowest).bit_length()  # the least stretch, aligned to its length, that has both
            entries = count * (1 + bool(signs.any()))
            low = one // count * count
            return Cells(shift, low << shift, count) if low > 0 and entries <= MOST_ENTRIES else None
    return None


@dataclass
class Tables:
    """The tables of a plan, each as text, and what its functions have to do with them.

    `functions` are those that the kernels call; `lookups` has the helper and its numbers that stand for a function's body,
    `users` are the functions that need the tables' address.
    """

    functions: list[Function] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    lookups: dict[str, tuple[str, tuple[object, ...]]] = field(default_factory=dict)
    users: set[str] = field(default_factory=set)

    def add(self, function: Function, start: int) -> int:
        """Look a function up from entry `start` on, if it can be; returns how many entries it takes."""
        if isinstance(function.table, Values):
            helper = "value_at" if function.result.kind == Kind.REAL else "integer_at"
            kind, count = "ValueTable", 1 << (function.table.count - 1).bit_length()
            numbers: tuple[object, ...] = (count,)
        elif isinstance(function.table, Steps) and (grid := cells(function.table)):
            signed = function.table.borders[0] < 0
            numbers = (grid.shift, f"{grid.low:#x}", grid.count, signed)
            kind, helper, count = "StepTable", "step_at", grid.count * (1 + signed)
        else:
            return 0
        arguments = (f"torch_backend.{function.name}", *map(str, numbers))
        self.texts.append(f"{kind}({', '.join(arguments)})")
        self.lookups[function.name] = (helper, (start, *numbers))
        self.users.add(function.name)
        return count


def tables_of(plan: RulePlan) -> Tables:
    """Tabulate what can be; a function that only a tabulated one calls is not needed any more."""
    every = {function.name: function for kernel in plan.kernels for function in kernel.functions}
    looked_up = {name for name, function in every.items() if _has_table(function)}
    called = {name for kernel in plan.kernels for sweep in kernel.sweeps for s in sweep.body for name in _calls(s.value)}
    found, start = Tables(), 0
    for function in reversed(every.values()):  # those that call stand behind those that are called
        if function.name in called and function.name not in looked_up:
            called |= {name for statement in function.body for name in _calls(statement.value)}
    for function in every.values():
        if function.name not in called:
            continue
        found.functions.append(function)
        start += found.add(function, start)
        if any(name in found.users for statement in function.body for name in _calls(statement.value)):
            found.users.add(function.name)
    return found


def _has_table(function: Function) -> bool:
    return isinstance(function.table, Values) or (isinstance(function.table, Steps) and cells(function.table) is not None)


def _calls(value: Expr) -> set[str]:
    return {node.function for node in walk(value) if isinstance(node, Call)}
