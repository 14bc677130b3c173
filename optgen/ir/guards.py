"""Inputs, which a step may be given or not: every read of one stands under its flag, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

from optgen.ir.infer import walk
from optgen.ir.nodes import Assign, Expr, Op, Program, Ref

__all__ = ["asked", "unguarded"]


def asked(condition: Expr) -> Iterator[Expr]:
    """The nodes of a condition whose values it depends on: `given(x)` asks for x to be there, not for its value."""
    stack = [condition]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, Op) and node.op != "given":
            stack += node.args[::-1]


def unguarded(program: Program) -> Iterator[tuple[Assign, Ref]]:
    """Every read of an input that does not stand under its flag, with its statement."""
    flags = {each.name: each.flag for each in program.inputs}
    for statement in program.body:
        if flags and isinstance(statement, Assign):
            for node in walk(statement.value):
                if isinstance(node, Ref) and node.name in flags and flags[node.name] not in statement.guards:
                    yield statement, node
