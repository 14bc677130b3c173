"""What generated torch code calls: blocks, packing, exact integer arithmetic and random bits, on any device.

Values in blocks are shaped (rows, blocks per row, block), block scalars (rows, blocks per row, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optgen.runtime.keys import Key
from optgen.runtime.layout import row_shape

__all__ = [
    "block_low",
    "block_scalars",
    "block_select",
    "choose_int",
    "choose_real",
    "from_blocks",
    "lookup",
    "mul_high",
    "mul_high16",
    "pack",
    "random_bits",
    "random_elements",
    "sign",
    "to_blocks",
    "unpack",
]


def to_blocks(x: Tensor, block: int, row: int = 0) -> Tensor:
    """Arrange the elements of `x` in blocks as float32, each row padded with zeros: (rows, blocks per row, block).

    A row has at least `row` elements, or one block if that is larger, if there are as many.
    """
    _, length = row_shape(x.shape, max(row, block))
    rows = x.float().reshape(-1, length)
    if length % block:
        rows = torch.nn.functional.pad(rows, (0, block - length % block))
    return rows.view(rows.shape[0], -1, block)


def from_blocks(x: Tensor, shape: Sequence[int], dtype: torch.dtype, row: int = 0) -> Tensor:
    """The inverse of `to_blocks`: the elements of a parameter of this shape, without the padding."""
    _, length = row_shape(shape, max(row, x.shape[-1]))
    if length % x.shape[-1]:
        # as_strided makes Inductor store x first. Reading x's block scalars at element // block in a loop over the
        # elements, its C++ code splits the loop by the block and leaves out the last, partial block (torch 2.13).
        padded = x.shape[1] * x.shape[2]
        x = x.contiguous().as_strided((x.shape[0], length), (padded, 1))
    return x.reshape(shape).to(dtype)


def block_scalars(x: Tensor) -> Tensor:
    """Block scalars as they are saved, (leading dimensions..., blocks per row), as (rows, blocks per row, 1)."""
    return x.reshape(-1, x.shape[-1], 1)


def unpack(codes: Tensor, bits: int, block: int) -> Tensor:
    """Unpack uint8 codes, (leading dimensions..., bytes per row), to int32 (rows, blocks per row, block).

    Code j of a row stands in bits j*bits ... of the row's bytes, taken as one little-endian number.
    """
    rows = codes.reshape(-1, codes.shape[-1]).to(torch.int32)
    if bits == 8:
        return rows.view(rows.shape[0], -1, block)
    count = 3 if bits == 3 else 1  # bytes that hold a whole number of codes
    groups = rows.view(rows.shape[0], -1, count)
    word = groups[..., 0]
    for i in range(1, count):
        word = word | (groups[..., i] << (8 * i))
    shifts = torch.arange(0, 8 * count, bits, dtype=torch.int32, device=codes.device)
    unpacked: Tensor = (word.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return unpacked.reshape(rows.shape[0], -1, block)


def pack(codes: Tensor, bits: int) -> Tensor:
    """The inverse of `unpack`: int32 (rows, blocks per row, block) to uint8 (rows, bytes per row)."""
    rows = codes.reshape(codes.shape[0], -1)
    if bits == 8:
        return rows.to(torch.uint8)
    count = 3 if bits == 3 else 1
    groups = rows.view(rows.shape[0], -1, 8 * count // bits)
    word = groups[..., 0]
    for i in range(1, groups.shape[-1]):
        word = word | (groups[..., i] << (i * bits))
    if count == 1:
        return word.to(torch.uint8)
    return torch.stack([(word >> (8 * i)) & 255 for i in range(count)], dim=-1).to(torch.uint8).reshape(rows.shape[0], -1)


def block_low(x: Tensor, quantile: float, bound: int) -> Tensor:
    """The lower `quantile` of each block's values above zero, (rows, blocks per row, 1); the largest float32 if there is none."""
    count = torch.sum(x > 0, dim=-1, keepdim=True, dtype=torch.int32)
    rank = (torch.clamp(count - 1, min=0).to(torch.float32) * quantile).to(torch.int32)
    return block_select(torch.where(x > 0, x, torch.finfo(torch.float32).max), rank, bound)


def block_select(x: Tensor, rank: Tensor | int, bound: int) -> Tensor:
    """The value of this rank, from 0 to `bound`, of each block: (rows, blocks per row, 1)."""
    if 4 * bound < x.shape[-1]:  # then a partial selection is several times as fast as sorting
        ascending = torch.topk(x, bound + 1, dim=-1, largest=False, sorted=True).values
    else:
        ascending = torch.sort(x, dim=-1).values
    if isinstance(rank, int):
        return ascending[..., rank : rank + 1]
    return torch.gather(ascending, -1, rank.to(torch.int64))


def mul_high(x: Tensor, y: Tensor | int) -> Tensor:
    """The high 32 bits of the product of two int32 numbers taken as unsigned."""
    wide = y.to(torch.int64) & 0xFFFFFFFF if isinstance(y, Tensor) else y
    return (((x.to(torch.int64) & 0xFFFFFFFF) * wide) >> 32).to(torch.int32)


