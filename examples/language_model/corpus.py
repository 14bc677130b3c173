"""The corpus that every machine with Python has: the source text of its standard library, as bytes."""

from __future__ import annotations

import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["Corpus", "read_corpus"]

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}


@dataclass(frozen=True)
class Corpus:
    """Tokens are bytes: uint8 (n,). Whole files belong to one of the two parts."""

    train: Tensor
    validation: Tensor

    def batches(self, *, size: int, length: int, seed: int, validation: bool = False) -> Iterator[Tensor]:
        """Endless batches of random windows, int64 (size, length + 1)."""
        tokens = self.validation if validation else self.train
        generator = torch.Generator().manual_seed(seed)
        window = torch.arange(length + 1)
        while True:
            starts = torch.randint(len(tokens) - length, (size, 1), generator=generator)
            yield tokens[starts + window].long()


def read_corpus() -> Corpus:
    """The standard library of the running Python; one file in twenty, by a hash of its name, is held out."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(library.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(library).parts)]
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for path in files:
        held_out = zlib.crc32(path.relative_to(library).as_posix().encode()) % 20 == 0
        parts[held_out].append(path.read_bytes())
    train, validation = (torch.frombuffer(bytearray(b"\n".join(part)), dtype=torch.uint8) for part in parts)
    return Corpus(train, validation)
