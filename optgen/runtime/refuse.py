"""What an optimizer refuses of a parameter when it gets it, and of its gradient and state when it is to step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optgen.runtime import sharding
from optgen.runtime.description import MATRIX
from optgen.runtime.low_precision import CORRECTION
from optgen.runtime.states import fit_states, state_tensors

__all__ = ["check_grad", "check_param", "fit_state"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_param(optimizer: Any, p: Tensor, kernel: int, group: dict[str, Any]) -> None:
    """Refuse a parameter that its kernel cannot update.

    Raises:
        TypeError: for one that is not a dense tensor of a dtype that kernels take.
        ValueError: for a shape that its rule cannot see.
        RuntimeError: for elements that share memory, and for shards that a state cannot have.
    """
    description = optimizer.description
    name, rule = description.name, description.rule_of(kernel)
    if p.dtype not in DTYPES:
        raise TypeError(f"{name} updates float32, bfloat16, float16 and float64 parameters, got {p.dtype}")
    if p.layout != torch.strided:
        raise TypeError(f"{name} updates dense parameters, got layout {p.layout}")
    if torch._debug_has_internal_overlap(p) == 1:
        raise RuntimeError(
            f"{name} cannot update a parameter of shape {tuple(p.shape)} and strides {p.stride()}: "
            "several of its elements share memory; pass a contiguous copy"
        )
    if not rule.cut and p.ndim < MATRIX and description.kernels[kernel].grid:
        raise ValueError(
            f"{optimizer._owner(p)} has shape {tuple(p.shape)}, and this rule needs rows and columns, the last two of two or more "
            "dimensions: give it to another optimizer, or let the rule be one of a spec's 'rules', with 'when: ndim >= 2'"
        )
    if fault := rule.view_fault(p.shape, group):
        raise ValueError(f"{optimizer._owner(p)} has shape {tuple(p.shape)}: {fault}")
    stored = description.stored_codes(kernel)
    sharding.check_parameter(lambda: optimizer._owner(p), p, stored, whole=rule.whole)


def check_grad(optimizer: Any, p: Tensor, grad: Tensor) -> None:
    """Refuse a gradient that kernels cannot read.

    Raises:
        RuntimeError: for a sparse or complex one, and for one that is placed unlike its parameter.
    """
    name = optimizer.description.name
    if grad.layout != torch.strided:
        raise RuntimeError(f"{name} takes dense gradients, got layout {grad.layout}")
    if grad.is_complex() or p.is_complex():
        raise RuntimeError(f"{name} takes real parameters and gradients, got {grad.dtype}")
    sharding.check_placement(lambda: optimizer._owner(p), p, grad, "gradient")


def fit_state(optimizer: Any, p: Tensor, state: dict[str, Tensor], kernel: int, group: dict[str, Any]) -> None:
    """Let states follow a parameter to another dtype or device.

    Raises:
        RuntimeError: for a parameter of another shape or rule than theirs.
    """
    description = optimizer.description
    rule, stored = description.rule_of(kernel), description.kernels[kernel].stored
    if description.has_rules:
        seen = rule.seen(p.shape, group)
        names = {name for s in rule.states for name in state_tensors(s, s.name in stored, p.shape, p.dtype, seen)}
        foreign = state.keys() - names - {"step", "rounding_key", CORRECTION}
        if foreign:
            raise RuntimeError(
                f"{optimizer._owner(p)} is updated by the rule '{rule.name}' ({rule.when}), but its state was made by another: "
                f"it has '{min(foreign)}'; after such a change, clear the state: optimizer.state.pop(parameter)"
            )
    if not fit_states(rule.states, stored, p, state, rule.seen(p.shape, group)):
        raise RuntimeError(
            f"{optimizer._owner(p)} has shape {tuple(p.shape)}, but its state was made for another shape or storage; after such "
            "a change, clear the state: optimizer.state.pop(parameter)"
        )
