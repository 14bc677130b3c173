"""What generated Triton kernels call: where a tile's values lie, packing, random bits, NaN-keeping minima and maxima.

A tile is TILE elements. A coded kernel counts in blocks of WIDE elements, the largest block of its states: tile values
per element are shaped (TILE,), values in blocks of BLOCK elements (TILE // BLOCK, BLOCK), block scalars (TILE // BLOCK, 1).
BULK says that the tile lies inside the parameter and its rows are whole blocks: all is contiguous and nothing has a mask.
"""

import triton
import triton.language as tl

from optgen.runtime.triton_numbers import (
    divide,
    integer_at,
    lookup_2,
    lookup_4,
    lookup_8,
    lookup_16,
    maximum,
    minimum,
    mul_high,
    mul_high16,
    share16,
    sign,
    step_at,
    value_at,
)
from optgen.runtime.triton_random import random_bits, random_elements, random_words
from optgen.runtime.triton_reduce import part_max, part_min, part_sum, store_number, store_parts
from optgen.runtime.triton_select import block_low, block_select

__all__ = [
    "block_count",
    "block_low",
    "block_select",
    "divide",
    "integer_at",
    "load_codes",
    "load_elements",
    "load_rows",
    "load_scalars",
    "load_whole",
    "lookup_2",
    "lookup_4",
    "lookup_8",
    "lookup_16",
    "maximum",
    "minimum",
    "mul_high",
    "mul_high16",
    "part_max",
    "part_min",
    "part_sum",
    "pointer",
    "random_bits",
    "random_elements",
    "random_words",
    "share16",
    "sign",
    "step_at",
    "store_codes",
    "store_elements",
    "store_number",
    "store_parts",
    "store_rows",
    "store_scalars",
    "store_whole",
    "tile_elements",
    "to_blocks",
    "value_at",
]


