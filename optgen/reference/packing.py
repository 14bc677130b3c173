"""Bits and random numbers once more, with numpy and from their definitions, as a check on the runtime's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from optgen.runtime.layout import Codes, row_shape

__all__ = ["from_blocks", "pack", "random_bits", "random_elements", "step_words", "to_blocks", "unpack"]

Array = np.ndarray[Any, Any]


def unpack(codes: Array, bits: int, block: int) -> Array:
    """(..., bytes per row) uint8 -> (rows, blocks per row, block) int32; code j stands in bits j*bits and up."""
    stream = np.unpackbits(codes.reshape(-1, codes.shape[-1]), axis=-1, bitorder="little")
    digits = stream.reshape(stream.shape[0], -1, bits).astype(np.int32)
    values: Array = (digits << np.arange(bits, dtype=np.int32)).sum(-1, dtype=np.int32)
    return values.reshape(stream.shape[0], -1, block)


def pack(codes: Array, bits: int) -> Array:
    """(rows, blocks per row, block) int32 -> (rows, bytes per row) uint8."""
    digits = (codes.reshape(codes.shape[0], -1, 1) >> np.arange(bits, dtype=np.int32)) & 1
    return np.packbits(digits.astype(np.uint8).reshape(codes.shape[0], -1), axis=-1, bitorder="little")


def to_blocks(x: Array, codes: Codes) -> Array:
    """What is coded -> float32 (rows, blocks per row, block), each row padded with zeros."""
    block, (_, length) = codes.block, row_shape(x.shape, codes.least_row)
    with np.errstate(over="ignore"):
        rows = x.reshape(-1, length).astype(np.float32)
    padded = np.pad(rows, ((0, 0), (0, -length % block)))
    return padded.reshape(rows.shape[0], -1, block)


def from_blocks(x: Array, shape: Sequence[int], codes: Codes) -> Array:
    """The inverse, as float64: what is coded, in its shape."""
    _, length = row_shape(shape, codes.least_row)
    return x.reshape(x.shape[0], -1)[:, :length].reshape(shape).astype(np.float64)


def step_words(key: int, t: int) -> tuple[int, int]:
    """The two 32-bit words of one key and step (SplitMix64's finalizer)."""
    mask = 2**64 - 1
    x = (key + t * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    x ^= x >> 31
    return x & 0xFFFFFFFF, x >> 32


def random_bits(words: tuple[int, int], shape: Sequence[int], codes: Codes, salt: int) -> Array:
    """16 bits for each element of (rows, blocks per row, block), from the element's index in the parameter."""
    block, (leading, length) = codes.block, row_shape(shape, codes.least_row)
    row = np.arange(math.prod(leading), dtype=np.uint64)[:, None]
    column = np.arange(-(-length // block) * block, dtype=np.uint64)
    index: Array = (row * np.uint64(length) + column).reshape(len(row), -1, block)
    return _bits(index, words, salt)


def random_elements(words: tuple[int, int], shape: Sequence[int], salt: int) -> Array:
    """The same bits in the shape of the parameter."""
    return _bits(np.arange(math.prod(shape), dtype=np.uint64), words, salt).reshape(tuple(shape))


def _bits(index: Array, words: tuple[int, int], salt: int) -> Array:
    hashed = _hash((index >> np.uint64(2)).astype(np.uint32), words)
    place = (index & np.uint64(3)).astype(np.int64)
    bits = np.zeros(index.shape, dtype=np.int32)
    for number in (0, 1):  # four elements take the halves of two words, the lower one first
        word = hashed * np.uint32(pow(0x2C9277B5, 2 * salt + number + 1, 2**32))
        word = word ^ (word >> np.uint32(16))
        bits = np.where(place == 2 * number, word & np.uint32(0xFFFF), bits)
        bits = np.where(place == 2 * number + 1, word >> np.uint32(16), bits)
    return bits.astype(np.int32)


def _hash(counter: Array, words: tuple[int, int]) -> Array:
    x = counter ^ np.uint32(words[0])
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = x ^ np.uint32(words[1])
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
