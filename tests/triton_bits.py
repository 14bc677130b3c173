"""Run by tests/test_random_bits.py in a process where Triton interprets: the random bits of kernels beside torch's."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from optgen.runtime import keys, torch_ops
from optgen.runtime.layout import row_shape
from optgen.runtime.triton_ops import random_bits, store_elements, tile_elements

BLOCK = 128
TILE = 1024
BLOCK_ = tl.constexpr(BLOCK)
TILE_ = tl.constexpr(TILE)


@triton.jit
def store_bits(out, words, tile, SALT: tl.constexpr, BULK: tl.constexpr):
    first, blocks, length = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    bits = random_bits(words, first, blocks, length, SALT, BLOCK_, BLOCK_, TILE_, BULK)
    start, offsets, valid = tile_elements(first, blocks, length, BLOCK_, TILE_, BULK)
    store_elements(out + start, offsets, tl.reshape(bits, (TILE_,)), valid, BULK)


def of_triton(words: torch.Tensor, shape: tuple[int, ...], salt: int) -> torch.Tensor:
    """The bits of all elements, as tiles of a kernel make them: those that are whole without masks."""
    leading, length = row_shape(shape, BLOCK)
    rows = torch.Size(leading).numel()
    blocks = rows * -(-length // BLOCK)
    out = torch.zeros(rows * length, dtype=torch.int32)
    for first in range(0, blocks, TILE // BLOCK):
        whole = length % BLOCK == 0 and first + TILE // BLOCK <= blocks
        store_bits[(1,)](out, words, torch.tensor([first, blocks, length]), salt, whole)
    return out


def main() -> None:
    compared = 0
    for shape in ((16, 128), (9, 128), (5, 300), (2, 3, 129)):
        for key, t, salt in ((0, 1, 0), (-1, 2, 1), (2**63 - 1, 100_000, 5)):
            words = keys.step_words(torch.tensor([key]), torch.tensor([float(t)], dtype=torch.float64))[0].contiguous()
            _, length = row_shape(shape, BLOCK)
            ours = torch_ops.random_bits(words, shape, BLOCK, salt)
            expected = ours.reshape(ours.shape[0], -1)[:, :length].reshape(-1)
            assert torch.equal(of_triton(words, shape, salt), expected), (shape, key, t, salt)
            compared += expected.numel()
    print(compared)


if __name__ == "__main__":
    main()
