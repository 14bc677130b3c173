"""Formulas for at most 16 levels: their values, and the borders between them, are looked up in tables of a few registers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

__all__ = ["LARGEST", "MOST_LEVELS", "borders", "decode", "search"]

MOST_LEVELS = 16
LARGEST = 3.4028234663852886e38  # the largest float32


def decode(levels: Sequence[float]) -> str:
    """Formula text for `value`, the level of `code`; `levels` are in the order of their codes."""
    return f"value = lookup(code, {_table(levels)})"


def borders(levels: Sequence[float]) -> list[float]:
    """The middles between neighbours; a value on one goes to the level of larger magnitude."""
    middles = np.array([(float(below) + float(above)) / 2 for below, above in pairwise(levels)], dtype=np.float32)
    return [float(np.nextafter(middle, np.float32(1))) if middle < 0 else float(middle) for middle in middles]


def search(borders: Sequence[float], name: str) -> str:
    """Formula text for `code`: how many of the ascending `borders` the value `name` reaches, by bisection."""
    bits = len(borders).bit_length()
    padded = [*borders, *[LARGEST] * (2**bits - 1 - len(borders))]
    lines = [f"code = where({name} >= {padded[2 ** (bits - 1) - 1]!r}, 1, 0)"]
    for i in reversed(range(bits - 1)):
        table = padded[2**i - 1 :: 2 ** (i + 1)]
        lines.append(f"code = 2*code + where({name} >= lookup(code, {_table(table)}), 1, 0)")
    return "\n".join(lines)


def _table(values: Sequence[float]) -> str:
    """As many as a power of two."""
    padded = [*values, *[values[-1]] * (2 ** (len(values) - 1).bit_length() - len(values))]
    return ", ".join(repr(float(value)) for value in padded)
