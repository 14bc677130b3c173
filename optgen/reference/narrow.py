"""16-bit floats once more, with numpy and from their definitions: neighbours by spacing, not by bit patterns."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["join", "nearest", "resolution", "stochastic", "unit"]

Array = np.ndarray[Any, Any]
MANTISSA = {"bfloat16": 7, "float16": 10}  # bits behind the point
SMALLEST = {"bfloat16": -126, "float16": -14}  # exponent of the smallest normal number
LARGEST = {"bfloat16": (2 - 2.0**-7) * 2.0**127, "float16": 65504.0}
LEVELS = {"int8": 127, "int16": 32767}


def unit(x: Array, dtype: str) -> Array:
    """The distance of neighbouring numbers of a 16-bit dtype at x, in float64."""
    exponent = np.frexp(np.abs(x))[1] - 1
    exponent = np.where(x == 0, SMALLEST[dtype], np.maximum(exponent, SMALLEST[dtype]))
    spacing: Array = np.ldexp(1.0, exponent - MANTISSA[dtype])
    return spacing


def nearest(x: Array, dtype: str) -> Array:
    """The nearest number of a 16-bit dtype, ties to even, in float64."""
    spacing = unit(x, dtype)
    return _within(np.where(np.isfinite(x), np.rint(x / spacing) * spacing, x), dtype)


def stochastic(x: Array, bits: Array, dtype: str) -> Array:
    """The number next to x on the side away from zero if `bits`, 16 random ones, say so, else the one towards zero."""
    spacing = unit(x, dtype)
    below = np.floor(np.abs(x) / spacing)
    rest = np.floor((np.abs(x) / spacing - below) * 65536)
    away = rest + bits >= 65536
    return _within(np.where(np.isfinite(x), np.copysign((below + away) * spacing, x), x), dtype)


def _within(x: Array, dtype: str) -> Array:
    """Infinity where a 16-bit dtype has no number so large."""
    return np.where(np.abs(x) > LARGEST[dtype], np.copysign(np.inf, x), x)


def join(p: Array, correction: Array | None, dtype: str) -> Array:
    """A parameter with its correction, in float64."""
    exact = p.astype(np.float64)
    if correction is None:
        return exact
    if str(correction.dtype) in LEVELS:
        return exact + correction * _half_unit(p, dtype) / LEVELS[str(correction.dtype)]
    return exact + correction.astype(np.float64)


def resolution(p: Array, correction: Array, dtype: str) -> Array:
    """The largest error that a correction leaves: a level or a unit of its own dtype, half a level where it has 16 bits."""
    levels = LEVELS.get(str(correction.dtype))
    if levels is not None:
        return _half_unit(p, dtype) / (levels if levels == 127 else 2 * levels)
    return unit(_half_unit(p, dtype), dtype)


def _half_unit(p: Array, dtype: str) -> Array:
    """Half a unit in the last place; at least 2**-126, which float32 can invert."""
    return np.maximum(unit(p, dtype) / 2, 2.0**-126)
