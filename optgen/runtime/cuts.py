"""Rules that see parameters in another shape: their tensors as they see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from optgen.runtime.batches import Collected
from optgen.runtime.description import RuleInfo

__all__ = ["as_seen"]


def as_seen(optimizer: Any, found: Collected, group: Mapping[str, Any]) -> Collected:
    """What was collected of a group, with the tensors that are like their parameter in the shape that its rule sees.

    While torch.compile traces, this is a part of the graph, where what `_init_group` does is not.

    Raises:
        RuntimeError: for a tensor whose elements are in another order than its dimensions.
    """
    description = optimizer.description
    if not any(rule.cut for rule in description.rules):
        return found
    params, grads, tensors = [], [], []
    start = 0
    for p, grad, kernel in zip(found.params, found.grads, found.kernels, strict=True):
        rule, count = description.rule_of(kernel), len(description.kernels[kernel].keys)
        try:
            part = _seen(p, p, rule, group)
            grads.append(_seen(grad, p, rule, group))
            # the parameter stands in for what does not exist, as the object that it is
            tensors += [
                part if tensor is p else _seen(tensor, p, rule, group) for tensor in found.tensors[start : start + count]
            ]
        except RuntimeError:
            raise RuntimeError(
                f"{optimizer._owner(p)} has shape {tuple(p.shape)}, and it, its gradient or a state lies in another order than its "
                f"dimensions: the rule '{rule.name}' ({rule.when}) sees it in another shape, which needs all of them contiguous"
            ) from None
        params.append(part)
        start += count
    return found._replace(params=params, grads=grads, tensors=tensors)


def _seen(tensor: Tensor, p: Tensor, rule: RuleInfo, group: Mapping[str, Any]) -> Tensor:
    if not rule.cut or tensor.shape != p.shape:
        return tensor
    return tensor.view(rule.seen(tensor.shape, group))
