"""Floats of 8 bits on a scale per block: e4m3 (the largest is 448, no infinities) and e5m2 (57344), as torch has them.

The code is the float's bit pattern, of the value times the largest float, divided by the scale. Magnitude n is the float
with the pattern n. A tie goes to the even pattern, as a cast does. Patterns of infinity and NaN are never written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Storage
from optgen.storage.codec import Codec
from optgen.storage.magnitudes import Numbers, magnitude_codec, with_signs

__all__ = ["Float8"]


class Float8:
    """A sign, an exponent and a mantissa."""

    bits = (8,)
    options = ()

    def __init__(self, mantissa: int, bias: int, last: int, summary: str) -> None:
        """The floats of `mantissa` bits behind the point and this exponent bias; `last` is the largest one's pattern."""
        self.mantissa = mantissa
        self.bias = bias
        self.last = last
        self.summary = summary

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """Every option fits."""

    def value(self, n: int) -> float:
        """The float with the pattern n, without a sign."""
        exponent, fraction = n >> self.mantissa, n & ((1 << self.mantissa) - 1)
        if exponent == 0:
            return math.ldexp(fraction, 1 - self.bias - self.mantissa)
        return math.ldexp((1 << self.mantissa) + fraction, exponent - self.bias - self.mantissa)

    def levels(self, storage: Storage, unsigned: bool) -> list[float]:  # noqa: ARG002 -- part of the protocol
        """The finite ones, divided by the largest; 0 and -0 are one level."""
        values = [self.value(n) / self.value(self.last) for n in range(self.last + 1)]
        return values if unsigned else with_signs(values)

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """Bit patterns: the float's bits are float32's, shifted. Below the normal floats, its pattern is an integer."""
        numbers = Numbers(0, self.last, not unsigned, sign_bit=None if unsigned else 128)
        random = storage.rounding == "stochastic"
        return magnitude_codec(self._level(), self._nearest(), numbers, bits=storage.bits, random=random)

    def _level(self) -> str:
        shift, bias = 23 - self.mantissa, (127 - self.bias) << 23
        return f"""
small = real(n)*{self.value(1)!r}
size = where(n < {2**self.mantissa}, small, from_bits(shift_left(n, {shift}) + {bias}))
value = where(n == {self.last}, 1.0, size*{1 / self.value(self.last)!r})
""".strip()

    def _nearest(self) -> str:
        shift, bias = 23 - self.mantissa, (127 - self.bias) << self.mantissa
        return f"""
size = y*{self.value(self.last)!r}
pattern = bits(size)
odd = bit_and(shift_right(pattern, {shift}), 1)
small = bit_and(bits(size*{1 / self.value(1)!r} + 8388608.0), 255)
n = where(size < {self.value(2**self.mantissa)!r}, small, shift_right(pattern + {2 ** (shift - 1) - 1} + odd, {shift}) - {bias})
""".strip()
