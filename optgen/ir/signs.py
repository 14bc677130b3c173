"""Which values are never negative, whatever the gradients: a division by one may be done by a reciprocal square root."""

from __future__ import annotations

from collections.abc import Set

from optgen.ir.nodes import Assign, Const, Expr, Hyper, Op, Program, Ref

__all__ = ["is_nonnegative", "nonnegative_names"]

ALWAYS = frozenset({"abs", "square", "sqrt", "rsqrt", "exp"})  # if they are numbers at all
IF_ALL = frozenset({"add", "mul", "div", "min", "spread", "real"})


def nonnegative_names(program: Program) -> frozenset[str]:
    """The names whose values are never negative, after every assignment; NaN apart.

    A name is taken for one until an assignment speaks against it: what a state becomes follows from what it was.
    """
    names = {"t"} | {name for hyper in program.hypers if _is_bounded(hyper) for name in (hyper.names or (hyper.name,))}
    names |= {state.name for state in program.states if is_nonnegative(state.init, names)}
    assigned = [statement for statement in (*program.host, *program.body) if isinstance(statement, Assign)]
    known = {state.name for state in program.states} | {"p", "g"}
    names |= {statement.target for statement in assigned if statement.target not in known}
    while wrong := {s.target for s in assigned if s.target in names and not is_nonnegative(s.value, names)}:
        names -= wrong
    return frozenset(names)


def is_nonnegative(value: Expr, names: Set[str]) -> bool:
    """Whether a value is never negative, if those of `names` never are."""
    match value:
        case Const(value=number):
            return isinstance(number, int | float) and number >= 0
        case Ref(name=name):
            return name in names
        case Op(op="max", args=args):
            return any(is_nonnegative(arg, names) for arg in args)
        case Op(op="where", args=(_, left, right)):
            return is_nonnegative(left, names) and is_nonnegative(right, names)
        case Op(op="pow", args=(base, _)):
            return is_nonnegative(base, names)
        case Op(op=op, args=args):
            return op in ALWAYS or (op in IF_ALL and all(is_nonnegative(arg, names) for arg in args))
    return False


def _is_bounded(hyper: Hyper) -> bool:
    return any(bound is not None and bound >= 0 for bound in (hyper.min, hyper.above))
