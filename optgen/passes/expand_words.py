"""Pass `expand-words`: the words of the spec language become arithmetic.

ema(x, y, beta)   ->  beta*x + (1 - beta)*y
clamp(x, lo, hi)  ->  min(max(x, lo), hi)
"""

from optgen.ir.nodes import Const, Expr, Op, Program
from optgen.passes.rewrite import bottom_up, map_values

__all__ = ["expand_words"]


def expand_words(program: Program) -> Program:
    """Replace every word by what it stands for."""
    return map_values(program, lambda value: bottom_up(value, _expand))


def _expand(value: Expr) -> Expr:
    match value:
        case Op(op="ema", args=(average, new, beta)):
            rest = Op("sub", (Const(1), beta))
            return Op("add", (Op("mul", (beta, average)), Op("mul", (rest, new))), value.span)
        case Op(op="clamp", args=(x, low, high)):
            return Op("min", (Op("max", (x, low)), high), value.span)
        case _:
            return value
