"""Run by tests/test_low_precision.py in a process where Triton interprets: 16-bit parameters against the torch backend."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch

from optgen.generated.sgd import SGD
from optgen.generated.solo import Solo

MODES = ("stochastic", "kahan", "correction8", "correction16", "nearest")
SHAPES = ((33,), (3, 129), (40, 135))


def trained(cls: Any, mode: str, dtype: torch.dtype, backend: str) -> list[torch.Tensor]:
    """Parameters and their whole state after two steps; the last parameter is transposed in memory."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in SHAPES]
    params = [torch.nn.Parameter(value.to(dtype)) for value in values]
    params.append(torch.nn.Parameter(torch.randn(37, 11, generator=generator).to(dtype).t()))
    optimizer = cls(params, lr=1e-3, low_precision=mode, backend=backend)
    for _ in range(2):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    return [*params, *(value for p in params for value in optimizer.state[p].values())]


def main() -> None:
    """Compare, and say how many tensors were equal."""
    count = 0
    every = itertools.product((SGD, Solo), MODES, (torch.bfloat16, torch.float16))
    for cls, mode, dtype in ((c, m, d) for c, m, d in every if c is SGD or d == torch.bfloat16 or m == MODES[0]):
        pairs = zip(trained(cls, mode, dtype, "torch"), trained(cls, mode, dtype, "triton"), strict=True)
        for ours, theirs in pairs:
            apart = (ours.double() - theirs.double()).abs()
            if cls is SGD and not torch.equal(ours, theirs):
                sys.exit(f"{cls.__name__} {mode} {dtype}: {ours.dtype}{tuple(ours.shape)} differs by {apart.max()}")
            if (apart > 0).double().mean() > 0.02:
                sys.exit(f"{cls.__name__} {mode} {dtype}: {(apart > 0).sum()} of {apart.numel()} differ")
            count += 1
    print(f"equal: {count} tensors")


if __name__ == "__main__":
    main()
