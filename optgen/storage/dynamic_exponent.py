"""Dynamic exponent: decades of ever more, ever finer levels (Dettmers, arXiv 1511.04561 and 2110.02861).

With n = 2**h + j, 0 <= j < 2**h, level n is 10**(h - top)*(0.1 + 0.9*(j + 1/2)/2**h): the middle of cell j of decade h.
Zero and one are appended. Signed codes count magnitudes from the code of zero upwards and downwards, so +1 is a level
and -1 is not. A tie goes to the larger magnitude.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Storage
from optgen.storage.codec import Codec
from optgen.storage.magnitudes import Numbers, magnitude_codec

__all__ = ["DynamicExponent"]

LEVELS = 16  # entries of a table of decades: as many as the largest vectors hold
BORDERS = 8  # as many as the smallest hold; the numbers of zero and of one share a place
EXPONENT_OF_1 = 127  # in the bits of a float32


class DynamicExponent:
    """The levels of bitsandbytes, torchao, LPMM and SOLO's first moment."""

    summary = "decades of ever finer levels, with zero"
    bits = (2, 3, 4, 8)
    options = ("published",)

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """Every option fits."""

    def levels(self, storage: Storage, unsigned: bool) -> list[float]:
        """All 2**bits levels, each the float64 nearest to its exact fraction."""
        shape = _shape(storage.bits, unsigned)
        positive = [float(shape.level(n)) for n in range(shape.zero, shape.one + 1)]
        return positive if unsigned else [-value for value in positive[-2:0:-1]] + positive

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """Few levels by tables; magnitudes of many from the bits of a float32, and back."""
        shape = _shape(storage.bits, unsigned)
        numbers = Numbers(shape.zero, shape.one)
        if not unsigned:
            numbers = Numbers(shape.zero, shape.one, signed=True, lowest=shape.one - 1, middle=shape.middle)
        random = storage.rounding == "stochastic"
        return magnitude_codec(
            _level(shape, is_product=not random),
            _nearest(shape),
            numbers,
            bits=storage.bits,
            random=random,
            bounded=True,
            published=storage.published,
            levels=self.levels(storage, unsigned),
            steps=[shape.border(n) for n in range(shape.zero + 1, shape.one + 1)],
        )


class _Shape:
    """Numbers of one member of the family."""

    def __init__(self, bits: int, unsigned: bool) -> None:
        self.unsigned = unsigned
        self.top = bits - 1 if unsigned else bits - 2  # the decade below 1
        self.first = 1 if unsigned else 0  # the lowest decade
        self.zero = 1 if unsigned else 0  # the magnitude of zero
        self.one = 2 ** (self.top + 1)  # the magnitude of one
        self.middle = 2 ** (bits - 1) - 1  # the code of zero, signed
        self.levels = {n: self._exactly(n) for n in range(self.zero, self.one + 1)}
        self.least = self.border(2**self.first) / 2  # a number that goes to zero, as all below do

    def level(self, n: int) -> Fraction:
        return self.levels[n]

    def _exactly(self, n: int) -> Fraction:
        if n in (self.zero, self.one):
            return Fraction(n == self.one)
        h = n.bit_length() - 1
        cell = Fraction(1, 10) + Fraction(9, 10) * Fraction(2 * (n - 2**h) + 1, 2 ** (h + 1))
        return cell * Fraction(1, 10 ** (self.top - h))

    def border(self, n: int) -> float:
        """The middle between level n - 1 and level n."""
        return float((self.level(n - 1) + self.level(n)) / 2)


@functools.cache
def _shape(bits: int, unsigned: bool) -> _Shape:
    """Made once: fractions are slow, and a codec is asked for whenever its arrays are read."""
    return _Shape(bits, unsigned)


