"""Logarithmic levels with a base for each block: SOLO's codebook for v (arXiv 2505.00347, section 2.2 of its algorithm).

With n = 2**bits - 1, code k means scale*base**k, where base = (low/scale)**(1/n): code 0 is the block's largest value,
code n its `quantile`. Stochastic rounding is one in the exponent, as published: x goes to code k or more if
x <= scale*base**(k - u), u uniform in [0, 1). That is biased upwards in value; `unbiased` rounding goes to either
neighbouring level in proportion to the distances, as the authors' later package does.

Two things differ from the published code unless `published` is set. `low` is a quantile of the values above zero, and
one of them (the lower order statistic) rather than an interpolation; so a block that is mostly zero keeps its levels,
where the published one decodes every element to the block's largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Kind, Storage
from optgen.storage.codec import BlockScalar, Codec, Formula
from optgen.storage.fixed_point import EXP2_BEND, EXP2_FIXED, EXP2_ROUGH, LOG2_FIXED
from optgen.storage.scales import DRAW, absmax

__all__ = ["Log"]

DEFAULT_QUANTILE = 0.1


class Log:
    """Levels in geometric progression between a low quantile and the largest value of the block."""

    summary = "levels in geometric progression, with a base per block; unsigned, without zero"
    bits = (1, 2, 3, 4, 8)
    options = ("quantile", "published")

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """Log levels have no sign; the quantile is a fraction."""
        if not unsigned:
            note = "all levels are positive, so negative values could not be stored"
            found.add("storage-sign", "the log codebook needs an unsigned state", spans["codebook"], note=note,
                      help="add 'sign: unsigned' to the state, or use dynamic_exponent")  # fmt: skip
        if storage.scope != "block":
            of = "rank-1 scale" if storage.scope == "rank1" else f"whole {storage.scope}"
            message = f"log levels need a quantile of each block, which a {of} has not"
            found.add("bad-value", message, spans["block"], help="take a number of elements, 'block: 128'")
        if storage.quantile is not None and not 0 <= storage.quantile < 1:
            found.add("bad-value", "'quantile' is at least 0 and below 1", spans["quantile"], help="SOLO takes 0.1")

    def levels(self, storage: Storage, unsigned: bool) -> None:
        """The levels depend on the block."""

    def codec(self, storage: Storage, unsigned: bool) -> Codec:  # noqa: ARG002 -- part of the protocol
        """Levels by repeated multiplication; the code is found by bisection over its bits."""
        n = 2**storage.bits - 1
        random = storage.rounding != "nearest"
        quantile = DEFAULT_QUANTILE if storage.quantile is None else storage.quantile
        low = _published_low(quantile, storage.block) if storage.published else _low(quantile, storage.block)
        octaves = "max(log2_fixed(scale) - log2_fixed(low), 0)"
        steps = f"{low}\nsteps = " + (f"mul_high({octaves}, {2**32 // n + 1})" if n > 1 else octaves)
        base = "base = exp2_fixed(steps)"
        if storage.published:
            steps += "\nsteps = where(low > 0.0, steps, -1)"
            base = "base = where(steps < 0, 0.0, exp2_fixed(max(steps, 0)))"
        formulas = (
            LOG2_FIXED,
            EXP2_FIXED,
            EXP2_BEND,
            EXP2_ROUGH,
            Formula("scale", ("x",), absmax(True, storage.published), "The largest value of each block."),
            Formula("steps", ("x", "scale"), steps, "The distance between neighbouring levels, in units of 2**-22 octaves."),
            Formula("base", ("steps",), base, "The ratio of neighbouring levels."),
            Formula("decode", ("code", "scale", "base"), _decode(storage.bits), "The value of each code."),
            Formula("encode", _arguments(storage), _encode(storage), "The code of each value."),
        )
        scalars = (BlockScalar("scale"), BlockScalar("steps", saved=False, kind=Kind.INT), BlockScalar("base"))
        return Codec(scalars, formulas, random)


def _low(quantile: float, block: int) -> str:
    """The lower order statistic of the values above zero."""
    return f"low = min(block_low(x, {quantile!r}, {int(np.float32(block - 1) * np.float32(quantile))}), scale)"


def _published_low(quantile: float, block: int) -> str:
    """Linear interpolation between two order statistics of all values, as torch.quantile does it."""
    position = quantile * (block - 1)
    rank, fraction = int(position), position - int(position)
    after = min(rank + 1, block - 1)
    return f"""
low = block_select(x, {rank}, {rank})
above = block_select(x, {after}, {after})
low = low + min((above - low)*{fraction!r}, above)
""".strip()


def _powers(bits: int) -> tuple[list[str], list[str]]:
    """Formulas for base**2, base**4, ... and the names of base**2**i."""
    names = ["base", *(f"base{2**i}" for i in range(1, bits))]
    return [f"{square} = {name}*{name}" for name, square in pairwise(names)], names


def _decode(bits: int) -> str:
    lines, names = _powers(bits)
    value = "scale"
    for i in reversed(range(bits)):
        lines.append(f"value = where(bit_and(code, {2**i}) != 0, {value}*{names[i]}, {value})")
        value = "value"
    return "\n".join(lines)


def _arguments(storage: Storage) -> tuple[str, ...]:
    """What `encode` is a function of; rounding in value needs the distance of the levels for published behaviour alone."""
    steps = ("steps",) if storage.rounding != "unbiased" or storage.published else ()
    return ("x", "scale", *steps, "base", *(("u",) if storage.rounding != "nearest" else ()))


def _encode(storage: Storage) -> str:
    lines, names = _powers(storage.bits)
    unbiased = storage.rounding == "unbiased"
    lines += _shifted(storage)
    lines += _comparisons() if storage.bits == 2 and not unbiased else _bisection(names, keeps_level=unbiased)
    if unbiased:  # between this level and the next, in proportion to the distances
        lines.append("below = min(level*base, level)")
        lines.append(f"code = where(x - below > real({DRAW})*1.52587890625e-05*(level - below), code, code + 1)")
        lines.append(f"code = min(code, {2**storage.bits - 1})")
    if storage.published:
        lines.append("code = where(steps < 0, 0, code)")
    return "\n".join(lines)


def _comparisons() -> list[str]:
    """The code of 2 bits: the levels are three products of block scalars, so that elements are only compared."""
    return [
        "half = scale*base2",
        "upper = where(shifted <= scale*base, 1, 0)",
        "lower = where(shifted <= half*base, 3, 2)",
        "code = where(shifted <= half, lower, upper)",
    ]


def _bisection(names: list[str], *, keeps_level: bool) -> list[str]:
    """The code bit by bit, and its level: `names` are base**2**i."""
    lines, level = ["code = 0"], "scale"
    for i in reversed(range(len(names))):
        lines.append(f"lower = {level}*{names[i]}")
        if i or keeps_level:
            lines.append(f"level = where(shifted <= lower, lower, {level})")
        lines.append(f"code = where(shifted <= lower, code + {2**i}, code)")
        level = "level"
    return lines


def _shifted(storage: Storage) -> list[str]:
    """The value, moved by a power of two before it is rounded down: by half a level, or by chance."""
    if storage.rounding == "unbiased":
        return ["shifted = x"]
    octaves = "max(steps, 0)" if storage.published else "steps"
    if storage.rounding == "nearest":
        return [f"shifted = x*exp2_fixed(shift_right({octaves}, 1))"]
    return [f"twice = {octaves}*2", "shifted = x*exp2_rough(share16(u, twice))"]
