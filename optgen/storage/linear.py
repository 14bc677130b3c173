"""Equally spaced levels: (k + 1)/2**bits unsigned, evenly from -1 to 1 signed; neither has a zero unless asked for.

Without zero v never becomes 0, so 1/sqrt(v) cannot explode; the price is v >= scale/2**bits (LPMM's "power-1", arXiv
2309.01507). With `zero: true` the levels are k/(2**bits - 1) unsigned and k/(2**(bits - 1) - 1) signed, as integer
quantization has them; of the signed codes the last stays unused.
"""

from __future__ import annotations

from collections.abc import Mapping

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Storage
from optgen.storage.codec import BlockScalar, Codec, Formula
from optgen.storage.magnitudes import DECODE, unscaled
from optgen.storage.scales import DRAW, absmax, inverse

__all__ = ["Linear"]


class Linear:
    """Equally spaced levels."""

    summary = "equally spaced levels, with zero or without"
    bits = (1, 2, 3, 4, 8)
    options = ("zero", "published")

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """A zero leaves a signed code of 1 bit nothing else."""
        if storage.zero and storage.bits == 1 and not unsigned:
            help_text = "take 2 bits, or leave out 'zero'"
            found.add("bad-value", "a signed code of 1 bit with zero has no other level", spans["zero"], help=help_text)

    def levels(self, storage: Storage, unsigned: bool) -> list[float]:
        """(step*code + first)/unit for every code."""
        step, first, unit, last = _numbers(storage, unsigned)
        return [(step * code + first) / unit for code in range(last + 1)]

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """The position among the levels; to round stochastically, in units of 2**-16 with random bits added."""
        step, first, unit, _ = _numbers(storage, unsigned)
        count = f"{step}*code" if step > 1 else "code"
        count += f" + {first}" if first > 0 else f" - {-first}" if first else ""
        value = f"value = real({count})*{1.0 / unit!r}"
        random = storage.rounding == "stochastic"
        level = "max(min(x*inverse, 1.0), -1.0)" if not unsigned else "min(abs(x*inverse), 1.0)"
        code = _stochastic(level, storage, unsigned) if random else _nearest(level, storage, unsigned)
        formulas = (
            Formula("scale", ("x",), absmax(unsigned, storage.published), "The largest magnitude of each block."),
            unscaled(value, 2**storage.bits),
            DECODE,
            Formula(
                "encode",
                ("x", "scale", "u") if random else ("x", "scale"),
                f"{inverse(signed=False)}\n{code}",
                "The code of each value.",
            ),
        )
        return Codec((BlockScalar("scale"),), formulas, random)


def _numbers(storage: Storage, unsigned: bool) -> tuple[int, int, int, int]:
    """Level k is (step*k + first)/unit, up to k = last."""
    size = 2**storage.bits
    if storage.zero:
        return (1, 0, size - 1, size - 1) if unsigned else (1, 1 - size // 2, size // 2 - 1, size - 2)
    return (1, 1, size, size - 1) if unsigned else (2, 1 - size, size - 1, size - 1)


def _nearest(level: str, storage: Storage, unsigned: bool) -> str:
    """A sum, then a product: only where that product is exact may it come first. The last level is half a step from the next."""
    step, first, unit, _ = _numbers(storage, unsigned)
    if unsigned and not storage.zero:
        return f"code = trunc({level}*{float(unit)!r} - 0.5)"
    return f"code = trunc(({level} + {(step / 2 - first) / unit!r})*{unit / step!r})"


def _stochastic(level: str, storage: Storage, unsigned: bool) -> str:
    """Down by `u` 65536ths; a level stays one, although with 8 bits its position is exact to 2 of them only."""
    step, _, unit, last = _numbers(storage, unsigned)
    if unsigned and not storage.zero:
        position = f"max({level}*{float(unit)!r} - 1.0, 0.0)"
    elif unsigned:
        position = f"{level}*{float(unit)!r}"
    else:
        position = f"({level} + 1.0)*{unit / step!r}"
    down = "u" if storage.bits < 8 else DRAW
    return f"position = {position}\ncode = min(shift_right(trunc(position*65536.0 + 0.5) + (65535 - {down}), 16), {last})"
