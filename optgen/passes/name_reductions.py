"""Pass `name-reductions`: every reduction of the rule gets a statement of its own, equal ones the same.

p = p - lr/sqrt(sum(u*u))*u   ->   sum_u_u = sum(u*u); p = p - lr/sqrt(sum_u_u)*u
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from optgen.ir.nodes import Assign, Expr, Guard, Op, Program, Ref
from optgen.ir.ops import REDUCTIONS
from optgen.passes.rewrite import Splitter
from optgen.passes.share_subexpressions import Key, is_within, key_of

__all__ = ["name_reductions"]


def name_reductions(program: Program) -> Program:
    """Give a name to every reduction that is a part of a value, or that is taken a second time."""
    namer = _Namer(program)
    for statement in program.body:
        assert isinstance(statement, Assign)
        namer.take(statement)
    return replace(program, body=tuple(namer.splitter.body), symbols=namer.splitter.symbols)


class _Namer:
    def __init__(self, program: Program) -> None:
        self.splitter = Splitter(program)
        self.versions: dict[str, int] = defaultdict(int)
        self.named: dict[Key, tuple[Ref, tuple[Guard, ...]]] = {}

    def take(self, statement: Assign) -> None:
        value = self.value(statement.value, statement.guards)
        self.splitter.body.append(replace(statement, value=value))
        self.versions[statement.target] += 1

    def value(self, value: Expr, guards: tuple[Guard, ...]) -> Expr:
        if not isinstance(value, Op):
            return value
        if value.op not in REDUCTIONS:
            return Op(value.op, tuple(self.value(arg, guards) for arg in value.args), value.span)
        key = key_of(value, self.versions)
        if key not in self.named or not is_within(guards, self.named[key][1]):
            named = Op(value.op, tuple(self.value(arg, guards) for arg in value.args), value.span)
            self.named[key] = self.splitter.split(named, guards), guards
        return self.named[key][0]
