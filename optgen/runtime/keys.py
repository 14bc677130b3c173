"""Keys of stochastic rounding: one per parameter, drawn once and saved, mixed with the step each time."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from optgen.runtime.layout import WHOLE, Shard

__all__ = ["NO_WORDS", "Key", "draw_key", "step_words"]

NO_WORDS = torch.zeros(2, dtype=torch.int32, device="cpu")  # of a parameter that nothing random happens to


class Key(NamedTuple):
    """What the random bits of a parameter and step are a function of: int32 words of shape (2,), and its elements' places."""

    words: Tensor
    shard: Shard = WHOLE


def draw_key(seed: int, name: str) -> Tensor:
    """The key of a parameter, int64 of shape (): a hash of `seed` and of its name, or of its place where it has none."""
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return torch.tensor(int.from_bytes(digest, "little", signed=True), dtype=torch.int64, device="cpu")


def step_words(keys: Tensor, t: Tensor) -> Tensor:
    """The two int32 words that random bits start from, shape (n, 2), of int64 keys and steps of shape (n,).

    The mixer is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    x = keys + t.to(torch.int64) * -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    x = x ^ ((x >> 31) & 0x1FFFFFFFF)
    return torch.stack([x.to(torch.int32), (x >> 32).to(torch.int32)], dim=-1)
