"""States that several parameters share: one tensor, which stands in the state of each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optgen.runtime.rules import kernels_of, route
from optgen.runtime.states import real_dtype

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch
    from optgen.runtime.description import Description, State

__all__ = ["begin", "check_same", "members", "own_copies", "spread", "unify", "write_back"]


def begin(optimizer: Any, p: Tensor, rule: int, declared: State, group: Mapping[str, Any]) -> Tensor:
    """The tensor of a shared state for a parameter of the rule at a place: another parameter's, or else a new one.

    Parameters of other dtypes of arithmetic, or on other devices, have a copy, which `spread` keeps the same.
    """
    found: list[Tensor] = []
    for other in [group] if declared.scope == "group" else optimizer.param_groups:
        for i, q in enumerate(other["params"]):
            kept = optimizer.state.get(q, {}).get(declared.key)
            if kept is not None and (not optimizer.description.has_rules or route(optimizer, other)[i] == rule):
                if (kept.dtype, kept.device) == (real_dtype(p.dtype), p.device):
                    return kept  # type: ignore[no-any-return]
                found.append(kept)
    if found:
        return found[0].to(p.device, real_dtype(p.dtype))
    first = group[declared.first] if isinstance(declared.first, str) else declared.first
    return torch.full((), float(first), dtype=real_dtype(p.dtype), device=p.device)


def members(optimizer: Any) -> Iterator[tuple[int, Tensor, int]]:
    """Every parameter with the place of its group and its kernel."""
    for place, group in enumerate(optimizer.param_groups):
        for p, kernel in zip(group["params"], kernels_of(optimizer, group), strict=True):
            yield place, p, kernel


def unify(
    description: Description,
    members: Iterable[tuple[int, Tensor, int]],
    states: Mapping[Tensor, dict[str, Tensor]],
    *,
    checked: bool = False,
) -> None:
    """Let parameters, each with the place of its group and its kernel, share again what they may have got one by one.

    Raises:
        ValueError: if `checked` and what they have differs.
    """
    tensors: dict[tuple[Any, ...], Tensor] = {}
    for place, p, kernel in members:
        for declared in description.rule_of(kernel).states:
            kept = states.get(p, {}).get(declared.key) if declared.scope else None
            if kept is None:
                continue
            first = tensors.setdefault((*_owner(description, declared, place, kernel), kept.dtype, kept.device), kept)
            if checked and not torch.allclose(first, kept, rtol=0, atol=0, equal_nan=True):
                raise ValueError(
                    f"{description.name}: state '{declared.key}' is one for all parameters of the {declared.scope}, and differs "
                    f"between them in the state dict: {first.item():g} and {kept.item():g}"
                )
            states[p][declared.key] = first


def check_same(description: Description, groups: list[dict[str, Any]]) -> None:
    """Refuse groups that differ in a hyperparameter on which a state of the optimizer depends.

    Raises:
        ValueError: with its name and values.
    """
    for state in description.shared:
        for name in state.same:
            values = [group[name] for group in groups]
            if torch.compiler.is_compiling() and any(isinstance(value, Tensor) for value in values):
                continue  # a graph does not ask for their values
            if any(value != values[0] for value in values):
                raise ValueError(
                    f"{description.name}: the state '{state.name}' is one for the whole optimizer and depends on '{name}', which "
                    f"must be the same in all groups, got {', '.join(map(str, values))}"
                )


def spread(optimizer: Any, batches: Iterable[Batch]) -> None:
    """Let the copies that parameters of other dtypes of arithmetic, or on other devices, have of what they share follow this step's."""
    description, groups = optimizer.description, optimizer.param_groups
    if len({(real_dtype(p.dtype), p.device) for group in groups for p in group["params"]}) < 2:
        return
    sources: dict[tuple[Any, ...], Tensor] = {}
    for batch in batches:
        for declared, column in _columns(description, batch.kernel):
            key = _owner(description, declared, batch.group, batch.kernel)
            for p, kept in zip(batch.columns[0], batch.columns[column], strict=True):
                if p.numel() and (key not in sources or kept.dtype == torch.float64):  # the most exact one
                    sources[key] = kept
    for place, p, kernel in members(optimizer):
        for declared in description.rule_of(kernel).states:
            held = optimizer.state.get(p, {}).get(declared.key) if declared.scope else None
            source = sources.get(_owner(description, declared, place, kernel))
            if held is not None and source is not None and held is not source:
                held.view(1).copy_(source.view(1))


def own_copies(description: Description, batches: Iterable[Batch]) -> list[Batch]:
    """Batches whose parameters have each a copy of what they share, to write while others read."""
    found = []
    for batch in batches:
        columns = list(batch.columns)
        for _, column in _columns(description, batch.kernel):
            columns[column] = [tensor.clone() for tensor in columns[column]]
        found.append(batch._replace(columns=columns))
    return found


def write_back(description: Description, batches: Iterable[Batch], copies: Iterable[Batch]) -> None:
    """What all have made of their copies, which is the same, becomes what they share."""
    written: list[Tensor] = []
    for batch, own in zip(batches, copies, strict=True):
        for _, column in _columns(description, batch.kernel):
            for p, target, made in zip(batch.columns[0], batch.columns[column], own.columns[column], strict=True):
                if p.numel() and not any(target is other for other in written):
                    target.view(1).copy_(made.view(1))  # AOTAutograd writes nothing into a float64 tensor of shape ()
                    written.append(target)


def _owner(description: Description, declared: State, group: int, kernel: int) -> tuple[int, int, str]:
    """What is equal for those parameters that share a state: the group or none, the rule and the key."""
    return group if declared.scope == "group" else -1, description.owners[kernel], declared.key


def _columns(description: Description, kernel: int) -> list[tuple[State, int]]:
    """The shared states that a kernel takes, each with its place among the columns of a batch."""
    shared = {state.name: state for state in description.rule_of(kernel).states if state.scope}
    return [(shared[name], 2 + place) for place, (name, _) in enumerate(description.kernels[kernel].keys) if name in shared]
