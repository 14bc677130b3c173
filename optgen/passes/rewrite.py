"""Helpers that passes share: rewriting every value, and splitting a value off into a named local."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from optgen.ir.infer import infer
from optgen.ir.names import name_for
from optgen.ir.nodes import Assign, Call, Expr, Guard, Op, Program, Ref, Role, Statement, Symbol

__all__ = ["Splitter", "bottom_up", "map_values"]


def bottom_up(value: Expr, rewrite: Callable[[Expr], Expr]) -> Expr:
    """Apply `rewrite` to every node, arguments first."""
    if isinstance(value, Op):
        value = Op(value.op, tuple(bottom_up(arg, rewrite) for arg in value.args), value.span)
    elif isinstance(value, Call):
        value = Call(value.function, tuple(bottom_up(arg, rewrite) for arg in value.args), value.span)
    return rewrite(value)


def map_values(program: Program, rewrite: Callable[[Expr], Expr]) -> Program:
    """Apply `rewrite` to the value of every statement, of every flag and of every initial value."""

    def mapped(statement: Statement) -> Statement:
        return replace(statement, value=rewrite(statement.value))

    states = tuple(replace(state, init=rewrite(state.init)) for state in program.states)
    return replace(program, body=tuple(map(mapped, program.body)), states=states)


class Splitter:
    """Collects statements and gives names to values that need one."""

    def __init__(self, program: Program) -> None:
        """Start with the symbols of `program` and no statements."""
        self.symbols = dict(program.symbols)
        self.taken = set(program.symbols) | set(program.flags)
        self.body: list[Statement] = []

    def split(self, value: Expr, guards: tuple[Guard, ...]) -> Ref:
        """Assign `value` to a new local under `guards` and return a reference to it."""
        name = name_for(value, self.taken)
        self.taken.add(name)
        self.symbols[name] = Symbol(name, Role.LOCAL, *infer(value, self.symbols))
        self.body.append(Assign(name, value, guards))
        return Ref(name)
