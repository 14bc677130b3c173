"""Optimizers that train at one point and are evaluated at another, such as Schedule-Free: `eval()` and `train()` move p."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from optgen.runtime import keys, sharding
from optgen.runtime.batches import hyper_values
from optgen.runtime.low_precision import effective_mode
from optgen.runtime.optimizer import GeneratedOptimizer
from optgen.runtime.rules import kernels_of
from optgen.runtime.states import real_dtype

__all__ = ["MovingOptimizer"]

MODE = "train_mode"  # of a parameter group: whether its parameters stand where they are trained


class MovingOptimizer(GeneratedOptimizer):
    """An optimizer whose parameters are moved before they are evaluated or saved for use, and back before the next step."""

    torch_moves: ClassVar[Mapping[str, tuple[Callable[..., None], ...]]]  # by "eval" and "train", for each kernel

    def eval(self) -> None:
        """Move every parameter to where it is evaluated; one that is there, or has not been stepped, stays.

        Parameters in 16 bits are rounded to the nearest, with their corrections if they have such. A state dict says where
        parameters are; those of the model are saved as they are.
        """
        self._move("eval")

    def train(self) -> None:
        """Move every parameter back to where it is trained."""
        self._move("train")

    @torch.no_grad()
    def _move(self, point: str) -> None:
        for group in self.param_groups:
            if group[MODE] == (point == "train"):
                continue
            numbers = hyper_values(self.description, group)
            for p, kernel in zip(group["params"], kernels_of(self, group), strict=True):
                if self.state.get(p) and p.numel():
                    self._move_one(point, p, kernel, group, numbers)
            group[MODE] = point == "train"

    def _move_one(self, point: str, p: Tensor, kernel: int, group: dict[str, Any], numbers: list[float | Tensor]) -> None:
        """Move one parameter that has a state, by the function of its kernel."""
        description, state, flags = self.description, self.state[p], type(self).flags(group)
        rule, info = description.rule_of(kernel), description.kernels[kernel]
        part = sharding.local(p)
        tensors = [sharding.local(state[key]) if key in state else part for _, key in info.keys]
        olds = [float(state[each.key]) if each.key in state else 0.0 for each in rule.scalars]
        values = [*map(float, numbers), *info.facts, *olds]
        columns, _ = getattr(type(self), f"scalars_to_{point}")(float(state["step"]), *values, **flags)
        row = torch.tensor(columns, dtype=real_dtype(p.dtype), device=part.device)
        mode = effective_mode(p.dtype, group["low_precision"])
        function, key = type(self).torch_moves[point][kernel], keys.Key(keys.NO_WORDS, sharding.place(p))
        function(part, part, *tensors, row, key, **flags, low_precision="nearest" if mode == "stochastic" else mode)
        torch.autograd.graph.increment_version([p])

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Raises:
            RuntimeError: after `eval()`, before `train()`.
        """
        if not all(group[MODE] for group in self.param_groups):
            raise RuntimeError(f"{self.description.name}: parameters are where they are evaluated; call train() before a step")
        return super().step(closure)
