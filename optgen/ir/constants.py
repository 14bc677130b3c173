"""Arithmetic on constants, in float64, without ever computing something huge."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

from optgen.ir.nodes import Const, Expr, Op, Program, Ref

__all__ = ["ConstantError", "by_part", "default_flags", "evaluate_condition", "fold", "fold_finite"]


class ConstantError(Exception):
    """A constant has no finite value: `node` is the operation, the message says why."""

    def __init__(self, node: Op, message: str) -> None:
        """Hold the operation that fails."""
        super().__init__(message)
        self.node = node


Number = float | bool
FOLD: dict[str, Callable[..., Number]] = {
    "neg": lambda x: -x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": math.pow,
    "square": lambda x: x * x,
    "abs": abs,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "exp": math.exp,
    "log": math.log,
    "sign": lambda x: math.copysign(1.0, x) if x else 0.0,
    "min": min,
    "max": max,
    "ema": lambda x, y, beta: beta * x + (1 - beta) * y,
    "clamp": lambda x, low, high: min(max(x, low), high),
    "real": lambda x: float(struct.unpack("f", struct.pack("f", x))[0]),
}


def fold(value: Expr) -> Expr:
    """Replace operations on constants by their value, as in `2*3 + x` -> `6 + x`.

    Raises:
        ConstantError: if such an operation has no finite value, as in `1/0`.
    """
    if not isinstance(value, Op):
        return value
    args = tuple(fold(arg) for arg in value.args)
    if value.op not in FOLD or not all(isinstance(arg, Const) for arg in args):
        return Op(value.op, args, value.span)
    numbers = [float(arg.value) for arg in args if isinstance(arg, Const) and not isinstance(arg.value, str)]
    try:
        result = float(FOLD[value.op](*numbers))
    except ZeroDivisionError:
        raise ConstantError(value, "this divides by zero") from None
    except (OverflowError, ValueError):
        raise ConstantError(value, "this constant has no finite value") from None
    if not math.isfinite(result):
        raise ConstantError(value, "this constant has no finite value")
    is_number = value.op == "neg" and isinstance(args[0], Const) and isinstance(args[0].value, float)  # as it was written
    is_whole = result == int(result) and abs(result) < 2**53 and not is_number
    return Const(int(result) if is_whole else result, value.span)


def fold_finite(value: Expr) -> Expr:
    """As `fold`, but an operation without a finite value stays: it is infinite at run time, too."""
    if not isinstance(value, Op):
        return value
    value = Op(value.op, tuple(fold_finite(arg) for arg in value.args), value.span)
    try:
        return fold(value) if all(isinstance(arg, Const) for arg in value.args) else value
    except ConstantError:
        return value


CONDITIONS: dict[str, Callable[..., object]] = {
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "and": lambda x, y: x and y,
    "or": lambda x, y: x or y,
    "not": lambda x: not x,
}


def evaluate_condition(value: Expr, names: Mapping[str, Any]) -> Any:
    """The value of a compile-time condition for these hyperparameters; an input is given if it is in `names`."""
    match value:
        case Const(value=constant):
            return constant
        case Ref(name=name):
            return names[name]
        case Op(op="given", args=(Ref(name=name),)):
            return name in names
        case Op(op=op, args=args):
            return {**FOLD, **CONDITIONS}[op](*(evaluate_condition(arg, names) for arg in args))
        case _:
            raise TypeError(f"{value} is not a condition")


def by_part(program: Program, values: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters, those not in `values` at their defaults, by the names that conditions use."""
    parts: dict[str, Any] = {}
    for hyper in program.hypers:
        value = values.get(hyper.name, hyper.default)
        parts |= dict(zip(hyper.names, value, strict=True)) if hyper.names else {hyper.name: value}
    return parts


def default_flags(program: Program) -> dict[str, bool]:
    """The compile-time flags when every hyperparameter has its default."""
    defaults = by_part(program, {})
    return {flag: bool(evaluate_condition(condition, defaults)) for flag, condition in program.flags.items()}
