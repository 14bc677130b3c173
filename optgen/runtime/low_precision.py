"""16-bit floats in torch: rounding in integer arithmetic, and corrections of what they cannot hold.

A step of lr = 1e-4 moves a bfloat16 weight of 1 by less than half a unit in its last place: rounded to the nearest, it
never moves. Stochastic rounding moves it on average: up with the probability of the distance. A correction is what
rounding took, kept beside the parameter: in its own dtype (Kahan summation), or as a fraction of half a unit in the last
place in 8 or 16 bits, so that both together hold 24 or 32 bits of float32 (FlashOptim, arXiv 2602.23349). A correction
of less than 24 bits in all is rounded stochastically in its turn, or many equal steps would add up its rounding errors.

Values are rounded as float32, to ones that the format holds exactly, and converted then: a compiler that elides a
conversion to 16 bits and back cannot lose the correction. NaN and infinities pass through.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from optgen.runtime.keys import Key
from optgen.runtime.torch_ops import random_elements

__all__ = [
    "CORRECTION",
    "NEAREST",
    "LowPrecision",
    "check_low_precision",
    "correction_dtype",
    "effective_mode",
    "is_random",
    "join",
    "read_parameter",
    "split",
    "stochastic_bfloat16",
    "stochastic_float16",
    "warn_of_nearest",
    "write_parameter",
]

LowPrecision = Literal["stochastic", "kahan", "correction8", "correction16", "nearest"]
CORRECTION = "correction"  # its key in the state dict
RANDOM = ("stochastic", "kahan", "correction8")
CORRECTED = ("kahan", "correction8", "correction16")  # with a number beside each parameter
NEAREST = 0x8000  # random bits that round to the nearest
DEAD = 1024  # of 65,536 random bits are kept away from either end: float32's own rounding errors stay without effect
NARROW = (torch.bfloat16, torch.float16)
EXPONENT = 0x7F800000
SIGN = -(2**31)
SMALLEST_FLOAT16 = 2.0**-14  # the smallest normal number; below it, float16 is a multiple of 2**-24


def check_low_precision(owner: str, value: object) -> None:
    """Refuse what is not a `LowPrecision`.

    Raises:
        ValueError: with the choices.
    """
    if value not in get_args(LowPrecision):
        choices = ", ".join(map(repr, get_args(LowPrecision)))
        raise ValueError(f"{owner}: low_precision must be one of {choices}, got {value!r}")


def warn_of_nearest(owner: str, dtypes: Iterable[torch.dtype], mode: str) -> None:
    """Say what rounding 16-bit parameters to the nearest loses."""
    narrow = sorted({str(dtype) for dtype in dtypes if dtype in NARROW})
    if mode == "nearest" and narrow:
        half = max(torch.finfo(dtype).eps for dtype in dtypes if dtype in NARROW) / 4
        warnings.warn(
            f"{owner}: low_precision='nearest' loses every change of a {' or '.join(narrow)} parameter below half a unit in "
            f"its last place ({half:.2g} to {2 * half:.2g} of its value), such as lr*weight_decay = 1e-4; 'stochastic', "
            "'kahan', 'correction8' and 'correction16' keep it",
            stacklevel=2,
        )


def effective_mode(dtype: torch.dtype, mode: str) -> str:
    """What `low_precision` means for parameters of this dtype: nothing but for those of 16 bits."""
    return mode if dtype in NARROW else "nearest"


def is_random(dtype: torch.dtype, mode: str) -> bool:
    """Whether writing parameters of this dtype takes random bits."""
    return effective_mode(dtype, mode) in RANDOM


def correction_dtype(dtype: torch.dtype, mode: str) -> torch.dtype | None:
    """The dtype of the corrections of parameters of this dtype; None if they have none."""
    kinds = {"kahan": dtype, "correction8": torch.int8, "correction16": torch.int16}
    return kinds.get(effective_mode(dtype, mode))


def read_parameter(param: Tensor, correction: Tensor, low_precision: str) -> Tensor:
    """A parameter with its correction, if it has one; in float32, or as it is."""
    return param if correction_dtype(param.dtype, low_precision) is None else join(param, correction)


def write_parameter(param: Tensor, correction: Tensor, p: Tensor, low_precision: str, key: Key, salt: int) -> None:
    """Write `p`, rounded as `low_precision` says, and the new correction."""
    bits = random_elements(key, param.shape, salt) if low_precision in RANDOM else NEAREST
    if low_precision == "stochastic":
        p = _stochastic(p, bits, param.dtype)
    elif correction_dtype(param.dtype, low_precision) is not None:
        p, lost = split(p, param.dtype, correction.dtype, bits)
        correction.copy_(lost)
    param.copy_(p)


def join(param: Tensor, correction: Tensor) -> Tensor:
    """Parameter and correction as one float32 tensor."""
    p = param.to(torch.float32)
    lost = correction.to(torch.float32)
    if correction.dtype in (torch.int8, torch.int16):
        lost = lost * (_half_ulp(p, param.dtype) * (1 / torch.iinfo(correction.dtype).max))
    return p + lost


def split(exact: Tensor, dtype: torch.dtype, correction: torch.dtype, bits: Tensor | int) -> tuple[Tensor, Tensor]:
    """A float32 tensor as a parameter of `dtype`, still in float32, and its correction of dtype `correction`.

    `bits` are 16 random ones for each element, or NEAREST.
    """
    p = _nearest(exact, dtype)
    lost = exact - p
    lost = torch.where(torch.isfinite(lost), lost, 0.0)
    if isinstance(bits, Tensor):
        bits = torch.clamp(bits, min=DEAD, max=0xFFFF - DEAD)
    if correction not in (torch.int8, torch.int16):
        return p, _stochastic(lost, bits, dtype).to(correction)
    inverse = (0x7F000000 - _half_ulp(p, dtype).view(torch.int32)).view(torch.float32)  # of a power of two, exactly
    fraction = torch.clamp(torch.abs(lost) * inverse, max=1.0)
    if correction == torch.int8:
        count = ((fraction * (127 * 65536.0)).to(torch.int32) + bits) >> 16
    else:
        count = ((fraction * (2 * 32767.0)).to(torch.int32) + 1) >> 1
    return p, torch.where(lost < 0.0, -count, count).to(correction)


def _stochastic(x: Tensor, bits: Tensor | int, dtype: torch.dtype) -> Tensor:
    return stochastic_float16(x, bits) if dtype == torch.float16 else stochastic_bfloat16(x, bits)


def stochastic_bfloat16(x: Tensor, bits: Tensor | int) -> Tensor:
    """One of the two bfloat16 beside float32 `x`, the nearer with the higher probability; `bits` are 16 random ones."""
    rounded = ((x.view(torch.int32) + bits) & -65536).view(torch.float32)
    return torch.where(torch.isfinite(x), rounded, x)


def stochastic_float16(x: Tensor, bits: Tensor | int) -> Tensor:
    """One of the two float16 beside float32 `x`, the nearer with the higher probability; `bits` are 16 random ones."""
    size = torch.abs(x)
    normal = (size.view(torch.int32) + (bits >> 3)) & -8192
    units = ((torch.clamp(size, max=SMALLEST_FLOAT16) * 2.0**40).to(torch.int32) + bits) >> 16
    small = (units.to(torch.float32) * 2.0**-24).view(torch.int32)
    return _signed(torch.where(size < SMALLEST_FLOAT16, small, normal), x)


def _nearest(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest value of a 16-bit dtype, ties to even."""
    size = torch.abs(x)
    bits = size.view(torch.int32)
    if dtype == torch.bfloat16:
        return _signed((bits + (((bits >> 16) & 1) + 32767)) & -65536, x)
    normal = (bits + (((bits >> 13) & 1) + 4095)) & -8192
    small = ((size + 0.5) - 0.5).view(torch.int32)  # units of 0.5 are 2**-24
    return _signed(torch.where(size < SMALLEST_FLOAT16, small, normal), x)


def _signed(bits: Tensor, x: Tensor) -> Tensor:
    """The float32 of a bit pattern with the sign of `x`; `x` itself where it is not finite."""
    return torch.where(torch.isfinite(x), (bits | (x.view(torch.int32) & SIGN)).view(torch.float32), x)


def _half_ulp(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Half a unit in the last place that float32 `x` has in a 16-bit dtype; at least 2**-126."""
    bits, smallest = (8, 1) if dtype == torch.bfloat16 else (11, 127 - 25)
    exponent = torch.abs(x).view(torch.int32) & EXPONENT
    return torch.clamp(exponent - (bits << 23), min=smallest << 23).view(torch.float32)
