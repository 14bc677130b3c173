"""Evaluates expressions with numpy: values of an update rule in float64, those of codec functions in float32 and int32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from optgen.ir.nodes import Call, Const, Expr, Function, Op, Ref
from optgen.ir.ops import REDUCED

__all__ = ["call", "evaluate"]

Array = Any  # numpy array or scalar
Env = Mapping[str, Array]


def _sign(x: Array) -> Array:
    return np.where(np.isnan(x), x, np.sign(x))


def _mul_high(x: Array, y: Array) -> Array:
    wide = [np.asarray(v).astype(np.int64).astype(np.uint64) & np.uint64(0xFFFFFFFF) for v in (x, y)]
    return ((wide[0] * wide[1]) >> np.uint64(32)).astype(np.uint32).astype(np.int32)


def _block_select(x: Array, rank: Array, _bound: Array) -> Array:
    index = np.broadcast_to(np.asarray(rank, dtype=np.int64), (*x.shape[:-1], 1))
    return np.take_along_axis(np.sort(x, axis=-1), index, axis=-1)


def _block_low(x: Array, quantile: Array, bound: Array) -> Array:
    """Largest of all floats where no value is above zero."""
    count = np.sum(x > 0, axis=-1, keepdims=True, dtype=np.int32)
    rank = (np.maximum(count - 1, 0).astype(np.float32) * np.float32(quantile)).astype(np.int32)
    return _block_select(np.where(x > 0, x, np.finfo(np.float32).max), rank, bound)


def _over_65536(x: Array, y: Array) -> Array:
    """The product over 2**16, rounded down."""
    return np.asarray(np.asarray(x, np.int64) * y >> 16, np.int32)


def _where(condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y)


OPS: dict[str, Callable[..., Array]] = {
    "neg": np.negative,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "pow": np.power,
    "square": np.square,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "exp": np.exp,
    "log": np.log,
    "sign": _sign,
    "min": np.minimum,
    "max": np.maximum,
    "where": _where,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "spread": lambda x: x,
    "ema": lambda x, y, beta: beta * x + (1 - beta) * y,
    "clamp": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "bit_and": np.bitwise_and,
    "bit_or": np.bitwise_or,
    "bit_xor": np.bitwise_xor,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
    "mul_high": _mul_high,
    "mul_high16": _over_65536,
    "share16": _over_65536,
    "lookup": lambda x, *table: np.asarray(table, np.float32)[np.asarray(x) & (len(table) - 1)],
    "real": lambda x: np.asarray(x).astype(np.float32),
    "trunc": lambda x: np.asarray(x).astype(np.int32),
    "bits": lambda x: np.asarray(x, dtype=np.float32).view(np.int32),
    "from_bits": lambda x: np.asarray(x, dtype=np.int32).view(np.float32),
    "reciprocal": lambda x: np.float32(1) / x,
    "is_finite": np.isfinite,
    "block_max": lambda x: np.max(x, axis=-1, keepdims=True),
    "block_min": lambda x: np.min(x, axis=-1, keepdims=True),
    "row_max": lambda x: np.max(x, axis=(-2, -1), keepdims=True),
    "row_min": lambda x: np.min(x, axis=(-2, -1), keepdims=True),
    "tensor_max": lambda x: np.max(x, keepdims=True),
    "tensor_min": lambda x: np.min(x, keepdims=True),
    "block_count": lambda c: np.sum(c, axis=-1, keepdims=True, dtype=np.int32),
    "block_low": _block_low,
    "block_select": _block_select,
}


def _reduction(over: str, how: str) -> Callable[[Array], Array]:
    axes = {"rows": -2, "cols": -1, "matrix": (-2, -1)}.get(over)
    taken: dict[str, Callable[..., Array]] = {
        "sum": np.sum,
        "mean": np.mean,
        "max": np.max,
        "min": np.min,
        "l1": lambda x, **where: np.sum(np.abs(x), **where),
        "l2": lambda x, **where: np.sqrt(np.sum(np.square(x), **where)),
        "rms": lambda x, **where: np.sqrt(np.mean(np.square(x), **where)),
    }
    return lambda x: taken[how](x, axis=axes, keepdims=axes is not None)


OPS |= {op: _reduction(over, how) for op, (over, how) in REDUCED.items()}


def evaluate(value: Expr, env: Env, functions: Mapping[str, Function], real: type[np.floating[Any]]) -> Array:
    """The value of an expression; `real` is the type of its real constants."""
    match value:
        case Const(value=bool() | str() as plain):
            return plain
        case Const(value=int() as number):
            return number
        case Const(value=number):
            return real(number)
        case Ref(name=name):
            return env[name]
        case Call(function=name, args=args):
            return call(functions[name], [evaluate(arg, env, functions, real) for arg in args], functions)
        case Op(op=op, args=args):
            with np.errstate(all="ignore"):
                return OPS[op](*(evaluate(arg, env, functions, real) for arg in args))


def call(function: Function, args: list[Array], functions: Mapping[str, Function]) -> Array:
    """Run a codec function: float32 and int32 throughout."""
    env = {param.name: arg for param, arg in zip(function.params, args, strict=True)}
    for statement in function.body:
        env[statement.target] = _narrow(evaluate(statement.value, env, functions, np.float32))
    return env[function.result.name]


def _narrow(value: Array) -> Array:
    """Python's own integers reach numpy as int64; codec arithmetic has 32 bits."""
    array = np.asarray(value)
    return array.astype(np.int32) if array.dtype == np.int64 else array
