"""Pass `name-reductions`: every reduction over all elements gets a statement of its own.

p = p - lr/sqrt(sum(u*u))*u   ->   sum_u_u = sum(u*u); p = p - lr/sqrt(sum_u_u)*u
"""

from __future__ import annotations

from dataclasses import replace

from optgen.ir.nodes import Assign, Expr, Guard, Op, Program
from optgen.ir.ops import REDUCTIONS
from optgen.passes.rewrite import Splitter

__all__ = ["name_reductions"]


def name_reductions(program: Program) -> Program:
    """Give a name to every reduction that is a part of a value."""
    splitter = Splitter(program)
    for statement in program.body:
        assert isinstance(statement, Assign)
        value = _named(statement.value, splitter, statement.guards, is_whole=True)
        splitter.body.append(replace(statement, value=value))
    return replace(program, body=tuple(splitter.body), symbols=splitter.symbols)


def _named(value: Expr, splitter: Splitter, guards: tuple[Guard, ...], *, is_whole: bool = False) -> Expr:
    if not isinstance(value, Op):
        return value
    value = Op(value.op, tuple(_named(arg, splitter, guards) for arg in value.args), value.span)
    return value if is_whole or value.op not in REDUCTIONS else splitter.split(value, guards)
