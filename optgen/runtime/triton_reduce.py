"""Reductions of more than a block: what a tile leaves of one, and how the parts become one number, in a fixed order."""

import triton
import triton.language as tl

from optgen.runtime.triton_numbers import maximum, minimum

__all__ = ["join_parts", "part_max", "part_min", "part_sum", "store_number", "store_parts"]


@triton.jit
def part_sum(values, valid, CHUNK: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """The sum of each CHUNK of a tile, (TILE // CHUNK, 1)."""
    return tl.sum(_chunks(values, valid, 0.0, CHUNK, TILE, BULK), 1, keep_dims=True)


@triton.jit
def part_max(values, valid, CHUNK: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """The largest of each CHUNK of a tile, NaN if one is NaN."""
    return tl.reduce(_chunks(values, valid, float("-inf"), CHUNK, TILE, BULK), 1, maximum, keep_dims=True)


@triton.jit
def part_min(values, valid, CHUNK: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """The smallest of each CHUNK of a tile, NaN if one is NaN."""
    return tl.reduce(_chunks(values, valid, float("inf"), CHUNK, TILE, BULK), 1, minimum, keep_dims=True)


@triton.jit
def store_parts(to, parts, start, valid, CHUNK: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """Write the parts of a tile that begins with element `start`; `valid` says which elements exist."""
    places = to + start // CHUNK + tl.arange(0, TILE // CHUNK)
    parts = tl.reshape(parts, (TILE // CHUNK,))
    if BULK:
        tl.store(places, parts)
    else:
        exist = tl.max(tl.reshape(valid.to(tl.int32), (TILE // CHUNK, CHUNK)), 1)
        tl.store(places, parts, mask=exist != 0)


@triton.jit
def store_number(to, number, start):
    """Write the one number of a parameter, from the tile that begins with its first element."""
    tl.store(to, number, mask=start == 0)


@triton.jit
def _chunks(values, valid, empty, CHUNK: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    if not BULK:
        values = tl.where(valid, values, empty)
    return tl.reshape(values, (TILE // CHUNK, CHUNK))


@triton.jit
def _unless_nan(number, values):
    return tl.where(tl.max((values != values).to(tl.int32), 0) != 0, float("nan"), number)  # noqa: PLR0124 -- NaN alone


@triton.jit
def join_parts(
    parameters,  # int64[n, 5]  of each: address of its first part, parts of a result, address of its first result, results, elements
    OP: tl.constexpr,  # "max", "min", "sum", or "mean": the sum over the number of elements
    REAL: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One program for each result of each parameter. Sums are float64 until they are whole."""
    place, slot = tl.program_id(0), parameters + tl.program_id(1) * 5
    count = tl.load(slot + 1)
    if place < tl.load(slot + 3):
        parts = tl.load(slot).to(tl.pointer_type(REAL)) + place * count
        result = tl.load(slot + 2).to(tl.pointer_type(REAL)) + place
        if OP == "max":
            joined = tl.full((CHUNK,), float("-inf"), REAL)
        elif OP == "min":
            joined = tl.full((CHUNK,), float("inf"), REAL)
        else:
            joined = tl.zeros((CHUNK,), tl.float64)
        empty = joined
        for start in range(0, count, CHUNK):
            places = start + tl.arange(0, CHUNK)
            part = tl.where(places < count, tl.load(parts + places, mask=places < count, other=0.0).to(empty.dtype), empty)
            if OP == "max":
                joined = maximum(joined, part)
            elif OP == "min":
                joined = minimum(joined, part)
            else:
                joined += part
        if OP == "max":
            whole = _unless_nan(tl.max(joined, 0), joined)
        elif OP == "min":
            whole = _unless_nan(tl.min(joined, 0), joined)
        elif OP == "sum":
            whole = tl.sum(joined, 0)
        else:
            whole = tl.sum(joined, 0) / tl.load(slot + 4).to(tl.float64)
        tl.store(result, whole.to(REAL))
