"""Pass `expand-powers`: powers of values per element become products, roots or exponentials.

    x**2         ->  square(x)            (a x that is not a name gets one first)
    x**3         ->  square(x)*x
    x**0.5       ->  sqrt(x)
    x**-0.5      ->  rsqrt(x)
    x**-n        ->  1/x**n
    x**y         ->  exp(y*log(x))

Powers of host scalars stay: they are computed once a step in float64.
"""

from __future__ import annotations

from dataclasses import replace

from optgen.ir.constants import fold_finite
from optgen.ir.infer import infer
from optgen.ir.nodes import Assign, Const, Domain, Expr, Guard, Op, Program, Ref, Statement
from optgen.passes.rewrite import Splitter

__all__ = ["expand_powers"]

MAX_PRODUCT = 8


def expand_powers(program: Program) -> Program:
    """Expand every power per element."""
    splitter = Splitter(program)
    for statement in program.body:
        assert isinstance(statement, Assign)
        value = fold_finite(_expand(statement.value, splitter, statement.guards))  # x**0 is a constant
        splitter.body.append(replace(statement, value=value))
    body: tuple[Statement, ...] = tuple(splitter.body)
    return replace(program, body=body, symbols=splitter.symbols)


def _expand(value: Expr, splitter: Splitter, guards: tuple[Guard, ...]) -> Expr:
    if not isinstance(value, Op):
        return value
    args = tuple(_expand(arg, splitter, guards) for arg in value.args)
    value = Op(value.op, args, value.span)
    if value.op != "pow" or infer(value, splitter.symbols)[1] == Domain.HOST:
        return value
    base, exponent = args
    if isinstance(exponent, Const) and not isinstance(exponent.value, str):
        return _constant_power(base, float(exponent.value), splitter, guards)
    return Op("exp", (Op("mul", (exponent, Op("log", (base,)))),), value.span)


def _constant_power(base: Expr, exponent: float, splitter: Splitter, guards: tuple[Guard, ...]) -> Expr:
    if exponent == 0:
        return Const(1.0)
    if exponent == 0.5:
        return Op("sqrt", (base,))
    if exponent == -0.5:
        return Op("rsqrt", (base,))
    if exponent < 0:
        return Op("div", (Const(1.0), _constant_power(base, -exponent, splitter, guards)))
    if exponent == 1:
        return base
    if exponent == int(exponent) and exponent <= MAX_PRODUCT:
        factor = base if isinstance(base, Ref) else splitter.split(base, guards)
        product: Expr = Op("square", (factor,))
        for _ in range(int(exponent) - 2):
            product = Op("mul", (product, factor))
        return product
    return Op("exp", (Op("mul", (Const(exponent), Op("log", (base,)))),))
