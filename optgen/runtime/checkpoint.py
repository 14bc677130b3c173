"""Loading state dicts: everything is checked before the optimizer changes, and every tensor keeps its declared dtype.

torch's own load casts each floating tensor to the parameter's dtype through a static method that it calls by class
name, so it cannot be used: float32 moments of bfloat16 weights, and codes, would not survive.
"""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from optgen.runtime.description import FORMAT, Description
from optgen.runtime.states import state_tensors

__all__ = ["load"]

TORCH_OPTIONS = ("foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay")


def load(optimizer: Optimizer, description: Description, state_dict: dict[str, Any]) -> None:
    """Load `state_dict` into `optimizer`, described by `description`, or raise ValueError and change nothing."""
    state_dict = state_dict.copy()
    for pre_hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = pre_hook(optimizer, state_dict)
        if replaced is not None:
            state_dict = replaced
    groups = _merge_groups(optimizer, description, deepcopy(state_dict["param_groups"]))
    saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    params = dict(zip(saved_ids, chain.from_iterable(g["params"] for g in optimizer.param_groups), strict=True))
    state: defaultdict[Any, Any] = defaultdict(dict)
    for key, value in state_dict["state"].items():
        if key in params:
            state[params[key]] = _load_param(description, params[key], key, value)
        else:
            state[key] = value
    optimizer.__setstate__({"state": state, "param_groups": groups})
    for post_hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        post_hook(optimizer)


def _merge_groups(optimizer: Optimizer, description: Description, saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The saved hyperparameters with the optimizer's own parameters."""
    owner, groups = description.name, optimizer.param_groups
    if len(saved) != len(groups):
        raise ValueError(f"{owner}: the state dict has {len(saved)} parameter groups, the optimizer {len(groups)}")
    merged = []
    for index, (group, loaded) in enumerate(zip(groups, saved, strict=True)):
        if len(loaded["params"]) != len(group["params"]):
            counts = f"{len(loaded['params'])} parameters, the optimizer's {len(group['params'])}"
            raise ValueError(f"{owner}: group {index} of the state dict has {counts}")
        _check_origin(owner, loaded.get("optgen"))
        kept = {key: value for key, value in loaded.items() if key not in TORCH_OPTIONS}
        if "param_names" in group:
            kept.setdefault("param_names", group["param_names"])
        complete = {**optimizer.defaults, **kept, "optgen": optimizer.defaults["optgen"], "params": group["params"]}
        description.check(complete)
        merged.append(complete)
    return merged


def _check_origin(owner: str, origin: Any) -> None:
    """A state dict says which spec and format it comes from; torch's own say nothing."""
    if origin is None:
        return
    name, _, version = str(origin).partition("/")
    if name != owner:
        raise ValueError(f"{owner}: this state dict was saved by {name}")
    if not version.isdigit() or int(version) > FORMAT:
        raise ValueError(f"{owner}: this state dict has format {version}, this version of optgen reads up to {FORMAT}")


def _load_param(description: Description, p: Tensor, key: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """The state of one parameter, each tensor with its declared dtype and shape, on the parameter's device."""
    kernel = description.kernels[description.kernel_index(p.shape)]
    loaded: dict[str, Any] = {}
    expected: dict[str, Tensor] = {}
    for state in description.states:
        for name, make in state_tensors(state, state.name in kernel.stored).items():
            expected[name] = make(torch.empty_like(p, device="meta") if p.device.type != "meta" else p)
    if saved:
        loaded["step"] = _load_step(saved)
    for name, value in saved.items():
        if name == "step":
            continue
        if name == "rounding_key" and description.random:
            loaded[name] = torch.as_tensor(value, device="cpu").to(torch.int64).clone()
        elif name in expected and isinstance(value, Tensor):
            loaded[name] = _load_tensor(description.name, key, name, value, expected[name], p)
        elif value is not None:
            known = ", ".join(["step", *expected])
            raise ValueError(f"{description.name}: parameter {key} has a state '{name}' here unknown (known: {known})")
    return loaded


def _load_step(saved: dict[str, Any]) -> Tensor:
    """The step counter. Rules without one in torch.optim (SGD) have made at least one step if they have any state."""
    step = saved.get("step", 1.0)
    return torch.as_tensor(step, device="cpu").detach().to(torch.float32).clone().reshape(())


def _load_tensor(owner: str, key: Any, name: str, value: Tensor, expected: Tensor, p: Tensor) -> Tensor:
    if value.shape != expected.shape:
        shapes = f"shape {tuple(value.shape)}, expected {tuple(expected.shape)}"
        raise ValueError(f"{owner}: state '{name}' of parameter {key} has {shapes}")
    device = torch.device("cpu") if expected.dim() == 0 and p.dim() > 0 else p.device
    kept = torch.empty_like(expected, device=device)
    return kept.copy_(value.detach())
