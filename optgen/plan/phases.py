"""The body of a kernel -> what each phase computes of it, for backends that work on whole tensors.

    total = group_sum(g*g)        phase 1: total_whole = group_sum(g*g)
    p = p - lr*g/sqrt(total)  ->  phase 2: total = total_whole; p = p - lr*g/sqrt(total)

Between phases the parameters wait for one another. What a later phase needs again it computes again, and the last one stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optgen.ir.nodes import Assign, Expr, Op, Ref, Statement
from optgen.plan.levels import joint_names, phases_of, sliced
from optgen.plan.nodes import Kernel

__all__ = ["phase_bodies"]


def phase_bodies(kernel: Kernel) -> tuple[tuple[Statement, ...], ...]:
    """The statements of each phase; those of a kernel that waits for nothing are its body."""
    phases = phases_of(kernel.body)
    made = {r.joint.name: r.result for r in kernel.joint if r.joint is not None}
    results = {i: made[name] for i, name in joint_names(kernel.body).items()}
    bodies = []
    for phase in range(max(phases.values(), default=-1) + 1):
        seen = _seen(kernel, {i: results[i] for i, own in phases.items() if own < phase})
        ends = {i: Assign(results[i], _summed(seen[i].value), seen[i].guards) for i, own in phases.items() if own == phase}
        bodies.append(tuple(ends.get(i, seen[i]) for i in sliced(seen, ends)))
    return (*bodies, _seen(kernel, results))


def _summed(value: Expr) -> Expr:
    """What one parameter leaves of a reduction of several: for a mean its sum."""
    assert isinstance(value, Op)
    return replace(value, op=value.op.replace("_mean", "_sum"))


def _seen(kernel: Kernel, known: Mapping[int, str]) -> tuple[Statement, ...]:
    """The body with the reductions at these places read from where their results are."""
    return tuple(
        replace(statement, value=Op("load", (Ref(known[i]),))) if i in known else statement
        for i, statement in enumerate(kernel.body)
    )
