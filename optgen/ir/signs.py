"""Which values are never negative, whatever the gradients: divisions and roots of these have shorter forms."""

from __future__ import annotations

from optgen.ir.nodes import Assign, Const, Expr, Hyper, Op, Program, Ref
from optgen.ir.ops import REDUCTIONS, SPREAD

__all__ = ["Signs"]

ALWAYS = frozenset({"abs", "square", "sqrt", "rsqrt", "exp"})  # if they are numbers at all
IF_ALL = frozenset({"add", "mul", "div", "min", *SPREAD.values(), "number", "real", *REDUCTIONS})


class Signs:
    """What is known of a program's values after every assignment, NaN apart.

    `nonnegative` are the names whose values are never negative, `shares` those whose values lie between 0 and 1. A name is
    taken for one until an assignment speaks against it: what a state becomes follows from what it was.
    """

    def __init__(self, program: Program) -> None:
        """Find the names of a program."""
        assigned = [statement for statement in (*program.host, *program.body) if isinstance(statement, Assign)]
        known = {state.name for state in program.states} | {"p", "g"}
        local = {statement.target for statement in assigned if statement.target not in known}
        bounded = [hyper for hyper in program.hypers if _is_at_least_0(hyper)]
        self.shares = _names([hyper for hyper in bounded if _is_at_most_1(hyper)]) | local
        self.nonnegative = {"t"} | _names(bounded) | local
        self.nonnegative |= {state.name for state in program.states if self.is_nonnegative(state.init)}
        while True:
            negative = {s.target for s in assigned if s.target in self.nonnegative and not self.is_nonnegative(s.value)}
            large = {s.target for s in assigned if s.target in self.shares and not self.is_share(s.value)}
            if not negative and not large:
                break
            self.nonnegative -= negative
            self.shares -= negative | large

    def is_nonnegative(self, value: Expr) -> bool:
        """Whether a value is never negative."""
        match value:
            case Const(value=number):
                return isinstance(number, int | float) and number >= 0
            case Ref(name=name):
                return name in self.nonnegative
            case Op(op="max", args=args):
                return any(map(self.is_nonnegative, args))
            case Op(op="where", args=(_, left, right)):
                return self.is_nonnegative(left) and self.is_nonnegative(right)
            case Op(op="pow", args=(base, _)):
                return self.is_nonnegative(base)
            case Op(op="sub", args=(Const(value=number), right)):
                return isinstance(number, int | float) and number >= 1 and self.is_share(right)
            case Op(op=op, args=args):
                return op in ALWAYS or (op in IF_ALL and all(map(self.is_nonnegative, args)))
        return False

    def is_share(self, value: Expr) -> bool:
        """Whether a value always lies between 0 and 1."""
        match value:
            case Const(value=number):
                return isinstance(number, int | float) and 0 <= number <= 1
            case Ref(name=name):
                return name in self.shares
            case Op(op="mul", args=args):
                return all(map(self.is_share, args))
            case Op(op="min", args=args):
                return any(map(self.is_share, args)) and all(map(self.is_nonnegative, args))
            case Op(op="where", args=(_, left, right)):
                return self.is_share(left) and self.is_share(right)
            case Op(op="pow", args=(base, exponent)):
                return self.is_share(base) and self.is_nonnegative(exponent)
            case Op(op="sub", args=(Const(value=1 | 1.0), right)):
                return self.is_share(right)
        return False


def _names(hypers: list[Hyper]) -> set[str]:
    return {name for hyper in hypers for name in (hyper.names or (hyper.name,))}


def _is_at_least_0(hyper: Hyper) -> bool:
    return any(bound is not None and bound >= 0 for bound in (hyper.min, hyper.above))


def _is_at_most_1(hyper: Hyper) -> bool:
    return any(bound is not None and bound <= 1 for bound in (hyper.max, hyper.below))
