"""Estimates of the Hessian's diagonal, for optimizers that take one as an input every few steps.

Both leave `.grad` alone and return a list in the order of the parameters, as `optimizer.give` takes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["hutchinson", "sampled_gradients"]


def sampled_gradients(
    logits: Tensor, params: Iterable[Tensor], *, generator: torch.Generator | None = None, retain_graph: bool = False
) -> list[Tensor | None]:
    """Gradients of the mean loss of labels that are drawn from the model's own distribution.

    With B rows of logits, B times the square of such a gradient estimates the diagonal of the Gauss-Newton matrix: the
    Gauss-Newton-Bartlett estimator (Liu et al. 2023, arXiv 2305.14342, section 2.3, algorithm 2). SophiaG squares it
    and multiplies with B, which it calls `bs`. What several processes compute is averaged by the caller.

    Args:
        logits: (..., classes), any floating-point dtype, with the graph of a forward pass; each row of the leading
            dimensions is a prediction.
        params: what to differentiate by, such as `model.parameters()`.
        generator: of the labels, on the device of the logits; the default one if it is None.
        retain_graph: keep the graph for another backward pass.

    Returns:
        A tensor like each parameter; None for one that the logits do not depend on.

    Raises:
        ValueError: for logits without classes or rows, and for such as have no graph.
    """
    if logits.ndim == 0 or logits.numel() == 0:
        raise ValueError(f"logits are shaped (..., classes) and not empty, got {tuple(logits.shape)}")
    if not logits.requires_grad:
        raise ValueError("the logits have no graph: compute them with gradients enabled")
    rows = logits.reshape(-1, logits.shape[-1]).float()
    with torch.no_grad():
        labels = torch.multinomial(rows.softmax(dim=-1), 1, generator=generator).squeeze(1)
    loss = torch.nn.functional.cross_entropy(rows, labels)
    return list(torch.autograd.grad(loss, list(params), retain_graph=retain_graph, allow_unused=True))


def hutchinson(loss: Tensor, params: Iterable[Tensor], *, generator: torch.Generator | None = None) -> list[Tensor | None]:
    """`z * (H z)` for normal z: an unbiased estimate of the diagonal of the Hessian H of a loss.

    Hutchinson's estimator (Liu et al. 2023, arXiv 2305.14342, section 2.3, algorithm 1), by a second backward pass. The
    graph of the loss is kept, so that `loss.backward()` may follow.

    Args:
        loss: one number, with the graph of a forward pass that can be differentiated twice.
        params: what to differentiate by, such as `model.parameters()`.
        generator: of z, on the device of the parameters; the default one if it is None.

    Returns:
        A tensor like each parameter, of zeros where the loss is linear in it; None for one that the loss does not depend on.

    Raises:
        ValueError: for a loss that is not one number, or has no graph.
    """
    if loss.numel() != 1:
        raise ValueError(f"the loss is one number, got shape {tuple(loss.shape)}")
    if not loss.requires_grad:
        raise ValueError("the loss has no graph: compute it with gradients enabled")
    known = list(params)
    first = torch.autograd.grad(loss.reshape(()), known, create_graph=True, allow_unused=True)
    normal = [torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=generator) for p in known]
    curved = [(grad, z) for grad, z in zip(first, normal, strict=True) if grad is not None and grad.requires_grad]
    if not curved:
        return [None if grad is None else torch.zeros_like(p) for p, grad in zip(known, first, strict=True)]
    grads, directions = zip(*curved, strict=True)
    second = torch.autograd.grad(grads, known, grad_outputs=directions, retain_graph=True, allow_unused=True)
    return [
        None if grad is None else torch.zeros_like(p) if product is None else z * product
        for p, grad, z, product in zip(known, first, normal, second, strict=True)
    ]
