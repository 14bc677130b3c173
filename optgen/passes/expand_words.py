"""Pass `expand-words`: the words of the spec language become arithmetic.

ema(x, y, beta)   ->  beta*x + (1 - beta)*y        (a beta that is an average itself gets a name first)
clamp(x, lo, hi)  ->  min(max(x, lo), hi)
l2(x)             ->  sqrt(sum(x**2))
"""

from dataclasses import replace

from optgen.ir.infer import walk
from optgen.ir.nodes import Assign, Const, Expr, Guard, Op, Program
from optgen.ir.ops import NORMS, REDUCED
from optgen.passes.rewrite import Splitter, bottom_up

__all__ = ["expand_words"]


def expand_words(program: Program) -> Program:
    """Replace every word by what it stands for."""
    splitter = Splitter(program)
    for statement in program.body:
        assert isinstance(statement, Assign)
        value = _names_for_rates(statement.value, splitter, statement.guards)
        splitter.body.append(replace(statement, value=bottom_up(value, _expand)))
    return replace(program, body=tuple(splitter.body), symbols=splitter.symbols)


def _names_for_rates(value: Expr, splitter: Splitter, guards: tuple[Guard, ...]) -> Expr:
    """Beta stands twice in the expansion: nested averages would double with each level."""
    if not isinstance(value, Op):
        return value
    args = tuple(_names_for_rates(arg, splitter, guards) for arg in value.args)
    if value.op == "ema" and any(isinstance(node, Op) and node.op == "ema" for node in walk(args[2])):
        args = (args[0], args[1], splitter.split(bottom_up(args[2], _expand), guards))
    return Op(value.op, args, value.span)


def _expand(value: Expr) -> Expr:
    match value:
        case Op(op="ema", args=(average, new, beta)):
            rest = Op("sub", (Const(1), beta))
            return Op("add", (Op("mul", (beta, average)), Op("mul", (rest, new))), value.span)
        case Op(op="clamp", args=(x, low, high)):
            return Op("min", (Op("max", (x, low)), high), value.span)
        case Op(op=op, args=(x,)) if REDUCED.get(op, ("", ""))[1] in NORMS:
            over, norm = REDUCED[op]
            if norm == "l1":
                return Op(f"{over}_sum", (Op("abs", (x,)),), value.span)
            squares = Op(f"{over}_sum" if norm == "l2" else f"{over}_mean", (Op("pow", (x, Const(2))),))
            return Op("sqrt", (squares,), value.span)
        case _:
            return value
