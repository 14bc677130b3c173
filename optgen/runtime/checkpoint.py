"""Loading state dicts: everything is checked before the optimizer changes, and every tensor keeps its declared dtype.

torch's own load casts each floating tensor to the parameter's dtype through a static method that it calls by class
name, so it cannot be used: float32 moments of bfloat16 weights, and codes, would not survive.
"""

from __future__ import annotations

import math
from collections import defaultdict
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from optgen.runtime import sharding
from optgen.runtime.description import FORMAT, Description
from optgen.runtime.low_precision import CORRECTION, correction_dtype, is_random
from optgen.runtime.rules import kernels_of
from optgen.runtime.shared import unify
from optgen.runtime.states import Kept, state_tensors

__all__ = ["load"]

TORCH_OPTIONS = ("foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay")

OPTIONS = ("low_precision", "storage")
ROUTES = ("param_names", "tags")  # what decides between rules is never taken from a dict
KEY = "rounding_key"


def load(optimizer: Any, description: Description, state_dict: dict[str, Any]) -> None:
    """Load `state_dict` into `optimizer`, described by `description`, or raise ValueError and change nothing."""
    _check_form(description.name, state_dict)
    state_dict = state_dict.copy()
    for pre_hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        replaced = pre_hook(optimizer, state_dict)
        if replaced is not None:
            state_dict = replaced
    _check_form(description.name, state_dict)
    groups = _merge_groups(optimizer, description, deepcopy(state_dict["param_groups"]))
    saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    params = dict(zip(saved_ids, chain.from_iterable(g["params"] for g in optimizer.param_groups), strict=True))
    owners = {p: (group, k) for group in groups for p, k in zip(group["params"], kernels_of(optimizer, group), strict=True)}
    ours = all("optgen" in group for group in state_dict["param_groups"])
    state: defaultdict[Any, Any] = defaultdict(dict)
    for key, value in state_dict["state"].items():
        if key in params:
            p = params[key]
            state[p] = _load_param(description, p, key, value, *owners[p], ours)
        else:
            state[key] = value
    if description.shared:
        places = {id(p): place for place, group in enumerate(groups) for p in group["params"]}
        members = [(places[id(p)], p, kernel) for p, (_, kernel) in owners.items()]
        unify(description, members, state, checked=True)
    optimizer.__setstate__({"state": state, "param_groups": groups})
    for post_hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        post_hook(optimizer)


def _check_form(owner: str, state_dict: Any) -> None:
    """A state dict is a mapping with a mapping of states and a list of groups."""
    if not isinstance(state_dict, dict):
        raise ValueError(f"{owner}: the state dict is a {type(state_dict).__name__}, expected a mapping")
    for part, form in (("state", dict), ("param_groups", list)):
        if part not in state_dict:
            raise ValueError(f"{owner}: the state dict has no '{part}'")
        if not isinstance(state_dict[part], form):
            got = type(state_dict[part]).__name__
            raise ValueError(f"{owner}: '{part}' of the state dict is a {got}, expected a {form.__name__}")
    for index, group in enumerate(state_dict["param_groups"]):
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            raise ValueError(f"{owner}: group {index} of the state dict has no list of 'params'")