def mul_high16(x: Tensor, y: Tensor | int) -> Tensor:
    """The product of two int32 numbers, at least one of 16 bits, unsigned, over 2**16, rounded down."""
    return ((x.to(torch.int64) * y) >> 16).to(torch.int32)


def lookup(index: Tensor, *table: float) -> Tensor:
    """The float32 number of `table` at each place, modulo its length, a power of two."""
    values = torch.tensor(table, dtype=torch.float32, device=index.device)
    return values[(index & (len(table) - 1)).to(torch.int64)]


def choose_real(condition: Tensor, x: float, y: float) -> Tensor:
    """X where the condition holds, else y, as float32 whatever torch's default dtype is."""
    yes = torch.full((), x, dtype=torch.float32, device=condition.device)
    return torch.where(condition, yes, y)


def choose_int(condition: Tensor, x: int, y: int) -> Tensor:
    """X where the condition holds, else y, as int32."""
    yes = torch.full((), x, dtype=torch.int32, device=condition.device)
    return torch.where(condition, yes, y)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1; NaN stays NaN (torch.sign makes it 0 on some devices)."""
    return torch.where(x.isnan(), x, torch.sign(x))


def random_bits(key: Key, shape: Sequence[int], block: int, salt: int, row: int = 0) -> Tensor:
    """16 random bits per element, in blocks: int32 (rows, blocks per row, block).

    A function of the two words of `key` (which hold the parameter's key and the step), of `salt` (which state) and of
    the element's index in the whole parameter. One hash of 32 bits serves four elements and all salts: see `_words`.
    """
    leading, length = row_shape(shape, max(row, block))
    rows = math.prod(leading)
    if length % block == 0 and key.shard.is_regular:
        return _of_fours(key, rows * length // 4, salt).view(rows, -1, block)
    padded = -(-length // block) * block
    starts = _places(key, torch.arange(rows, dtype=torch.int64, device=key.words.device) * length)
    columns = torch.arange(padded, dtype=torch.int64, device=key.words.device)
    return _of_places(key, starts.unsqueeze(-1) + columns, salt).view(rows, -1, block)


def random_elements(key: Key, shape: Sequence[int], salt: int) -> Tensor:
    """The bits of `random_bits` arranged as elements: int32 of this shape."""
    count = math.prod(shape)
    if key.shard.is_regular:
        bits = _of_fours(key, -(-count // 4), salt).flatten()[:count]
    else:
        bits = _of_places(key, _places(key, torch.arange(count, dtype=torch.int64, device=key.words.device)), salt)
    return bits.view(tuple(shape))


def _places(key: Key, elements: Tensor) -> Tensor:
    """The indices in the whole parameter of int64 indices in a shard."""
    start, run, gap = key.shard
    return elements + start if gap == 0 else elements + torch.div(elements, run, rounding_mode="floor") * gap + start


def _of_fours(key: Key, count: int, salt: int) -> Tensor:
    """The bits of `count` times four neighbouring elements, (count, 4)."""
    first = (key.shard.start // 4 + 2**31) % 2**32 - 2**31
    counters = torch.arange(count, dtype=torch.int32, device=key.words.device) + first
    halves = [half for word in _words(hash_bits(counters, key), salt) for half in (word, word >> 16)]
    return torch.stack(halves, dim=-1) & 0xFFFF


def _of_places(key: Key, index: Tensor, salt: int) -> Tensor:
    """The bits of the elements with these int64 indices in the whole parameter."""
    even, odd = _words(hash_bits((index >> 2).to(torch.int32), key), salt)
    word = torch.where((index & 2) == 0, even, odd)
    return torch.where((index & 1) == 0, word, word >> 16) & 0xFFFF


def _words(hashed: Tensor, salt: int) -> list[Tensor]:
    """The two words that salt number `salt` makes of a hash; four elements take their halves, the lower one first.

    Word n of all is the hash times the n-th power, n > 0, of a multiplier that makes good generators modulo 2**32
    (L'Ecuyer 1999), its lower half mixed with its upper one.
    """
    products = [hashed * signed_word(pow(0x2C9277B5, 2 * salt + number, 2**32)) for number in (1, 2)]
    return [product ^ ((product >> 16) & 0xFFFF) for product in products]


def hash_bits(counter: Tensor, key: Key) -> Tensor:
    """32 random bits for each int32 counter; the key goes in before and after the first round.

    The rounds are those of a well-tested 32-bit integer mixer (Ettinger's "lowbias32").
    """
    x = counter ^ key.words[0]
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = x ^ key.words[1]
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -2073254261
    return x ^ ((x >> 16) & 0xFFFF)


def signed_word(word: int) -> int:
    """A number of 32 bits as a signed integer."""
    return (word + 2**31) % 2**32 - 2**31
