"""Random bits in Triton: a hash of the key of a parameter and a step, and of an element's place in the whole parameter."""

import triton
import triton.language as tl

__all__ = ["hashed", "random_bits", "random_elements", "random_words"]


@triton.jit
def random_words(key, start, offsets, TILE: tl.constexpr, BULK: tl.constexpr):
    """What random bits are made of: of each four elements their hash, and of each element its place of four.

    `key` points to four int64: the words of this step as one number, then start, run and gap of the shard; the elements are
    those at `offsets` from `start`. In the bulk the tile lies at a multiple of 4, in the whole parameter too: there is one
    hash for four elements there, (TILE // 4,), with its number instead of places; elsewhere both are shaped (TILE,).
    """
    if BULK:
        quad = ((tl.load(key + 1) + start) // 4).to(tl.uint32) + tl.arange(0, TILE // 4).to(tl.uint32)
        words = (hashed(quad, key), quad)
    else:
        elements = start + offsets
        index = elements + tl.load(key + 1)
        if tl.load(key + 3) != 0:  # else nothing is divided
            index += elements // tl.load(key + 2) * tl.load(key + 3)
        words = (hashed((index >> 2).to(tl.uint32), key), (index & 3).to(tl.uint32))
    return words


@triton.jit
def random_elements(words, SALT: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """16 random bits per element, int32 (TILE,): each takes one half of a word, the lower one first."""
    even: tl.constexpr = 0x2C9277B5 ** (2 * SALT + 1) % 2**32
    odd: tl.constexpr = 0x2C9277B5 ** (2 * SALT + 2) % 2**32
    if BULK:
        both = tl.join(_word(words[0], even), _word(words[0], odd))
        bits = tl.reshape(both[:, :, None] >> (16 * tl.arange(0, 2)).to(tl.uint32)[None, None, :], (TILE,))
    else:
        multiplier = tl.where(words[1] < 2, tl.full((1,), even, tl.uint32), tl.full((1,), odd, tl.uint32))
        bits = _word(words[0], multiplier) >> (words[1] & 1) * 16
    return (bits & 65535).to(tl.int32)


@triton.jit
def random_bits(words, SALT: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, BULK: tl.constexpr):
    """The same bits in blocks, (TILE // BLOCK, BLOCK)."""
    return tl.reshape(random_elements(words, SALT, TILE, BULK), (TILE // BLOCK, BLOCK))


@triton.jit
def _word(hashed, power):
    """A word of a hash: its product with a power of a multiplier that makes good generators (L'Ecuyer 1999)."""
    word = hashed * power
    return word ^ (word >> 16)


@triton.jit
def hashed(counter, key):
    """32 random bits for each counter; the key goes in before and after the first round."""
    words = tl.load(key)
    x = counter ^ words.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = x ^ (words >> 32).to(tl.uint32)
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)
