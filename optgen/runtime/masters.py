"""Float32 masters of 16-bit parameters: the parameters joined with their corrections, and the way back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optgen.runtime import sharding
from optgen.runtime.low_precision import CORRECTION, NEAREST, correction_dtype, join, split
from optgen.runtime.states import real_dtype

__all__ = ["export", "load"]


def export(optimizer: Optimizer) -> list[Tensor]:
    """Every parameter with its correction in the dtype of the arithmetic, as new tensors."""
    tensors = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            correction, part = optimizer.state.get(p, {}).get(CORRECTION), sharding.local(p).detach()
            plain = part.to(real_dtype(p.dtype), copy=True)
            tensors.append(sharding.wrapped(plain if correction is None else join(part, sharding.local(correction)), p))
    return tensors


@torch.no_grad()
def load(optimizer: Optimizer, owner: str, tensors: Iterable[Tensor]) -> list[tuple[Tensor, dict[str, Any], Tensor]]:
    """Set every parameter from its master; returns those that keep a correction, with their groups and corrections.

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
    corrected = []
    for (p, group), master in zip(params, given, strict=True):
        exact = sharding.fitted(master.detach(), p).to(p.device, real_dtype(p.dtype))
        kind = correction_dtype(p.dtype, group["low_precision"])
        if kind is not None:
            exact, correction = split(exact, p.dtype, kind, NEAREST)
            corrected.append((p, group, correction))
        sharding.local(p).copy_(exact)
    return corrected
