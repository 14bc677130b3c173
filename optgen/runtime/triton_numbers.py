"""Arithmetic that Triton lacks, on each element alone: tables, high words of products, minima and maxima that keep NaN."""

import triton
import triton.language as tl

__all__ = [
    "divide",
    "integer_at",
    "lookup_2",
    "lookup_4",
    "lookup_8",
    "lookup_16",
    "maximum",
    "minimum",
    "mul_high",
    "mul_high16",
    "share16",
    "sign",
    "step_at",
    "value_at",
]


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
def share16(x, y):
    """The product of an int32 number of 16 bits, unsigned, and one that is not negative, over 2**16, rounded down."""
    return mul_high(x << 16, y)


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


@triton.jit
def integer_at(table, index, COUNT: tl.constexpr):
    """The number at each index, int32, in a table of COUNT: `tables.py` makes them."""
    return _entry(table, index, COUNT)


@triton.jit
def value_at(table, index, COUNT: tl.constexpr):
    """The number at each index, float32, in a table of COUNT."""
    return _entry(table, index, COUNT).to(tl.float32, bitcast=True)


@triton.jit
def step_at(table, y, SHIFT: tl.constexpr, LOW: tl.constexpr, COUNT: tl.constexpr, SIGNED: tl.constexpr):
    """The integer that a step function has at each `y`, -1 <= y <= 1, or y <= 1 if it is not SIGNED: see `tables.py`.

    A scale that comes back from its reciprocal is 1 but for a rounding error, which the cell of 1 has room for. What is not
    SIGNED has one value for all that is negative, that of zero.
    """
    least = tl.full((1, 1), LOW, tl.int32).to(tl.float32, bitcast=True)
    if SIGNED:
        size = tl.maximum(tl.abs(y), least).to(tl.int32, bitcast=True)
        place = (size & ((COUNT << SHIFT) - 1)) ^ (y.to(tl.int32, bitcast=True) >> 31)
        step = (_entry(table, (place >> SHIFT) + COUNT, 2 * COUNT) + place) >> SHIFT
    else:
        size = tl.maximum(y, least).to(tl.int32, bitcast=True)
        step = (_entry(table, (size >> SHIFT) - (LOW >> SHIFT), COUNT) + size) >> SHIFT
    return step


@triton.jit
def _entry(table, index, COUNT: tl.constexpr):
    """The entry at each index of (blocks, BLOCK): from shared memory, where lanes may read at random."""
    entries = tl.load(table + tl.arange(0, COUNT))
    flat = tl.reshape(index, (index.shape[0] * index.shape[1],))
    return tl.reshape(tl.gather(entries, flat, 0), index.shape)


@triton.jit
def divide(x, y):
    """Divide by y >= 0, good to 5e-7, by the reciprocal square root: 3 instructions of a GPU where a division takes 8."""
    if y.dtype == tl.float64:
        quotient = x / y
    else:
        root = tl.rsqrt(y)
        quotient = x * root * root
    return quotient
