"""Pass `name-vectors`: what is computed of rows, columns or matrices inside a larger value gets a statement of its own.

p = p - lr*g*rsqrt(r)*rsqrt(c)   ->   rsqrt_r = rsqrt(r); rsqrt_c = rsqrt(c); p = p - lr*g*rsqrt_r*rsqrt_c

So every statement has the values of one domain, and reads those of others by name: it can be computed in a pass over them.
"""

from __future__ import annotations

from dataclasses import replace

from optgen.ir.infer import infer
from optgen.ir.nodes import VECTORS, Assign, Const, Domain, Expr, Guard, Kind, Op, Program, Ref
from optgen.ir.ops import REDUCTIONS
from optgen.passes.rewrite import Splitter

__all__ = ["name_vectors"]


def name_vectors(program: Program) -> Program:
    """Give a name to every value of another domain of vectors than that of the statement that it is a part of."""
    namer = _Namer(program)
    for statement in program.body:
        assert isinstance(statement, Assign)
        domain = program.symbols[statement.target].domain
        value = namer.value(statement.value, domain, statement.guards)
        namer.splitter.body.append(replace(statement, value=value))
    return replace(program, body=tuple(namer.splitter.body), symbols=namer.splitter.symbols)


class _Namer:
    def __init__(self, program: Program) -> None:
        self.splitter = Splitter(program)

    def value(self, value: Expr, domain: Domain, guards: tuple[Guard, ...]) -> Expr:
        """`value` as a part of a statement of `domain`."""
        if not isinstance(value, Op):
            return value
        kind, own = infer(value, self.splitter.symbols)
        if value.op in REDUCTIONS:
            inner = infer(value.args[0], self.splitter.symbols)[1]
            return Op(value.op, (self.value(value.args[0], inner, guards),), value.span)
        if own not in VECTORS or own == domain:
            return Op(value.op, tuple(self.value(arg, domain, guards) for arg in value.args), value.span)
        if kind == Kind.BOOL:
            chosen = Op("where", (value, Const(1.0), Const(0.0)))
            return Op("ne", (self.value(chosen, domain, guards), Const(0.0)), value.span)
        return self.named(Op(value.op, tuple(self.value(arg, own, guards) for arg in value.args), value.span), guards)

    def named(self, value: Expr, guards: tuple[Guard, ...]) -> Ref:
        return self.splitter.split(value, guards)
