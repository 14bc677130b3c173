"""The tensors that a declared state has in a state dict, and how they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optgen.runtime.description import State
from optgen.runtime.low_precision import CORRECTION

__all__ = ["fit_states", "float_dtype", "real_dtype", "state_shapes", "state_tensors"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def state_tensors(state: State, coded: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """The keys of a state in the state dict, each with a function that makes its zeros for a parameter."""
    if state.scalar:
        return {state.key: lambda _: torch.zeros((), dtype=torch.float64, device="cpu")}
    codes = state.codes
    if not coded or codes is None:
        return {
            state.key: lambda p: torch.zeros_like(p, dtype=float_dtype(state, p.dtype), memory_format=torch.preserve_format)
        }
    tensors: dict[str, Callable[[Tensor], Tensor]] = {
        f"{state.key}.codes": lambda p: torch.zeros(codes.codes_shape(p.shape), dtype=torch.uint8, device=p.device)
    }
    for scalar in codes.scalars:
        tensors[f"{state.key}.{scalar}"] = lambda p: torch.zeros(
            codes.scalars_shape(p.shape), dtype=torch.float32, device=p.device
        )
    return tensors


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of arithmetic and of uncoded states for parameters of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def float_dtype(state: State, param: torch.dtype) -> torch.dtype:
    """The dtype of a state that is not stored as codes, for parameters of dtype `param`."""
    return real_dtype(param) if state.dtype is None else DTYPES[state.dtype]


def state_shapes(state: State, coded: bool, shape: torch.Size) -> dict[str, tuple[int, ...]]:
    """The keys of a state that has a value per element, each with its shape for a parameter of this shape."""
    if not coded or state.codes is None:
        return {state.key: tuple(shape)}
    scalars = state.codes.scalars_shape(shape)
    return {
        f"{state.key}.codes": state.codes.codes_shape(shape),
        **{f"{state.key}.{name}": scalars for name in state.codes.scalars},
    }


def fit_states(states: Sequence[State], stored: Sequence[str], p: Tensor, kept: dict[str, Tensor]) -> bool:
    """Let what was kept of a parameter follow it to another dtype or device; False if it was made for another shape."""
    for state in states:
        if state.scalar:
            continue
        shapes = state_shapes(state, state.name in stored, p.shape)
        if any(key in kept and key not in shapes for key in (state.key, f"{state.key}.codes")):
            return False
        if any(key in kept and kept[key].shape != shape for key, shape in shapes.items()):
            return False
        if state.key in kept:
            kept[state.key] = kept[state.key].to(p.device, float_dtype(state, p.dtype))
    if CORRECTION in kept:
        if kept[CORRECTION].shape != p.shape:
            return False
        kept[CORRECTION] = kept[CORRECTION].to(p.device)
    return True
