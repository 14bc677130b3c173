"""Run by tests/test_random_bits.py in a process where Triton interprets: the random bits of kernels beside torch's."""

from __future__ import annotations

import itertools

import torch
import triton
import triton.language as tl

from optgen.runtime import keys, torch_ops
from optgen.runtime.layout import WHOLE, Shard, row_shape
from optgen.runtime.triton_ops import random_bits, random_words, store_elements, tile_elements

BLOCK = 128
TILE = 1024
BLOCK_ = tl.constexpr(BLOCK)
TILE_ = tl.constexpr(TILE)


@triton.jit
def store_bits(out, key, tile, SALT: tl.constexpr, BULK: tl.constexpr):
    first, blocks, length = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    start, offsets, valid = tile_elements(first, blocks, length, BLOCK_, TILE_, BULK)
    bits = random_bits(random_words(key, start, offsets, TILE_, BULK), SALT, BLOCK_, TILE_, BULK)
    store_elements(out + start, offsets, tl.reshape(bits, (TILE_,)), valid, BULK)


def of_triton(key: keys.Key, shape: tuple[int, ...], salt: int) -> torch.Tensor:
    """The bits of all elements, as tiles of a kernel make them: those that are whole without masks."""
    row = torch.cat([key.words.view(torch.int64), torch.tensor(key.shard)])
    leading, length = row_shape(shape, BLOCK)
    rows = torch.Size(leading).numel()
    blocks = rows * -(-length // BLOCK)
    out = torch.zeros(rows * length, dtype=torch.int32)
    for first in range(0, blocks, TILE // BLOCK):
        whole = length % BLOCK == 0 and first + TILE // BLOCK <= blocks and key.shard.is_regular
        store_bits[(1,)](out, row, torch.tensor([first, blocks, length]), salt, whole)
    return out


def main() -> None:
    compared = 0
    shards = (WHOLE, Shard(2**34 + 4096), Shard(37), Shard(600, 300, 900), Shard(0, 384, 128), Shard(258, 129, 387))
    for shape, shard in itertools.product(((16, 128), (9, 128), (5, 300), (2, 3, 129)), shards):
        if shard.gap and shard.run % row_shape(shape, BLOCK)[1]:  # a gap stands behind whole rows
            continue
        for number, t, salt in ((0, 1, 0), (-1, 2, 1), (2**63 - 1, 100_000, 5)):
            words = keys.step_words(torch.tensor([number]), torch.tensor([float(t)], dtype=torch.float64))[0].contiguous()
            key = keys.Key(words, shard)
            _, length = row_shape(shape, BLOCK)
            ours = torch_ops.random_bits(key, shape, BLOCK, salt)
            expected = ours.reshape(ours.shape[0], -1)[:, :length].reshape(-1)
            assert torch.equal(of_triton(key, shape, salt), expected), (shape, key, t, salt)
            compared += expected.numel()
    print(compared)


if __name__ == "__main__":
    main()
