"""Float32 masters of 16-bit parameters: the parameters joined with their corrections, and the way back."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from optgen.runtime.low_precision import CORRECTION, NEAREST, correction_dtype, join, split
from optgen.runtime.states import real_dtype

__all__ = ["export", "load"]


def export(optimizer: Optimizer) -> list[Tensor]:
    """Every parameter with its correction in the dtype of the arithmetic, as new tensors."""
    tensors = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            correction = optimizer.state.get(p, {}).get(CORRECTION)
            plain = p.detach().to(real_dtype(p.dtype), copy=True)
            tensors.append(plain if correction is None else join(p.detach(), correction))
    return tensors


@torch.no_grad()
def load(optimizer: Optimizer, owner: str, tensors: Iterable[Tensor]) -> dict[Tensor, Tensor]:
    """Set every parameter from its master; returns the corrections of those that keep one.

    Raises:
        ValueError: if the tensors do not fit the parameters; nothing is changed then.
    """
    params = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    given = list(tensors)
    if len(given) != len(params):
        raise ValueError(f"{owner}: got {len(given)} tensors for {len(params)} parameters")
    for index, ((p, _), exact) in enumerate(zip(params, given, strict=True)):
        if exact.shape != p.shape:
            shapes = f"{tuple(p.shape)}, its master {tuple(exact.shape)}"
            raise ValueError(f"{owner}: parameter {index} has shape {shapes}")
    corrections = {}
    for (p, group), master in zip(params, given, strict=True):
        exact = master.detach().to(p.device, real_dtype(p.dtype))
        kind = correction_dtype(p.dtype, group["low_precision"])
        if kind is not None:
            exact, corrections[p] = split(exact, p.dtype, kind, NEAREST)
        p.copy_(exact)
    return corrections
