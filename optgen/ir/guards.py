"""What stands under flags: reads of inputs, each under its own, and all that a step may write of a state."""

from __future__ import annotations

from collections.abc import Iterator

from optgen.ir.infer import refs, walk
from optgen.ir.nodes import Assign, Expr, Guard, Op, Program, Ref, State

__all__ = ["asked", "asked_names", "unguarded", "written_under"]


def asked(condition: Expr) -> Iterator[Expr]:
    """The nodes of a condition whose values it depends on: `given(x)` asks for x to be there, not for its value."""
    stack = [condition]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Op) and node.op != "given":
            stack += node.args[::-1]


def asked_names(program: Program, flag: str) -> list[str]:
    """The names that a guard asks for: those of a flag's condition, or the local that is one."""
    return refs(program.flags[flag]) if flag in program.flags else [flag]


def unguarded(program: Program) -> Iterator[tuple[Assign, Ref]]:
    """Every read of an input that does not stand under its flag, with its statement."""
    flags = {each.name: each.flag for each in program.inputs}
    for statement in program.body:
        if flags and isinstance(statement, Assign):
            for node in walk(statement.value):
                if isinstance(node, Ref) and node.name in flags and flags[node.name] not in statement.guards:
                    yield statement, node


def written_under(program: Program, state: State) -> Guard | None:
    """The flag without which a step leaves a state as it is; None if it may always write it.

    That is the state's own condition, or the first flag that all its assignments stand under.
    """
    if state.when is not None:
        return state.when
    assigned = [s.guards for s in program.body if isinstance(s, Assign) and s.target == state.name]
    first = assigned[0] if assigned else ()
    return next((g for g in first if g.flag in program.flags and all(g in guards for guards in assigned)), None)
