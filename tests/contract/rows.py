"""The optimizers that the contract is tested on, and what the tests share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from optgen.generated.adamw import AdamW
from optgen.generated.adamw_8bit import AdamW8bit
from optgen.generated.lion import Lion
from optgen.generated.sgd import SGD
from optgen.generated.solo import Solo
from optgen.runtime.optimizer import GeneratedOptimizer


@dataclass(frozen=True)
class Row:
    """An optimizer with the options it is tested with; `twin` is the same rule in torch.optim."""

    name: str
    cls: Callable[..., GeneratedOptimizer]
    spec: str
    options: dict[str, Any] = field(default_factory=dict)
    decay: str = "weight_decay"
    coded: bool = False  # matrices are kept as codes
    twin: Callable[..., torch.optim.Optimizer] | None = None

    def make(self, params: Any, **options: Any) -> GeneratedOptimizer:
        return self.cls(params, **{**self.options, **options})

    def make_twin(self, params: Any, **options: Any) -> torch.optim.Optimizer:
        """The torch.optim class with the same options; AdamW stands in where there is none."""
        if self.twin is None:
            return torch.optim.AdamW(params)
        return self.twin(params, **{**self.options, **options})


ROWS = (
    Row("sgd", SGD, "sgd", {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1}, twin=torch.optim.SGD),
    Row("adamw", AdamW, "adamw", {"lr": 1e-2, "weight_decay": 0.1}, twin=torch.optim.AdamW),
    Row("lion", Lion, "lion", {"lr": 1e-3, "weight_decay": 0.1}),
    Row("adamw8bit", AdamW8bit, "adamw_8bit", {"lr": 1e-2, "weight_decay": 0.1}, coded=True),
    Row("solo", Solo, "solo", {"lr": 1e-2, "weight_decay": 0.1}, coded=True),
)
BY_NAME = {row.name: row for row in ROWS}

SHAPES = ((64, 128), (33,), (5, 7))  # the first is large enough for codes
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def make_params(
    shapes: Iterable[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[nn.Parameter]:
    """Parameters with the same values on each call."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def gradient(p: Tensor, seed: int, dtype: torch.dtype | None = None) -> Tensor:
    """A gradient for `p`, the same for the same seed and shape."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype or p.dtype)


def run(optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    """Make these steps; the number of a step and the place of a parameter decide the gradient."""
    for step in steps:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        for i, p in enumerate(params):
            p.grad = gradient(p, 100 * step + i)
        optimizer.step()


def same(a: Any, b: Any) -> bool:
    """Whether two nests of tensors and plain values are equal bit for bit, dtypes included; NaN equals NaN."""
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        left, right = (x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        return torch.equal(left, right)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def snapshot(optimizer: torch.optim.Optimizer) -> Any:
    """A copy of all that a step may change: parameters and state dict."""
    params = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return copy.deepcopy([params, optimizer.state_dict()])


def values(params: Iterable[Tensor]) -> list[Tensor]:
    """Copies of the parameters' values."""
    return [p.detach().clone() for p in params]


def distance(a: Iterable[Tensor], b: Iterable[Tensor]) -> float:
    """The largest difference of any element."""
    return max(float((x.detach().double() - y.detach().double()).abs().max()) for x, y in zip(a, b, strict=True) if x.numel())
