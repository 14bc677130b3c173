"""16-bit floats in Triton: what `low_precision.py` does in torch, bit for bit; its docstring says why."""

import triton
import triton.language as tl

from optgen.runtime.triton_ops import load_elements, random_elements, store_elements

__all__ = ["read_parameter", "stochastic_bfloat16", "stochastic_float16", "write_parameter"]


@triton.jit
def read_parameter(
    param, correction, start, offsets, valid, LOW_PRECISION: tl.constexpr, REAL: tl.constexpr, BULK: tl.constexpr
):
    """A parameter with its correction, if it has one."""
    p = load_elements(param + start, offsets, valid, REAL, BULK)
    if (LOW_PRECISION == "kahan") | (LOW_PRECISION == "correction8") | (LOW_PRECISION == "correction16"):
        lost = load_elements(correction + start, offsets, valid, REAL, BULK)
        if LOW_PRECISION == "correction8":
            lost = lost * (_half_ulp(p, param.dtype.element_ty) * (1 / 127))
        elif LOW_PRECISION == "correction16":
            lost = lost * (_half_ulp(p, param.dtype.element_ty) * (1 / 32767))
        p += lost
    return p


@triton.jit
def write_parameter(
    param,
    correction,
    p,
    words,
    start,
    offsets,
    valid,
    LOW_PRECISION: tl.constexpr,
    SALT: tl.constexpr,
    TILE: tl.constexpr,
    BULK: tl.constexpr,
):
    """Write `p`, rounded as LOW_PRECISION says with bits of `random_words`, and the new correction."""
    if (LOW_PRECISION == "stochastic") | (LOW_PRECISION == "kahan") | (LOW_PRECISION == "correction8"):
        bits = random_elements(words, SALT, TILE, BULK)
    if LOW_PRECISION == "stochastic":
        p = _stochastic(p, bits, param.dtype.element_ty)
    elif LOW_PRECISION != "nearest":
        exact = p
        p = _nearest(exact, param.dtype.element_ty)
        lost = exact - p
        lost = tl.where(tl.abs(lost) < float("inf"), lost, 0.0)
        if LOW_PRECISION == "kahan":
            lost = _stochastic(lost, _inner(bits), param.dtype.element_ty)
        elif LOW_PRECISION == "correction8":
            count = ((_fraction(lost, p, param.dtype.element_ty) * 8323072.0).to(tl.int32) + _inner(bits)) >> 16
            lost = tl.where(lost < 0.0, -count, count)
        else:
            count = ((_fraction(lost, p, param.dtype.element_ty) * 65534.0).to(tl.int32) + 1) >> 1
            lost = tl.where(lost < 0.0, -count, count)
        store_elements(correction + start, offsets, lost, valid, BULK)
    store_elements(param + start, offsets, p, valid, BULK)


@triton.jit
def _fraction(lost, p, DTYPE: tl.constexpr):
    """The magnitude of `lost` in half units in the last place of `p`, at most 1."""
    unit = _half_ulp(p, DTYPE)
    inverse = (0x7F000000 - unit.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)  # of a power of two, exactly
    return tl.minimum(tl.abs(lost) * inverse, 1.0)


@triton.jit
def _inner(bits):
    """Random bits kept away from either end, so that float32's own rounding errors stay without effect."""
    return tl.minimum(tl.maximum(bits, 1024), 64511)


@triton.jit
def _stochastic(x, bits, DTYPE: tl.constexpr):
    if DTYPE == tl.float16:
        rounded = stochastic_float16(x, bits)
    else:
        rounded = stochastic_bfloat16(x, bits)
    return rounded


@triton.jit
def stochastic_bfloat16(x, bits):
    """One of the two bfloat16 beside float32 `x`, the nearer with the higher probability."""
    rounded = ((x.to(tl.int32, bitcast=True) + bits) & -65536).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) < float("inf"), rounded, x)


@triton.jit
def stochastic_float16(x, bits):
    """One of the two float16 beside float32 `x`, the nearer with the higher probability."""
    size = tl.abs(x)
    normal = (size.to(tl.int32, bitcast=True) + (bits >> 3)) & -8192
    units = ((tl.minimum(size, 6.103515625e-05) * 1099511627776.0).to(tl.int32) + bits) >> 16
    small = (units.to(tl.float32) * 5.960464477539063e-08).to(tl.int32, bitcast=True)
    return _signed(tl.where(size < 6.103515625e-05, small, normal), x)


@triton.jit
def _nearest(x, DTYPE: tl.constexpr):
    """The nearest value of a 16-bit dtype, ties to even."""
    size = tl.abs(x)
    bits = size.to(tl.int32, bitcast=True)
    if DTYPE == tl.bfloat16:
        rounded = (bits + (((bits >> 16) & 1) + 32767)) & -65536
    else:
        normal = (bits + (((bits >> 13) & 1) + 4095)) & -8192
        small = ((size + 0.5) - 0.5).to(tl.int32, bitcast=True)
        rounded = tl.where(size < 6.103515625e-05, small, normal)
    return _signed(rounded, x)


@triton.jit
def _signed(bits, x):
    """The float32 of a bit pattern with the sign of `x`; `x` itself where it is not finite."""
    sign = x.to(tl.int32, bitcast=True) & -2147483648
    return tl.where(tl.abs(x) < float("inf"), (bits | sign).to(tl.float32, bitcast=True), x)


@triton.jit
def _half_ulp(x, DTYPE: tl.constexpr):
    """Half a unit in the last place that float32 `x` has in a 16-bit dtype; at least 2**-126."""
    exponent = tl.abs(x).to(tl.int32, bitcast=True) & 0x7F800000
    if DTYPE == tl.bfloat16:
        half = tl.maximum(exponent - 67108864, 8388608)
    else:
        half = tl.maximum(exponent - 92274688, 855638016)
    return half.to(tl.float32, bitcast=True)
