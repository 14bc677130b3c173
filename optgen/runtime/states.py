"""The tensors that a declared state has in a state dict, and how they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optgen.runtime import sharding
from optgen.runtime.description import State
from optgen.runtime.layout import vector_shape
from optgen.runtime.low_precision import CORRECTION

__all__ = ["Kept", "fit_states", "float_dtype", "real_dtype", "state_tensors"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Kept(NamedTuple):
    """One tensor of a parameter's state: its global shape, its dtype, and where it lies.

    That is on the CPU, in the parameter's own memory format and placement, or contiguous beside the parameter.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    place: str  # "host", "like" or "beside"

    def zeros(self, p: Tensor) -> Tensor:
        """As a state starts."""
        if self.place == "host":
            return torch.zeros(self.shape, dtype=self.dtype, device="cpu")
        if self.place == "like":
            return torch.zeros_like(p, dtype=self.dtype, memory_format=torch.preserve_format, requires_grad=False)
        return sharding.zeros(self.shape, self.dtype, p)


def state_tensors(state: State, coded: bool, shape: Sequence[int], param: torch.dtype, seen: Sequence[int]) -> dict[str, Kept]:
    """The keys of a state in the state dict, each with its tensor, for a parameter of this global shape and dtype.

    `seen` is the shape that the parameter's rule sees, which says how many rows, columns and matrices it has.
    """
    if state.scalar:
        return {state.key: Kept((), torch.float64, "host")}
    if state.whole:
        return {state.key: Kept((), real_dtype(param), "beside")}
    codes = state.codes
    if state.shape and not coded:
        return {state.key: Kept(vector_shape(state.shape, seen), float_dtype(state, param), "beside")}
    if not coded or codes is None:
        return {state.key: Kept(tuple(shape), float_dtype(state, param), "like")}
    scalars = {f"{state.key}.{name}": Kept(codes.scalars_shape(shape, name), torch.float32, "beside") for name in codes.scalars}
    return {f"{state.key}.codes": Kept(codes.codes_shape(shape), torch.uint8, "beside"), **scalars}


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of arithmetic and of uncoded states for parameters of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def float_dtype(state: State, param: torch.dtype) -> torch.dtype:
    """The dtype of a state that is not stored as codes, for parameters of dtype `param`."""
    return real_dtype(param) if state.dtype is None else DTYPES[state.dtype]


def fit_states(states: Sequence[State], stored: Sequence[str], p: Tensor, kept: dict[str, Tensor], seen: Sequence[int]) -> bool:
    """Let what was kept of a parameter follow it to another dtype or device; False if it was made for another shape."""
    for state in states:
        if state.scalar:
            continue
        tensors = state_tensors(state, state.name in stored, p.shape, p.dtype, seen)
        if any(key in kept and key not in tensors for key in (state.key, f"{state.key}.codes")):
            return False
        if any(key in kept and kept[key].shape != declared.shape for key, declared in tensors.items()):
            return False
        if state.key in kept:
            kept[state.key] = kept[state.key].to(p.device, tensors[state.key].dtype)
    if CORRECTION in kept:
        if kept[CORRECTION].shape != p.shape:
            return False
        kept[CORRECTION] = kept[CORRECTION].to(p.device)
    return True
