"""Inputs: tensors that a step is given beside the gradients, for some parameters or all, and that the next step forgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optgen.runtime import sharding
from optgen.runtime.given import INPUT
from optgen.runtime.states import real_dtype

if TYPE_CHECKING:
    from optgen.runtime.batches import Part
    from optgen.runtime.description import Description

__all__ = ["Inputs", "by_given", "check_values"]


class Inputs:
    """What the next step of an optimizer was given; `waiting` says whether that is anything."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.given: dict[str, dict[Tensor, Tensor]] = {}
        self.waiting = False

    def take(self, found: Mapping[str, dict[Tensor, Tensor]]) -> None:
        """Keep tensors by input and parameter, in place of what was given of these inputs before."""
        self.given |= found
        self.waiting = any(self.given.values())

    def drop(self) -> None:
        """Forget everything."""
        self.given, self.waiting = {}, False

    def beside(self, p: Tensor, state: dict[str, Tensor]) -> Mapping[str, Tensor]:
        """The state of a parameter and, by the keys that kernels have for them, its inputs as kernels read them."""
        if not self.waiting:
            return state
        own = {name: kept[p] for name, kept in self.given.items() if p in kept}
        return {**state, **{f"{name}{INPUT}": _as_read(tensor, p) for name, tensor in own.items()}}

    def check(self, optimizer: Any) -> None:
        """Refuse what was given for a parameter that has changed since; nothing has changed then.

        Raises:
            ValueError, RuntimeError: as `check_values`.
        """
        for name, kept in self.given.items():
            for p, tensor in kept.items():
                _check(optimizer, name, p, tensor)


def _as_read(tensor: Tensor, p: Tensor) -> Tensor:
    """This process's part, in the dtype of the arithmetic and in the order of the parameter's elements; a copy only if it must be.

    Kernels that change the order of elements write it back to all that they read, so then it is a copy.
    """
    part, own = sharding.local(tensor.detach()), sharding.local(p)
    real = real_dtype(p.dtype)
    if own.is_contiguous():
        return part.to(real).contiguous()
    return torch.empty_like(own, dtype=real, requires_grad=False).copy_(part)


def check_values(optimizer: Any, name: str, values: Any) -> dict[Tensor, Tensor]:
    """The tensors that an optimizer is given of one input, by parameter.

    Args:
        optimizer: whose parameters they are for.
        name: of the input.
        values: a tensor for each parameter, in the order of all of them, or a mapping from parameters to tensors. None
            stands for a parameter that gets none, and so does a parameter that the mapping lacks.

    Raises:
        TypeError: for an input that no rule has, and for values that are not real floating-point tensors.
        ValueError: for another number of tensors than there are parameters, for a parameter that is none of the
            optimizer's, and for a tensor of another shape or device than its parameter.
        RuntimeError: for a sparse tensor, and for one that is sharded unlike its parameter.
    """
    description: Description = optimizer.description
    known = list(dict.fromkeys(each for rule in description.rules for each in rule.inputs))
    if name not in known:
        some = f"known: {', '.join(known)}" if known else "it has none"
        raise TypeError(f"{description.name} has no input '{name}' ({some})")
    params: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(values, Mapping):
        every = set(params)
        for p in values:
            if not isinstance(p, Tensor) or p not in every:
                shown = f"a tensor of shape {tuple(p.shape)}" if isinstance(p, Tensor) else repr(p)
                raise ValueError(f"{description.name}: input '{name}' is given for {shown}, which is none of its parameters")
        pairs = list(values.items())
    elif isinstance(values, Iterable) and not isinstance(values, Tensor | str):
        listed = list(values)
        if len(listed) != len(params):
            raise ValueError(f"{description.name}: input '{name}' has {len(listed)} tensors for {len(params)} parameters")
        pairs = list(zip(params, listed, strict=True))
    else:
        wanted = "a list of tensors, one for each parameter, or a mapping from parameters to tensors"
        raise TypeError(f"{description.name}: input '{name}' is {wanted}, got {type(values).__name__}")
    found = {p: tensor for p, tensor in pairs if tensor is not None}
    for p, tensor in found.items():
        _check(optimizer, name, p, tensor)
    return found


def _check(optimizer: Any, name: str, p: Tensor, tensor: Any) -> None:
    what = f"{optimizer._owner(p)}, input '{name}'"
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{what}: expected a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise TypeError(f"{what}: expected real floating-point numbers, got {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise RuntimeError(f"{what}: expected a dense tensor, got layout {tensor.layout}")
    if tensor.shape != p.shape:
        raise ValueError(f"{what}: has shape {tuple(tensor.shape)}, the parameter {tuple(p.shape)}")
    if tensor.device != p.device:
        raise ValueError(f"{what}: is on {tensor.device}, the parameter on {p.device}")
    sharding.check_placement(lambda: what, p, tensor, "input")


def by_given(parts: Sequence[Part]) -> dict[tuple[str, ...], list[Part]]:
    """The parts of a group by the names of the inputs that their parameters were given."""
    found: dict[tuple[str, ...], list[Part]] = {}
    for part in parts:
        found.setdefault(part.given, []).append(part)
    return found