def _merge_groups(optimizer: Any, description: Description, saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The saved hyperparameters with the optimizer's own parameters."""
    owner, groups = description.name, optimizer.param_groups
    if len(saved) != len(groups):
        raise ValueError(f"{owner}: the state dict has {len(saved)} parameter groups, the optimizer {len(groups)}")
    merged, named = [], f"{owner}: a parameter of the state dict"
    for index, (group, loaded) in enumerate(zip(groups, saved, strict=True)):
        if len(loaded["params"]) != len(group["params"]):
            counts = f"{len(loaded['params'])} parameters, the optimizer's {len(group['params'])}"
            raise ValueError(f"{owner}: group {index} of the state dict has {counts}")
        _check_origin(owner, loaded.get("optgen"))
        ours = {hyper.name for hyper in description.hypers}
        kept = {key: value for key, value in loaded.items() if key in ours or key not in TORCH_OPTIONS}
        if "param_names" in group:
            kept.setdefault("param_names", group["param_names"])
        if description.has_rules:
            kept = {key: value for key, value in kept.items() if key not in ROUTES}
            kept |= {key: group[key] for key in ROUTES if key in group}
        own = {option: group[option] for option in OPTIONS}  # what a dict of torch.optim does not say
        complete = {**optimizer.defaults, **own, **kept, **description.origin, "params": group["params"]}
        description.check(complete)
        complete["storage"] = description.storage(complete["storage"])
        kernels = kernels_of(optimizer, complete)
        for p, kernel in zip(group["params"], kernels, strict=True):
            stored, whole = description.stored_codes(kernel), description.rule_of(kernel).whole
            sharding.check_parameter(lambda: named, p, stored, whole=whole)
        _check_levels(description, loaded.get("codes"), set(kernels))
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


def _check_levels(description: Description, saved: Any, kernels: set[int]) -> None:
    """Refuse codes that stand for other values; of a dict that does not say, nothing is known."""
    if saved is None:
        return
    known = dict(entry.partition(": ")[::2] for entry in str(saved).split("; "))
    for rule in description.rules:
        stored = {
            name for kernel in kernels if description.rule_of(kernel) is rule for name in description.kernels[kernel].stored
        }
        for state in (state for state in rule.states if state.name in stored):
            name = description.full_name(rule, state)
            theirs = known.get(name, "another storage")
            if theirs != state.levels:
                raise ValueError(
                    f"{description.name}: state '{name}' was saved as codes of {theirs} levels, here they are {state.levels}"
                )


def _load_param(
    description: Description, p: Tensor, key: Any, saved: Any, group: dict[str, Any], kernel: int, ours: bool
) -> dict[str, Any]:
    """The state of one parameter, each tensor with its declared dtype and shape, on the parameter's device."""
    owner = f"{description.name}: parameter {key}"
    if not isinstance(saved, dict):
        raise ValueError(f"{owner}: its state is a {type(saved).__name__}, expected a mapping")
    present = {name: value for name, value in saved.items() if value is not None}
    if correction_dtype(p.dtype, group["low_precision"]) is None:
        present.pop(CORRECTION, None)  # of a model that had 16 bits; this one's parameters are exact
    expected = _expected(description, p, present, group, kernel)
    unknown = [name for name in present if name not in expected]
    if unknown:
        raise ValueError(f"{owner} has a state '{unknown[0]}' here unknown (known: {', '.join(expected)})")
    if not saved:
        return {}
    if not ours:  # rules without a counter in torch.optim (SGD) have made at least one step if they have any state
        present.setdefault("step", 1.0)
    missing = [name for name, (_, needed) in expected.items() if name not in present and needed and (ours or name != KEY)]
    if missing:
        raise ValueError(f"{owner} lacks the state '{missing[0]}'")
    loaded = {
        name: _load_tensor(f"{description.name}: state '{name}' of parameter {key}", present[name], kept, p)
        for name, (kept, _) in expected.items()
        if name in present
    }
    step = loaded["step"].item()
    if not (0 <= step < math.inf and step == int(step)):
        raise ValueError(f"{description.name}: state 'step' of parameter {key} must be a whole number from 0, got {step}")
    return loaded


def _expected(
    description: Description, p: Tensor, present: dict[str, Any], group: dict[str, Any], kernel: int
) -> dict[str, tuple[Kept, bool]]:
    """Each tensor of a parameter's state, and whether it must be there.

    A state that hangs on a flag may be missing (a step makes it), but not a part of it.
    """
    mode, rule, stored = group["low_precision"], description.rule_of(kernel), description.kernels[kernel].stored
    expected = {"step": (Kept((), torch.float32, "host"), True)}
    if rule.random or is_random(p.dtype, mode) or KEY in present:
        expected[KEY] = (Kept((), torch.int64, "host"), rule.random)
    kind = correction_dtype(p.dtype, mode)
    if kind is not None:
        expected[CORRECTION] = (Kept(tuple(p.shape), kind, "like"), False)
    for state in rule.states:
        tensors = state_tensors(state, state.name in stored, p.shape, p.dtype, rule.seen(p.shape, group))
        needed = state.flag is None or any(name in present for name in tensors)
        expected |= {name: (kept, needed) for name, kept in tensors.items()}
    return expected


def _load_tensor(owner: str, value: Any, expected: Kept, p: Tensor) -> Tensor:
    """A copy of `value` as it is declared: floats take the declared dtype, codes and keys must have it.

    Of a sharded parameter's state it is this process's part, from a whole tensor or one that is sharded in any way.
    """
    if isinstance(value, bool) or not isinstance(value, Tensor | int | float):
        raise ValueError(f"{owner} must be a tensor, got {value!r}")
    if not isinstance(value, Tensor):
        if expected.shape:
            raise ValueError(f"{owner} must be a tensor, got {value!r}")
        return torch.tensor(value, dtype=expected.dtype, device="cpu")
    if not expected.shape and value.numel() == 1:
        value = value.reshape(())
    if value.shape != expected.shape:
        raise ValueError(f"{owner} has shape {tuple(value.shape)}, expected {expected.shape}")
    floats = value.is_floating_point() and expected.dtype.is_floating_point
    if value.dtype != expected.dtype and not floats and not (expected.dtype.is_floating_point and not expected.shape):
        raise ValueError(f"{owner} has dtype {value.dtype}, expected {expected.dtype}")
    loaded = expected.zeros(p)
    sharding.local(loaded).copy_(sharding.fitted(value.detach(), loaded))
    return loaded
