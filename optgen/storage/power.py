"""Powers of equally spaced numbers, with their sign: LPMM's "power-p" (arXiv 2309.01507).

Magnitude n is (q/d)**p. With zero, q = n and d = 2**bits - 1 (unsigned) or 2**(bits - 1) - 1 (signed). Without, q = n + 1
and d = 2**bits (unsigned) or q = 2n + 1 and d = 2**bits - 1 (signed), as published. A tie goes to the larger magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Storage
from optgen.storage.codec import Codec
from optgen.storage.magnitudes import Numbers, bisection, magnitude_codec, with_signs

__all__ = ["Power"]

DEFAULT_POWER = 2


class Power:
    """Levels that lie closer together towards zero."""

    summary = "squares or cubes of equally spaced numbers"
    bits = (2, 3, 4, 8)
    options = ("power", "zero")

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:  # noqa: ARG002 -- part of the protocol
        """Squares and cubes."""
        if storage.power not in (None, 2, 3):
            found.add("bad-value", f"'power' is 2 or 3, got {storage.power}", spans["power"], help="1 is 'codebook: linear'")

    def levels(self, storage: Storage, unsigned: bool) -> list[float]:
        """Integers and one division each."""
        shape = _Shape(storage, unsigned)
        values = [shape.level(n) for n in range(shape.count)]
        return values if unsigned else with_signs(values)

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """Small integers decide: q**p + (q - step)**p is twice the border below magnitude q, in units of d**-p."""
        shape = _Shape(storage, unsigned)
        numbers = Numbers(0, shape.count - 1, not unsigned, middle=shape.middle, smallest=shape.level(0))
        random = storage.rounding == "stochastic"
        levels = self.levels(storage, unsigned)
        magnitudes = [shape.level(n) for n in range(shape.count)]
        steps = [(below + above) / 2 for below, above in pairwise(magnitudes)]
        return magnitude_codec(
            _level(shape), _nearest(shape), numbers, bits=storage.bits, random=random, levels=levels, steps=steps
        )


class _Shape:
    """Numbers of one member of the family."""

    def __init__(self, storage: Storage, unsigned: bool) -> None:
        size = 2**storage.bits
        self.power = storage.power or DEFAULT_POWER
        self.step, self.first = (1, 0) if storage.zero else (1, 1) if unsigned else (2, 1)  # q = step*n + first
        self.unit = (size - 1 if unsigned else size // 2 - 1) if storage.zero else (size if unsigned else size - 1)
        self.count = size if unsigned else size // 2  # of magnitudes
        self.middle = size // 2 - 1 if storage.zero else size // 2

    def level(self, n: int) -> float:
        return float(((self.step * n + self.first) / self.unit) ** self.power)

    def formula(self, n: str) -> str:
        """The q of magnitude n."""
        return (n if self.step == 1 else f"{self.step}*{n}") + (f" + {self.first}" if self.first else "")


def _level(shape: _Shape) -> str:
    power = "*".join(["q"] * shape.power)
    largest = shape.count - 1
    return f"q = {shape.formula('n')}\nvalue = where(n == {largest}, 1.0, real({power})*{1.0 / shape.unit**shape.power!r})"


def _nearest(shape: _Shape) -> str:
    q, below = ["*".join([name] * shape.power) for name in ("q", "below")]
    lines = (f"q = {shape.formula('next')}", f"below = q - {shape.step}")
    search = bisection(shape.count, f"position >= real({q} + {below})", *lines)
    return f"position = y*{2.0 * shape.unit**shape.power!r}\n{search}"
