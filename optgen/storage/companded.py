"""Companded integers: equally spaced after a curve that spreads small values (FlashOptim, arXiv 2602.23349).

Signed levels are equally spaced in 2y/(1 + |y|), unsigned ones in sqrt(y); 0 and the ends are levels. Rounding is done
there too: a value goes to the integer nearest to it on the curve, a tie to the larger magnitude. FlashOptim keeps its
scales as float16, which underflow; here they are float32.
"""

from __future__ import annotations

from collections.abc import Mapping

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Storage
from optgen.storage.codec import Codec
from optgen.storage.magnitudes import Numbers, magnitude_codec, with_signs

__all__ = ["Companded"]


class Companded:
    """Levels that lie closer together towards zero, which is one of them."""

    summary = "integers after a curve: 2y/(1 + |y|) signed, sqrt(y) unsigned"
    bits = (2, 3, 4, 8)
    options = ()

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """Every option fits."""

    def levels(self, storage: Storage, unsigned: bool) -> list[float]:
        """With u = n/last: u**2 unsigned, u/(2 - u) signed."""
        last = _last(storage, unsigned)
        if unsigned:
            return [(n / last) ** 2 for n in range(last + 1)]
        return with_signs([n / (2 * last - n) for n in range(last + 1)])

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """The border below magnitude n is the curve's inverse at (n - 1/2)/last: a ratio of integers, so one product decides.

        The curve itself guesses the magnitude, or one beside it where a machine rounds otherwise; two comparisons decide.
        """
        last = _last(storage, unsigned)
        if unsigned:
            level = f"real(n*n)*{1.0 / last**2!r}"
            nearest = f"position = y*{4.0 * last**2!r}\nguess = trunc(sqrt(position)*0.5 + 0.5)"
            reached = "position >= real(odd*odd)"
            steps = [((n - 0.5) / last) ** 2 for n in range(1, last + 1)]
        else:
            level = f"real(n)*reciprocal(real({2 * last} - n))"
            nearest = f"guess = trunc(y*{2.0 * last}/(1.0 + y) + 0.5)"
            reached = f"y*real({4 * last} - odd) >= real(odd)"
            steps = [(2 * n - 1) / (4 * last - 2 * n + 1) for n in range(1, last + 1)]
        nearest += f"""
odd = max(2*guess - 1, 0)
n = where({reached}, guess, guess - 1)
odd = 2*guess + 1
n = where({reached}, guess + 1, n)"""
        numbers = Numbers(0, last, not unsigned, middle=last)
        level = f"value = where(n == {last}, 1.0, {level})"
        random = storage.rounding == "stochastic"
        return magnitude_codec(level, nearest, numbers, bits=storage.bits, random=random, steps=steps)


def _last(storage: Storage, unsigned: bool) -> int:
    return (1 << storage.bits) - 1 if unsigned else (1 << (storage.bits - 1)) - 1
