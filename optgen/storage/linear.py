"""Linear levels without zero: (k + 1)/2**bits unsigned, evenly from -1 to 1 signed.

v never becomes 0, so 1/sqrt(v) cannot explode; the price is v >= scale/2**bits (LPMM's "power-1", arXiv 2309.01507).
"""

from __future__ import annotations

from collections.abc import Mapping

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Storage
from optgen.storage.codec import BlockScalar, Codec, Formula
from optgen.storage.scales import absmax, inverse

__all__ = ["Linear"]


class Linear:
    """Equally spaced levels."""

    summary = "equally spaced levels without zero"

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """Every option fits."""

    def levels(self, storage: Storage, unsigned: bool) -> list[float]:
        """(k + 1)/2**bits, or (2k - n)/n with n = 2**bits - 1."""
        n = 2**storage.bits - 1
        return [(k + 1) / (n + 1) if unsigned else (2 * k - n) / n for k in range(n + 1)]

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """The position among the levels; to round stochastically, in units of 2**-16 with random bits added."""
        n = 2**storage.bits - 1
        random = storage.rounding == "stochastic"
        if unsigned:
            decode = f"value = real(code + 1)*{2.0**-storage.bits!r}*scale"
            level, step = "min(abs(x*inverse), 1.0)", float(n + 1)  # step*level is exact, so what follows may be fused
            nearest = f"code = min(trunc(max({level}*{step!r} - 0.5, 0.0)), {n})"
            position = f"position = max({level}*{step!r} - 1.0, 0.0)"
        else:
            decode = f"value = real(2*code - {n})*{1.0 / n!r}*scale"
            level, step = "max(min(x*inverse, 1.0), -1.0)", n / 2
            nearest = f"code = min(trunc(({level} + {1.0 + 1.0 / n!r})*{step!r}), {n})"
            position = f"position = ({level} + 1.0)*{step!r}"
        encode = f"{inverse(signed=False)}\n{nearest}"
        if random:
            # so that a level stays a level: with 8 bits its position is exact to 2 units only
            down = "u" if storage.bits < 8 else "min(max(u, 2), 65533)"
            code = f"code = min(shift_right(trunc(position*65536.0 + 0.5) + (65535 - {down}), 16), {n})"
            encode = f"{inverse(signed=False)}\n{position}\n{code}"
        formulas = (
            Formula("scale", ("x",), absmax(unsigned, storage.published), "The largest magnitude of each block."),
            Formula("decode", ("code", "scale"), decode, "The value of each code."),
            Formula("encode", ("x", "scale", "u") if random else ("x", "scale"), encode, "The code of each value."),
        )
        return Codec((BlockScalar("scale"),), formulas, random)
