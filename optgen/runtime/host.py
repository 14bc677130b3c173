"""Functions of host scalars: of Python's floats in an eager step, of float64 tensors while torch.compile traces.

Of floats they take a fiftieth of the time. What floats refuse, such as 1 / 0 or a comparison of complex numbers, is for the
caller to compute again with tensors, which know infinities and have no complex numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["Scalar", "absolute", "exp", "invert", "log", "maximum", "minimum", "rsqrt", "sign", "sqrt", "where"]

Scalar = float | Tensor  # float64: one number, or one for each of several parameters


def sqrt(x: Any) -> Any:
    """The square root."""
    return torch.sqrt(x) if isinstance(x, Tensor) else math.sqrt(x)


def rsqrt(x: Any) -> Any:
    """One over the square root."""
    return 1 / sqrt(x)


def exp(x: Any) -> Any:
    """The exponential."""
    return torch.exp(x) if isinstance(x, Tensor) else math.exp(x)


def log(x: Any) -> Any:
    """The natural logarithm."""
    return torch.log(x) if isinstance(x, Tensor) else math.log(x)


def absolute(x: Any) -> Any:
    """The absolute value."""
    return torch.abs(x) if isinstance(x, Tensor) else math.fabs(x)


def sign(x: Any) -> Any:
    """1, 0 or -1; NaN stays NaN."""
    if isinstance(x, Tensor):
        return torch.where(x.isnan(), x, torch.sign(x))
    return 1.0 if x > 0 else -1.0 if x < 0 else x


def invert(condition: Any) -> Any:
    """Not."""
    return ~condition if isinstance(condition, Tensor) else not condition


def minimum(x: Any, y: Any) -> Any:
    """The smaller one; NaN if one is NaN."""
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return torch.minimum(_tensor(x), _tensor(y))
    return x if x < y or math.isnan(x) else y


def maximum(x: Any, y: Any) -> Any:
    """The larger one; NaN if one is NaN."""
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return torch.maximum(_tensor(x), _tensor(y))
    return x if x > y or math.isnan(x) else y


def where(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`."""
    if isinstance(condition, Tensor):
        return torch.where(condition, _tensor(x), _tensor(y))
    return x if condition else y


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64, device="cpu")
