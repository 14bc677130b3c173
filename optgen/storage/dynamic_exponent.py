"""Dynamic exponent: decades of ever more, ever finer levels (Dettmers, arXiv 1511.04561 and 2110.02861).

With n = 2**h + j, 0 <= j < 2**h, level n is 10**(h - top)*(0.1 + 0.9*(j + 1/2)/2**h): the middle of cell j of decade h.
Zero and one are appended. Signed codes count magnitudes from the code of zero upwards and downwards, so +1 is a level
and -1 is not. A tie goes to the larger magnitude.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Storage
from optgen.storage.codec import Codec
from optgen.storage.magnitudes import Numbers, magnitude_codec

__all__ = ["DynamicExponent"]


class DynamicExponent:
    """The levels of bitsandbytes, torchao, LPMM and SOLO's first moment."""

    summary = "decades of ever finer levels, with zero"
    bits = (2, 3, 4, 8)
    options = ("published",)

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """Every option fits."""

    def levels(self, storage: Storage, unsigned: bool) -> list[float]:
        """All 2**bits levels, each the float64 nearest to its exact fraction."""
        shape = _Shape(storage.bits, unsigned)
        positive = [float(shape.level(n)) for n in range(shape.zero, shape.one + 1)]
        return positive if unsigned else [-value for value in positive[-2:0:-1]] + positive

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """Magnitudes by small integers and two products; the nearest by comparisons, one sum and one product."""
        shape = _Shape(storage.bits, unsigned)
        numbers = Numbers(shape.zero, shape.one)
        if not unsigned:
            numbers = Numbers(shape.zero, shape.one, signed=True, lowest=shape.one - 1, middle=shape.middle)
        random = storage.rounding == "stochastic"
        return magnitude_codec(_level(shape), _nearest(shape), numbers, random=random, published=storage.published)


class _Shape:
    """Numbers of one member of the family."""

    def __init__(self, bits: int, unsigned: bool) -> None:
        self.unsigned = unsigned
        self.top = bits - 1 if unsigned else bits - 2  # the decade below 1
        self.first = 1 if unsigned else 0  # the lowest decade
        self.zero = 1 if unsigned else 0  # the magnitude of zero
        self.one = 2 ** (self.top + 1)  # the magnitude of one
        self.middle = 2 ** (bits - 1) - 1  # the code of zero, signed

    def level(self, n: int) -> Fraction:
        if n in (self.zero, self.one):
            return Fraction(n == self.one)
        h = n.bit_length() - 1
        cell = Fraction(1, 10) + Fraction(9, 10) * Fraction(2 * (n - 2**h) + 1, 2 ** (h + 1))
        return cell * Fraction(1, 10 ** (self.top - h))

    def border(self, n: int) -> float:
        """The middle between level n - 1 and level n."""
        return float((self.level(n - 1) + self.level(n)) / 2)


def _level(shape: _Shape) -> str:
    """(18 n + 9 - 16*2**h) * 5**h * 10**-top / 20: small integers, then two products."""
    factors = [f"where(bit_and(h, {2**i}) != 0, {5.0**2**i!r}, 1.0)" for i in range(shape.top.bit_length())]
    return f"""
count = real(n)
pattern = bits(count)
power = from_bits(bit_and(pattern, 0x7f800000))
h = shift_right(pattern, 23) - 127
cells = count*18.0 - power*16.0 + 9.0
value = cells*{"*".join(["(" + "*".join(factors) + ")"] if factors else ["1.0"])}*{float(Fraction(1, 20 * 10**shape.top))!r}
value = where(n == {shape.one}, 1.0, value)
value = where(n == {shape.zero}, 0.0, value)
""".strip()


def _nearest(shape: _Shape) -> str:
    """Find the decade by comparisons, then the cell by one sum and one product."""
    lines = []
    for h in range(shape.first, shape.top + 1):
        width = Fraction(10) ** (h - shape.top)
        shift, slope = float(width * Fraction(8, 10)), float(2**h / (width * Fraction(9, 10)))
        if h == shape.first:
            lines += [f"shift = {shift!r}", f"slope = {slope!r}", f"low = {2**h}"]
        else:
            border = repr(shape.border(2**h))
            lines += [
                f"shift = where(y >= {border}, {shift!r}, shift)",
                f"slope = where(y >= {border}, {slope!r}, slope)",
                f"low = where(y >= {border}, {2**h}, low)",
            ]
    if shape.first > shape.top:
        lines.append("n = 0")
    lines += [
        "cell = max(min(trunc((y + shift)*slope), 2*low - 1), low)",
        f"cell = where(y >= {shape.border(shape.zero + 1)!r}, cell, {shape.zero})",
        f"cell = where(y >= {shape.border(shape.one)!r}, {shape.one}, cell)",
    ]
    return "\n".join(lines)
