"""Rules with rows, columns and norms against implementations that others wrote, and against their papers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytorch_optimizer
import torch
import torch_optimizer
from torch import Tensor

from optgen.generated.adafactor import Adafactor
from optgen.generated.adafactor_paper import AdafactorPaper
from optgen.generated.adalomo import AdaLomo
from optgen.generated.adamw_4bit_factor import AdamW4bitFactor
from optgen.generated.lomo import LOMO
from optgen.generated.sm3 import SM3
from tests.test_oracles import SHAPES, STEPS, compare, gradients, parameters

PAPER = torch_optimizer.Adafactor
FULL = [shape for shape in SHAPES if shape != (0, 4)]  # others divide by the number of elements
FLAT = [shape for shape in FULL if len(shape) <= 2]  # others have a number for each axis of a stack
SMALL = (1e-7, 1e-3)
BACKENDS = ["torch", "cpp"]

TABLE: list[tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = [
    (Adafactor, torch.optim.Adafactor, {"eps": SMALL}),
    (Adafactor, torch.optim.Adafactor, {"eps": (1e-12, 1e-2), "lr": 0.1, "beta2_decay": -0.5, "weight_decay": 0.1}),
    (Adafactor, torch.optim.Adafactor, {"eps": SMALL, "d": 2.0, "maximize": True}),
    (AdafactorPaper, partial(pytorch_optimizer.AdaFactor, betas=(None, 0.999)), {}),
    (AdafactorPaper, PAPER, {}),
    (AdafactorPaper, PAPER, {"beta1": 0.9, "weight_decay": 0.1, "clip_threshold": 0.5}),
    (AdafactorPaper, PAPER, {"warmup_init": True, "decay_rate": -0.5}),
    (AdafactorPaper, PAPER, {"lr": 1e-2, "relative_step": False, "scale_parameter": False, "beta1": 0.5}),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("ours", "theirs", "options"), TABLE, ids=lambda x: getattr(x, "__name__", str(x)))
def test_equals_its_oracle(ours: Any, theirs: Any, options: dict[str, Any], dtype: torch.dtype, backend: str) -> None:
    shapes = FLAT if theirs is PAPER else FULL  # this one mixes up the matrices of a stack
    compare(partial(ours, backend=backend), theirs, options, parameters(dtype, shapes), parameters(dtype, shapes))


def run(optimizer: Any, params: list[Tensor], *, steps: int = STEPS) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        gradients(params, generator)
        optimizer.step()


def near(mine: list[Tensor], other: list[Tensor], dtype: torch.dtype, start: list[Tensor]) -> None:
    """As test_oracles.py has it, of what was moved from the start."""
    for p, q, old in zip(mine, other, start, strict=True):
        exact = 1.0 if dtype == torch.float32 else 1e-9
        assert (p - q).abs().max() <= exact * (1e-6 * q.abs().max() + 1e-5 * max((q - old).abs().max(), q.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "lr": 0.05}, {"maximize": True, "eps": 1e-8}], ids=str)
def test_sm3_equals_pytorch_optimizer(options: dict[str, Any], backend: str, dtype: torch.dtype) -> None:
    mine, other = parameters(dtype, FLAT), parameters(dtype, FLAT)
    start = [p.detach().clone() for p in mine]
    run(SM3(mine, backend=backend, **options), mine)
    run(pytorch_optimizer.SM3(other, foreach=False, **options), other)
    near(mine, other, dtype, start)


def sm3(p: np.ndarray, grads: list[np.ndarray], variant: str) -> np.ndarray:
    """Algorithms SM3-I and SM3-II of the paper by loops over rows and columns, for one matrix."""
    rows, cols = np.zeros(p.shape[0]), np.zeros(p.shape[1])
    for g in grads:
        size = np.zeros(p.shape)
        if variant == "first":
            rows = rows + np.array([max(x * x for x in row) for row in g])
            cols = cols + np.array([max(x * x for x in col) for col in g.T])
        for i, j in np.ndindex(*p.shape):
            size[i, j] = min(rows[i], cols[j]) + (g[i, j] ** 2 if variant == "second" else 0)
        if variant == "second":
            rows, cols = size.max(axis=1), size.max(axis=0)
        p = p - 0.1 * np.divide(g, np.sqrt(size + 1e-30))
    return p


@pytest.mark.parametrize("variant", ["first", "second"])
def test_sm3_equals_the_paper(variant: str) -> None:
    """A stack is as many matrices as it holds."""
    shape = (3, 6, 130)
    (p,) = parameters(torch.float64, [shape])
    start = p.detach().numpy().copy()
    optimizer = SM3([p], variant=variant)
    generator, grads = torch.Generator().manual_seed(1), []
    for _ in range(5):
        gradients([p], generator)
        grads.append(p.grad.numpy().copy())
        optimizer.step()
    expected = np.stack([sm3(start[i], [g[i] for g in grads], variant) for i in range(3)])
    assert np.allclose(p.detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert optimizer.state[p]["row_accumulator"].shape == (3, 6, 1)


def test_sm3_bounds_adagrad() -> None:
    """Proposition 2: the sum of squares <= the bound of SM3-II <= that of SM3-I, element by element."""
    (p,) = parameters(torch.float64, [(20, 150)])
    optimizers = {variant: SM3([p], variant=variant, lr=0.0) for variant in ("first", "second")}
    generator, total = torch.Generator().manual_seed(1), torch.zeros(20, 150, dtype=torch.float64)
    for _ in range(10):
        gradients([p], generator)
        total += p.grad**2
        for optimizer in optimizers.values():
            optimizer.step()
    states = {variant: optimizer.state[p] for variant, optimizer in optimizers.items()}
    bound = {name: torch.minimum(state["row_accumulator"], state["col_accumulator"]) for name, state in states.items()}
    assert bool((total <= bound["second"] + 1e-12).all()) and bool((bound["second"] <= bound["first"] + 1e-12).all())


class Given(torch.nn.Module):
    """Parameters whose gradients are what one says."""

    def __init__(self, params: list[Tensor]) -> None:
        super().__init__()
        self.params = torch.nn.ParameterList(params)

    def loss(self, grads: list[Tensor]) -> Tensor:
        return torch.stack([(p * g).sum() for p, g in zip(self.params, grads, strict=True)]).sum()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (LOMO, pytorch_optimizer.LOMO, {}),
        (LOMO, pytorch_optimizer.LOMO, {"clip_grad_value": 0.1}),
        (AdaLomo, pytorch_optimizer.AdaLOMO, {"loss_scale": 0.0}),
        (AdaLomo, pytorch_optimizer.AdaLOMO, {"loss_scale": 0.0, "weight_decay": 0.1, "clip_threshold": 0.5}),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_lomo_without_its_hooks(ours: Any, theirs: Any, options: dict[str, Any], backend: str) -> None:
    """The rules alone: theirs runs inside of backward, ours as a step behind it."""
    shapes = [(33,), (5, 7), (64, 128), (3, 129)]
    mine, other = parameters(torch.float32, shapes), parameters(torch.float32, shapes)
    start, model = [p.detach().clone() for p in mine], Given(other)
    optimizer = ours(mine, lr=1e-2, backend=backend, **{k: v for k, v in options.items() if k != "loss_scale"})
    fused = theirs(model, lr=1e-2, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        gradients(mine, generator)
        fused.fused_backward(model.loss([p.grad for p in mine]), lr=1e-2)
        optimizer.step()
    near(mine, other, torch.float32, start)


@pytest.mark.parametrize("backend", BACKENDS)
def test_factored_adamw_equals_its_formula(backend: str) -> None:
    """LPMM's "4-bit Factor" with m in float32: v is the outer product of its means over that of the rows."""
    shapes = [(5, 7), (64, 128), (2, 8, 130)]
    params = parameters(torch.float64, shapes)
    expected = [p.detach().numpy().copy() for p in params]
    optimizer = AdamW4bitFactor(params, lr=1e-2, storage="float32", backend=backend)
    generator = torch.Generator().manual_seed(1)
    m, r, c = ([np.zeros(1) for _ in params] for _ in range(3))
    for t in range(1, STEPS + 1):
        gradients(params, generator)
        optimizer.step()
        for i, p in enumerate(params):
            g = p.grad.numpy()
            m[i] = 0.9 * m[i] + 0.1 * g
            r[i] = 0.999 * r[i] + 0.001 * (g * g).mean(axis=-1, keepdims=True)
            c[i] = 0.999 * c[i] + 0.001 * (g * g).mean(axis=-2, keepdims=True)
            rows = r[i].mean(axis=-2, keepdims=True)
            v = np.divide(r[i], rows, out=np.zeros_like(r[i]), where=rows > 0) * c[i]
            step = m[i] / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            expected[i] = expected[i] * (1 - 1e-2 * 1e-2) - 1e-2 * step
    for p, q in zip(params, expected, strict=True):
        assert np.allclose(p.detach().numpy(), q, rtol=1e-11, atol=1e-11)


def test_what_each_parameter_of_adafactor_keeps() -> None:
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in ((), (9,), (4, 6), (2, 3, 4, 6))]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = Adafactor(params)
    optimizer.step()
    kept = [{key: tuple(tensor.shape) for key, tensor in optimizer.state[p].items() if key != "step"} for p in params]
    assert kept[:2] == [{"variance": ()}, {"variance": (9,)}]
    assert kept[2] == {"row_var": (4, 1), "col_var": (1, 6)}
    assert kept[3] == {"row_var": (2, 3, 4, 1), "col_var": (2, 3, 1, 6)}
    theirs = torch.optim.Adafactor(params, eps=SMALL)
    theirs.step()
    optimizer.load_state_dict(theirs.state_dict())
    assert torch.equal(optimizer.state[params[3]]["col_var"], theirs.state[params[3]]["col_var"])
