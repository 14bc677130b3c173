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
from optgen.storage.magnitudes import Numbers, bisection, magnitude_codec, with_signs

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
        """The border below magnitude n is the curve's inverse at (n - 1/2)/last: a ratio of integers, so one product decides."""
        last = _last(storage, unsigned)
        if unsigned:
            level = f"real(n*n)*{1.0 / last**2!r}"
            search = bisection(last + 1, "position >= real(odd*odd)", "odd = 2*next - 1")
            nearest = f"position = y*{4.0 * last**2!r}\n{search}"
        else:
            level = f"real(n)*reciprocal(real({2 * last} - n))"
            nearest = bisection(last + 1, f"y*real({4 * last} - odd) >= real(odd)", "odd = 2*next - 1")
        numbers = Numbers(0, last, not unsigned, middle=last)
        level = f"value = where(n == {last}, 1.0, {level})"
        return magnitude_codec(level, nearest, numbers, random=storage.rounding == "stochastic")


def _last(storage: Storage, unsigned: bool) -> int:
    return (1 << storage.bits) - 1 if unsigned else (1 << (storage.bits - 1)) - 1
