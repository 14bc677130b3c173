"""What Triton kernels call that know rows and columns: tiles of a few rows, what is one of each row, column or matrix.

A tile is TILE // WIDTH rows, a strip, of WIDTH columns of one matrix; values per element are shaped (TILE,), row by row. A
pass over rows or columns sees these as the elements of one matrix, whose rows are the matrices. `at` says where a tile is:
its matrix, strip and first column. BULK says that all of its elements exist and that rows are whole tiles wide.
"""

import triton
import triton.language as tl

from optgen.runtime.triton_numbers import maximum, minimum
from optgen.runtime.triton_random import hashed

__all__ = [
    "column_values",
    "grid_parts",
    "grid_tile",
    "grid_words",
    "join_strips",
    "matrix_value",
    "row_values",
    "store_strips",
    "strip_max",
    "strip_min",
    "strip_sum",
]


@triton.jit
def grid_tile(number, rows, length, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """Where a tile is, the offset of its first element (int64), those of all from there (int32 (TILE,)), which exist.

    `number` counts the tiles of a parameter: of a strip from left to right, then strips, then matrices of `rows` rows.
    """
    height: tl.constexpr = TILE // WIDTH
    across, strips = ((length + WIDTH - 1) // WIDTH).to(tl.int32), ((rows + height - 1) // height).to(tl.int32)
    if BULK:  # a row is whole tiles: so the compiler sees where accesses are aligned
        length = across.to(tl.int64) * WIDTH
    counted = number.to(tl.int32)  # divisions of 64 bits call a function
    column, strip = (counted % across * WIDTH).to(tl.int64), (counted // across % strips).to(tl.int64)
    matrix = (counted // across // strips).to(tl.int64)
    start = (matrix * rows + strip * height) * length + column
    short = length.to(tl.int32)
    down, along = tl.arange(0, TILE) // WIDTH, tl.arange(0, TILE) % WIDTH
    valid = (strip * height + down < rows) & (column + along < length)
    return (matrix, strip, column), start, down * short + along, valid


@triton.jit
def row_values(start, at, rows, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """Of each element the value of its row."""
    height: tl.constexpr = TILE // WIDTH
    places = at[1] * height + tl.arange(0, height)
    pointers = start + at[0] * rows + places
    if BULK:
        values = tl.load(pointers)
    else:
        values = tl.load(pointers, mask=places < rows, other=0.0)
    return tl.reshape(tl.broadcast_to(values[:, None], (height, WIDTH)), (TILE,))


@triton.jit
def column_values(start, at, length, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """Of each element the value of its column."""
    if BULK:
        length = length // WIDTH * WIDTH  # as in `grid_tile`
    places = at[2] + tl.arange(0, WIDTH)
    pointers = start + at[0] * length + places
    if BULK:
        values = tl.load(pointers)
    else:
        values = tl.load(pointers, mask=places < length, other=0.0)
    return tl.reshape(tl.broadcast_to(values[None, :], (TILE // WIDTH, WIDTH)), (TILE,))


@triton.jit
def matrix_value(start, at, TILE: tl.constexpr):
    """Of each element the value of its matrix."""
    value = tl.load(start + at[0])
    return tl.full((TILE,), value, value.dtype)


@triton.jit
def grid_parts(to, parts, at, rows, length, CHUNK: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """Write the parts of a tile, one for each CHUNK of a row."""
    height: tl.constexpr = TILE // WIDTH
    each: tl.constexpr = WIDTH // CHUNK
    per_row = (length + CHUNK - 1) // CHUNK
    down = at[1] * height + tl.arange(0, height * each) // each
    along = at[2] // CHUNK + tl.arange(0, height * each) % each
    places = to + (at[0] * rows + down) * per_row + along
    parts = tl.reshape(parts, (height * each,))
    if BULK:
        tl.store(places, parts)
    else:
        tl.store(places, parts, mask=(down < rows) & (along < per_row))


@triton.jit
def _strip(values, valid, empty, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    if not BULK:
        values = tl.where(valid, values, empty)
    return tl.reshape(values, (TILE // WIDTH, WIDTH))


@triton.jit
def strip_sum(values, valid, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """The sum of each column of a tile, (WIDTH,)."""
    return tl.sum(_strip(values, valid, 0.0, WIDTH, TILE, BULK), 0)


@triton.jit
def strip_max(values, valid, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """The largest of each column of a tile, NaN if one is NaN."""
    return tl.reduce(_strip(values, valid, float("-inf"), WIDTH, TILE, BULK), 0, maximum)


@triton.jit
def strip_min(values, valid, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """The smallest of each column of a tile, NaN if one is NaN."""
    return tl.reduce(_strip(values, valid, float("inf"), WIDTH, TILE, BULK), 0, minimum)


@triton.jit
def store_strips(to, parts, at, rows, length, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """Write what a strip leaves of each column."""
    height: tl.constexpr = TILE // WIDTH
    if BULK:
        length = length // WIDTH * WIDTH
    strips = (rows + height - 1) // height
    columns = at[2] + tl.arange(0, WIDTH)
    places = to + (at[0] * strips + at[1]) * length + columns
    if BULK:
        tl.store(places, parts)
    else:
        tl.store(places, parts, mask=columns < length)


@triton.jit
def grid_words(key, start, offsets, length, WIDTH: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """What random bits are made of, as `random_words` has it: of each four elements, which lie in one row, or of each."""
    if BULK:
        quads: tl.constexpr = TILE // 4
        down, along = tl.arange(0, quads) * 4 // WIDTH, tl.arange(0, quads) * 4 % WIDTH
        quad = ((tl.load(key + 1) + start) // 4 + (down * length + along) // 4).to(tl.uint32)
        words = (hashed(quad, key), quad)
    else:
        elements = start + offsets
        index = elements + tl.load(key + 1)
        words = (hashed((index >> 2).to(tl.uint32), key), (index & 3).to(tl.uint32))
    return words


@triton.jit
def join_strips(
    parameters,  # int64[n, 6]  of each: address of its first part, strips, address of its first result, matrices, elements, columns
    OP: tl.constexpr,  # "max", "min", "sum", or "mean": the sum over the number of elements
    REAL: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program for WIDTH columns of one matrix of each parameter. Sums are float64 until they are whole."""
    slot = parameters + tl.program_id(1) * 6
    strips, matrices, length = tl.load(slot + 1), tl.load(slot + 3), tl.load(slot + 5)
    across = (length + WIDTH - 1) // WIDTH
    matrix, column = tl.program_id(0) // across, tl.program_id(0) % across * WIDTH + tl.arange(0, WIDTH)
    if matrix < matrices:
        parts = tl.load(slot).to(tl.pointer_type(REAL)) + matrix * strips * length + column
        result = tl.load(slot + 2).to(tl.pointer_type(REAL)) + matrix * length + column
        exists = column < length
        joined = tl.load(parts, mask=exists, other=0.0)
        if OP != "max" and OP != "min":  # noqa: PLR1714 -- Triton has no sets
            joined = joined.to(tl.float64)
        for strip in range(1, strips):
            part = tl.load(parts + strip * length, mask=exists, other=0.0)
            if OP == "max":
                joined = maximum(joined, part)
            elif OP == "min":
                joined = minimum(joined, part)
            else:
                joined += part.to(tl.float64)
        if OP == "mean":
            joined = joined / tl.load(slot + 4).to(tl.float64)
        tl.store(result, joined.to(REAL), mask=exists)