@triton.jit
def pointer(slot, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The address in a slot of the tensor table as a pointer; ALIGNED promises a multiple of 16 bytes."""
    address = tl.load(slot).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    return address


@triton.jit
def _tile_rows(first, length, BLOCK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr):
    """Of each block of BLOCK in a tile: its row, counted from the tile's first row, and its place in the row; int32.

    Rows hold whole blocks of WIDE, the last one padded; the tile begins with the WIDE block `first` of the parameter.
    """
    per_row = ((length + WIDE - 1) // WIDE).to(tl.int32)
    start = (first % per_row).to(tl.int32)
    wide = start + tl.arange(0, TILE // BLOCK) // (WIDE // BLOCK)
    return wide // per_row, (wide % per_row) * (WIDE // BLOCK) + tl.arange(0, TILE // BLOCK) % (WIDE // BLOCK)


@triton.jit
def tile_elements(first, blocks, length, WIDE: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """Offset of a tile's first element (int64), offsets of all from there (int32 (TILE,)), and which of them exist.

    `first` is the tile's first block, `blocks` the number of blocks, `length` that of elements in a row.
    """
    if BULK:
        start = first * WIDE
        offsets = tl.arange(0, TILE)
        valid = tl.full((TILE,), True, tl.int1)
    else:
        per_row = (length + WIDE - 1) // WIDE
        skipped = (first % per_row) * WIDE
        start = (first // per_row) * length + skipped
        row, place = _tile_rows(first, length, WIDE, WIDE, TILE)
        column = place[:, None] * WIDE + tl.arange(0, WIDE)[None, :]
        offsets = tl.reshape(row[:, None] * length.to(tl.int32) + column - skipped.to(tl.int32), (TILE,))
        exists = (first + tl.arange(0, TILE // WIDE) < blocks)[:, None] & (column < length.to(tl.int32))
        valid = tl.reshape(exists, (TILE,))
    return start, offsets, valid


@triton.jit
def load_elements(start, offsets, valid, REAL: tl.constexpr, BULK: tl.constexpr):
    """Values per element in the dtype of the arithmetic."""
    if BULK:
        values = tl.load(start + offsets)
    else:
        values = tl.load(start + offsets, mask=valid, other=0.0)
    if values.dtype == tl.bfloat16:  # one instruction, where a conversion of half a register takes two
        values = (values.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return values.to(REAL)


@triton.jit
def store_elements(start, offsets, values, valid, BULK: tl.constexpr):
    """Write values per element, rounded to the buffer's dtype; float64 goes to 16 bits by way of float32, as in torch."""
    if (values.dtype == tl.float64) & (start.dtype.element_ty.primitive_bitwidth == 16):
        values = values.to(tl.float32)
    if BULK:
        tl.store(start + offsets, values.to(start.dtype.element_ty))
    else:
        tl.store(start + offsets, values.to(start.dtype.element_ty), mask=valid)


@triton.jit
def to_blocks(values, valid, BLOCK: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """Values per element arranged in blocks as float32, (TILE // BLOCK, BLOCK); zero where no element exists."""
    if not BULK:
        values = tl.where(valid, values, 0.0)
    return tl.reshape(values, (TILE // BLOCK, BLOCK)).to(tl.float32)


@triton.jit
def _scalar_places(
    first, blocks, length, BLOCK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr, GRID: tl.constexpr
):
    """Where a tile's block scalars begin (int64), their offsets from there (int32 (TILE // BLOCK,)), which exist.

    In a kernel that knows rows and columns (GRID) `first` is a tile's matrix, strip and column, `blocks` the rows of a matrix.
    """
    if GRID:
        per_row = (length + BLOCK - 1) // BLOCK
        down = tl.arange(0, TILE // BLOCK) // (WIDE // BLOCK)
        place = first[2] // BLOCK + tl.arange(0, TILE // BLOCK) % (WIDE // BLOCK)
        row = first[1] * (TILE // WIDE)
        start = (first[0] * blocks + row) * per_row
        offsets = down * per_row.to(tl.int32) + place.to(tl.int32)
        valid = (row + down < blocks) & (place < per_row)
    elif BULK:
        start = first * (WIDE // BLOCK)
        offsets = tl.arange(0, TILE // BLOCK)
        valid = tl.full((TILE // BLOCK,), True, tl.int1)
    else:
        wide_per_row = (length + WIDE - 1) // WIDE
        per_row = (length + BLOCK - 1) // BLOCK
        skipped = (first % wide_per_row) * (WIDE // BLOCK)
        start = (first // wide_per_row) * per_row + skipped
        row, place = _tile_rows(first, length, BLOCK, WIDE, TILE)
        offsets = row * per_row.to(tl.int32) + place - skipped.to(tl.int32)
        valid = (first + tl.arange(0, TILE // BLOCK) // (WIDE // BLOCK) < blocks) & (place < per_row.to(tl.int32))
    return start, offsets, valid


@triton.jit
def load_scalars(
    start,
    first,
    blocks,
    length,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    BULK: tl.constexpr,
    GRID: tl.constexpr = False,
):
    """Block scalars, float32 (TILE // BLOCK, 1)."""
    begin, places, valid = _scalar_places(first, blocks, length, BLOCK, WIDE, TILE, BULK, GRID)
    if BULK:
        values = tl.load(start + begin + places)
    else:
        values = tl.load(start + begin + places, mask=valid, other=0.0)
    return values[:, None]


@triton.jit
def store_scalars(
    start,
    values,
    first,
    blocks,
    length,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    BULK: tl.constexpr,
    GRID: tl.constexpr = False,
):
    """Write block scalars."""
    begin, places, valid = _scalar_places(first, blocks, length, BLOCK, WIDE, TILE, BULK, GRID)
    values = tl.reshape(values, (TILE // BLOCK,))
    if BULK:
        tl.store(start + begin + places, values)
    else:
        tl.store(start + begin + places, values, mask=valid)


@triton.jit
def load_rows(
    start,
    first,
    blocks,
    length,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    BULK: tl.constexpr,
    GRID: tl.constexpr = False,
):
    """Of each block the scalar of its row, float32 (TILE // BLOCK, 1)."""
    begin, places, valid, _ = _row_places(first, blocks, length, BLOCK, WIDE, TILE, GRID)
    if BULK:
        values = tl.load(start + begin + places)
    else:
        values = tl.load(start + begin + places, mask=valid, other=0.0)
    return values[:, None]


@triton.jit
def store_rows(
    start,
    values,
    first,
    blocks,
    length,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    GRID: tl.constexpr = False,
):
    """Write scalars of rows, each from the first block of its row."""
    begin, places, valid, column = _row_places(first, blocks, length, BLOCK, WIDE, TILE, GRID)
    tl.store(start + begin + places, tl.reshape(values, (TILE // BLOCK,)), mask=valid & (column == 0))


@triton.jit
def _row_places(first, blocks, length, BLOCK: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, GRID: tl.constexpr):
    """The row of a tile's first block (int64), that of each block from there (int32), which exist, and their places in it."""
    if GRID:
        row = tl.arange(0, TILE // BLOCK) // (WIDE // BLOCK)
        place = first[2] // BLOCK + tl.arange(0, TILE // BLOCK) % (WIDE // BLOCK)
        begin = first[0] * blocks + first[1] * (TILE // WIDE)
        exists = (first[1] * (TILE // WIDE) + row < blocks) & (place * BLOCK < length)
    else:
        row, place = _tile_rows(first, length, BLOCK, WIDE, TILE)
        begin = first // ((length + WIDE - 1) // WIDE)
        exists = first + tl.arange(0, TILE // BLOCK) // (WIDE // BLOCK) < blocks
    return begin, row, exists, place


@triton.jit
def load_whole(start):
    """The one scalar of a parameter, float32 (1, 1)."""
    return tl.load(start + tl.zeros((1, 1), tl.int32))


@triton.jit
def store_whole(start, values, first, GRID: tl.constexpr = False):
    """Write the one scalar of a parameter, (1, 1), from its first tile."""
    if GRID:
        number = first[0] + first[1] + first[2]
    else:
        number = first
    tl.store(start + tl.zeros((1, 1), tl.int32), values, mask=tl.full((1, 1), 0, tl.int64) + number == 0)


@triton.jit
def _units(
    first,
    blocks,
    length,
    UNITS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    BULK: tl.constexpr,
    GRID: tl.constexpr = False,
):
    """Where a tile's storage units begin, UNITS to a block, their offsets as (TILE // BLOCK * UNITS,), which exist."""
    count: tl.constexpr = TILE // BLOCK * UNITS
    begin, block, exists = _scalar_places(first, blocks, length, BLOCK, WIDE, TILE, BULK, GRID)
    if BULK and not GRID:
        places = tl.arange(0, count)
        valid = tl.full((count,), True, tl.int1)
    else:
        flat = tl.reshape(block[:, None] * UNITS + tl.arange(0, UNITS)[None, :], (count,))
        places = tl.max_contiguous(tl.multiple_of(flat, UNITS), UNITS)  # which the compiler forgets at a reshape
        valid = tl.reshape(tl.broadcast_to(exists[:, None], (TILE // BLOCK, UNITS)), (count,))
    return begin * UNITS, places, valid


@triton.jit
def load_codes(
    start,
    first,
    blocks,
    length,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    BULK: tl.constexpr,
    GRID: tl.constexpr = False,
):
    """Unpacked codes, int32 (TILE // BLOCK, BLOCK).

    Codes of 1, 2 and 4 bits are read as words of 32 bits, codes of 3 bits as groups of 3 bytes, codes of 8 bits as bytes.
    """
    if BITS == 8:
        begin, places, valid = _units(first, blocks, length, BLOCK, BLOCK, WIDE, TILE, BULK, GRID)
        codes = _load_unit(start + begin, places, valid, BULK)
    elif BITS == 3:
        begin, places, valid = _units(first, blocks, length, BLOCK // 8, BLOCK, WIDE, TILE, BULK, GRID)
        word = _load_unit(start + begin * 3, places * 3, valid, BULK)
        word = word | (_load_unit(start + begin * 3, places * 3 + 1, valid, BULK) << 8)
        word = word | (_load_unit(start + begin * 3, places * 3 + 2, valid, BULK) << 16)
        codes = (word[:, None] >> (3 * tl.arange(0, 8))[None, :]) & 7
    else:
        begin, places, valid = _units(first, blocks, length, BLOCK * BITS // 32, BLOCK, WIDE, TILE, BULK, GRID)
        word = _load_unit(start + begin, places, valid, BULK).to(tl.uint32, bitcast=True)
        shifts = (BITS * tl.arange(0, 32 // BITS)).to(tl.uint32)
        codes = ((word[:, None] >> shifts[None, :]) & (2**BITS - 1)).to(tl.int32)
    return tl.reshape(codes, (TILE // BLOCK, BLOCK))


@triton.jit
def _load_unit(start, places, valid, BULK: tl.constexpr):
    if BULK:
        units = tl.load(start + places)
    else:
        units = tl.load(start + places, mask=valid, other=0)
    return units.to(tl.int32)


@triton.jit
def store_codes(
    start,
    codes,
    first,
    blocks,
    length,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    BULK: tl.constexpr,
    GRID: tl.constexpr = False,
):
    """Pack and write codes; the inverse of `load_codes`."""
    if BITS == 8:
        begin, places, valid = _units(first, blocks, length, BLOCK, BLOCK, WIDE, TILE, BULK, GRID)
        _store_unit(start + begin, places, tl.reshape(codes, (TILE,)), valid, BULK)
    elif BITS == 3:
        begin, places, valid = _units(first, blocks, length, BLOCK // 8, BLOCK, WIDE, TILE, BULK, GRID)
        word = tl.sum(tl.reshape(codes, (TILE // 8, 8)) << (3 * tl.arange(0, 8))[None, :], 1)
        _store_unit(start + begin * 3, places * 3, word & 255, valid, BULK)
        _store_unit(start + begin * 3, places * 3 + 1, (word >> 8) & 255, valid, BULK)
        _store_unit(start + begin * 3, places * 3 + 2, (word >> 16) & 255, valid, BULK)
    else:
        begin, places, valid = _units(first, blocks, length, BLOCK * BITS // 32, BLOCK, WIDE, TILE, BULK, GRID)
        shifts = (BITS * tl.arange(0, 32 // BITS))[None, :]
        word = tl.sum(tl.reshape(codes, (TILE * BITS // 32, 32 // BITS)) << shifts, 1)
        _store_unit(start + begin, places, word, valid, BULK)


@triton.jit
def _store_unit(start, places, units, valid, BULK: tl.constexpr):
    if BULK:
        tl.store(start + places, units.to(start.dtype.element_ty))
    else:
        tl.store(start + places, units.to(start.dtype.element_ty), mask=valid)


@triton.jit
def block_count(condition):
    """How many elements of each block hold: int32 (blocks, 1)."""
    return tl.sum(condition.to(tl.int32), 1, keep_dims=True)
