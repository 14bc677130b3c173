"""What the statements of a body wait for, and which of them some others need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from optgen.ir.infer import refs
from optgen.ir.nodes import VECTORS, Assign, Op, Program, Statement
from optgen.ir.ops import JOINT, OF_ALL_RULES
from optgen.plan.homes import is_reduction

__all__ = ["is_of_all", "joint_names", "levels_of", "phases_of", "sliced"]


def levels_of(body: Sequence[Statement], program: Program) -> list[int]:
    """For each statement how many reductions, one after the other, its value waits for.

    Reductions of several parameters are of one level where they can be, so that parameters wait once for one another.
    """
    phases = phases_of(body)
    least: dict[int, int] = {}  # the level of the reductions before which parameters have waited so often
    while True:
        levels = _levels(body, program, {i: least.get(phase, 0) for i, phase in phases.items()})
        found = {phase: max(levels[i] for i, other in phases.items() if other == phase) for phase in phases.values()}
        if found == least:
            return levels
        least = found


def phases_of(body: Sequence[Statement]) -> dict[int, int]:
    """For each reduction of several parameters, by place, how often these have waited for one another before: 0, 1, ... ."""
    waited: dict[str, int] = {}
    phases = {}
    for i, statement in enumerate(body):
        before = max((waited.get(name, 0) for name in refs(statement.value)), default=0)
        is_joint = isinstance(statement.value, Op) and statement.value.op in JOINT
        if is_joint:
            phases[i] = before
        if isinstance(statement, Assign):
            old = waited.get(statement.target, 0) if statement.guards else 0
            waited[statement.target] = max(before + is_joint, old)
    return phases


def is_of_all(statement: Statement) -> bool:
    """Whether a statement reduces over the parameters of all rules."""
    value = statement.value
    return isinstance(value, Op) and JOINT.get(value.op, "").startswith(OF_ALL_RULES)


def joint_names(body: Sequence[Statement]) -> dict[int, str]:
    """For each reduction of several parameters, by place, a name of its own: that of what it is assigned to, if it can be."""
    names: dict[int, str] = {}
    of_all = [i for i in phases_of(body) if is_of_all(body[i])]
    for i in phases_of(body):
        if i in of_all:  # rules call it by its place among such, which they have in common
            names[i] = f"{OF_ALL_RULES}{of_all.index(i) + 1}"
            continue
        target, number = getattr(body[i], "target", ""), 1
        name = target
        while name in names.values():
            number += 1
            name = f"{target}_{number}"
        names[i] = name
    return names


def _levels(body: Sequence[Statement], program: Program, least: Mapping[int, int]) -> list[int]:
    known: dict[str, int] = {}
    levels = []
    for i, statement in enumerate(body):
        level = max((known.get(name, 0) for name in refs(statement.value)), default=0)
        level = max(level, least.get(i, 0))
        if isinstance(statement, Assign):
            old = known.get(statement.target, 0)
            if statement.guards and program.symbols[statement.target].domain in VECTORS and not is_reduction(statement):
                level = max(level, old)  # one sweep has the value, old or new
            after = level + 1 if is_reduction(statement) else level
            known[statement.target] = max(after, old) if statement.guards else after
        levels.append(level)
    return levels


def sliced(body: Sequence[Statement], ends: Iterable[int], named: Collection[int] = ()) -> list[int]:
    """The places of the statements that those at the places `ends` need, and these.

    Of the ends in `named` the value of their target is wanted, which is an earlier one where their guards do not hold.
    """
    needed: set[str] = set()
    kept, wanted = [], set(ends)
    for place in reversed(range(len(body))):
        statement = body[place]
        if place not in wanted and not (isinstance(statement, Assign) and statement.target in needed):
            continue
        if isinstance(statement, Assign) and not statement.guards:
            needed.discard(statement.target)
        elif isinstance(statement, Assign) and place in named:
            needed.add(statement.target)
        needed |= set(refs(statement.value))
        kept.append(place)
    return kept[::-1]