def _level(shape: _Shape, *, is_product: bool) -> str:
    """Of decade h: (9*(2n + 1) - 8*2**(h + 1))/10 * 10**(h - top)/2**(h + 1), where the bracket is an exact number.

    The exponent of n, or of n + 1/2 where n may be 0, tells h. Zero and one count as decades of one level each. A product
    that must not be the last operation is chosen.
    """
    half = 0.5 if shape.zero == 0 else 0.0
    factor, shifts, powers = 18.0, [0.0] * LEVELS, [0.0] * LEVELS  # those of zero stay
    for h in range(shape.first, shape.top + 1):
        shifts[(EXPONENT_OF_1 + h) % LEVELS] = 9.0 - factor * half - 8 * 2.0 ** (h + 1)
        powers[(EXPONENT_OF_1 + h) % LEVELS] = float(Fraction(1, 10 ** (shape.top - h + 1))) / 2 ** (h + 1)
    one = factor * (shape.one + half)
    shifts[(EXPONENT_OF_1 + shape.top + 1) % LEVELS] = 2.0 ** math.ceil(math.log2(one)) - one
    powers[(EXPONENT_OF_1 + shape.top + 1) % LEVELS] = 2.0 ** -math.ceil(math.log2(one))
    value = f"(x*{factor} + shift)*power"
    return f"""
x = real(n){f" + {half}" if half else ""}
decade = shift_right(bits(x), 23)
shift = lookup(decade, {", ".join(map(repr, shifts))})
power = lookup(decade, {", ".join(map(repr, powers))})
value = {value if is_product else f"where(n == {shape.one}, 1.0, {value})"}
""".strip()


def _nearest(shape: _Shape) -> str:
    """Guess the decade from the exponent and correct it by one comparison; n then stands in the bits of `cell`, 1 <= cell < 2.

    Zero and one count as decades of one level each. They share a slope, which lifts the least number above 1/9. Decades are
    counted from a number that is not 0, as the guess comes; tables are turned by as much.
    """
    decades = range(shape.first - 1, shape.top + 2)  # from that of zero to that of one
    lowest = [shape.border(2**h) for h in decades[1:]]
    factor, first = _guess(shape.least, lowest)
    borders = _turned(lowest, first)
    inner = [float(Fraction(10) ** (shape.top - h) / Fraction(9, 10)) for h in decades[1:-1]]
    slopes = _turned([0.2 / shape.least, *inner], first)
    return f"""
size = max(y, {shape.least!r})
guess = mul_high16(shift_right(bits(size), 16), {factor})
decade = where(size >= lookup(guess, {borders}), guess + 1, guess)
cell = min(size*lookup(decade, {slopes}), 1.1111106) + 0.8888889
n = min(shift_right(bit_and(bits(cell), 0xffffff), {23 - decades[0] + first} - decade), {shape.one})
""".strip()


def _turned(numbers: Sequence[float], first: int) -> str:
    """The text of a table that has the numbers from place `first` on, modulo its length."""
    padded = [*numbers, *[numbers[-1]] * (BORDERS - len(numbers))]
    return ", ".join(repr(padded[(place - first) % BORDERS]) for place in range(BORDERS))


def _guess(least: float, borders: list[float]) -> tuple[int, int]:
    """What makes the decade, or the one below, of the upper half of a float32 between the least number and 1.

    Returns:
        The factor f and the first g of the guess upper*f/2**16 - g.
    """
    upper = np.arange(np.float32(least).view(np.int32) >> 16, (np.float32(1.0).view(np.int32) >> 16) + 1)
    lowest = np.searchsorted(borders, (upper << 16).astype(np.int32).view(np.float32), side="right")
    highest = np.searchsorted(borders, ((upper << 16) + 0xFFFF).astype(np.int32).view(np.float32), side="right")
    for factor in range(120, 190):
        guess = upper * factor >> 16
        guess -= guess[0]
        if np.all(guess <= lowest) and np.all(guess >= highest - 1):
            return factor, int(upper[0] * factor >> 16)
    raise AssertionError("no factor guesses every decade")
