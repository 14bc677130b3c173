"""Arithmetic that Triton lacks, on each element alone: tables, high words of products, minima and maxima that keep NaN."""

import triton
import triton.language as tl

__all__ = ["lookup_2", "lookup_4", "lookup_8", "lookup_16", "maximum", "minimum", "mul_high", "mul_high16", "sign"]


@triton.jit
def mul_high(x, y):
    """The high 32 bits of the product of two int32 numbers taken as unsigned."""
    return tl.umulhi(x.to(tl.uint32, bitcast=True), (y + tl.zeros_like(x)).to(tl.uint32, bitcast=True)).to(
        tl.int32, bitcast=True
    )


@triton.jit
def lookup_2(index, a, b):
    """One of two constants: that at `index`, modulo 2."""
    return tl.where((index & 1) != 0, b, a)


@triton.jit
def lookup_4(index, a, b, c, d):
    """One of four constants: that at `index`, modulo 4."""
    return tl.where((index & 2) != 0, lookup_2(index, c, d), lookup_2(index, a, b))


@triton.jit
def lookup_8(index, a, b, c, d, e, f, g, h):
    """One of eight constants: that at `index`, modulo 8."""
    return tl.where((index & 4) != 0, lookup_4(index, e, f, g, h), lookup_4(index, a, b, c, d))


@triton.jit
def lookup_16(index, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p):  # noqa: E741
    """One of sixteen constants: that at `index`, modulo 16."""
    return tl.where((index & 8) != 0, lookup_8(index, i, j, k, l, m, n, o, p), lookup_8(index, a, b, c, d, e, f, g, h))


@triton.jit
def mul_high16(x, y):
    """The product of two int32 numbers of 16 bits, unsigned, over 2**16, rounded down."""
    product = x.to(tl.uint32, bitcast=True) * (y + tl.zeros_like(x)).to(tl.uint32, bitcast=True)
    return (product >> 16).to(tl.int32, bitcast=True)


@triton.jit
def minimum(x, y):
    """The smaller; NaN if one is NaN."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def maximum(x, y):
    """The larger; NaN if one is NaN."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def sign(x):
    """-1, 0 or 1; NaN stays NaN."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))
