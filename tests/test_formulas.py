"""Rules of which no trustworthy implementation is at hand, against their papers' formulas in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from optgen.generated.adabelief_solo import AdaBeliefSolo
from optgen.generated.adamw_bf16 import AdamWBF16
from optgen.generated.agd import AGD
from optgen.generated.nadam_dozat import NAdamDozat
from optgen.generated.stable_adam16 import StableAdam16
from optgen.reference import narrow
from tests.test_oracles import STEPS, gradients, parameters

Array = np.ndarray[Any, Any]
Rule = Callable[[Array, list[Array]], Array]
SHAPES = [(), (33,), (5, 7), (3, 129)]  # too small for codes


def agd(
    p: Array,
    grads: list[Array],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    delta: float = 1e-5,
    clip: float = 0.0,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
) -> Array:
    """AGD, arXiv 2312.01658, algorithm 1; corrected means are differenced."""
    lr, beta1, beta2 = 1e-2, *betas
    m, b, largest = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    corrected = np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        p = p - lr * weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        previous, corrected = corrected, m / (1 - beta1**t)
        s = corrected - previous if t > 1 else corrected
        b = beta2 * b + (1 - beta2) * s * s
        largest = np.maximum(largest, b)
        w = largest if amsgrad else b
        u = m / np.maximum(np.sqrt(w), delta * np.sqrt(1 - beta2**t))
        if clip:
            u = np.clip(u, -clip, clip)
        p = p - lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * u
    return p


def nadam_dozat(
    p: Array,
    grads: list[Array],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 1 / 250,
) -> Array:
    """Algorithm 8 of the NAdam report: m decays with the scheduled momentum, and n is corrected by its own decay."""
    lr, beta1, nu = 1e-2, *betas
    mu = [beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in range(STEPS + 2)]
    m, n = np.zeros_like(p), np.zeros_like(p)
    for t, loss_gradient in enumerate(grads, 1):
        g = loss_gradient + weight_decay * p
        m = mu[t] * m + (1 - mu[t]) * g
        n = nu * n + (1 - nu) * g * g
        g_hat = g / (1 - np.prod(mu[1 : t + 1]))
        m_hat = m / (1 - np.prod(mu[1 : t + 2]))
        p = p - lr * ((1 - mu[t]) * g_hat + mu[t + 1] * m_hat) / (np.sqrt(n / (1 - nu**t)) + eps)
    return p


def adabelief(p: Array, grads: list[Array]) -> Array:
    """AdaBelief with decoupled weight decay: the second moment is that of the surprise, g - m."""
    lr, beta1, beta2, eps, weight_decay = 1e-2, 0.8, 0.999, 1e-8, 1e-2
    m, s = np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        p = p * (1 - lr * weight_decay)
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m) ** 2
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(s / (1 - beta2**t)) + eps)
    return p


AGD_OPTIONS: dict[str, Any] = {"betas": (0.8, 0.95), "delta": 0.5, "clip": 0.5, "weight_decay": 0.1, "amsgrad": True}
NADAM_OPTIONS: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1, "momentum_decay": 0.1}
TABLE: list[tuple[Any, Rule, dict[str, Any]]] = [
    (AGD, agd, {}),
    (AGD, lambda p, g: agd(p, g, clip=0.5, weight_decay=0.1), {"clip": 0.5, "weight_decay": 0.1}),
    (AGD, lambda p, g: agd(p, g, amsgrad=True), {"amsgrad": True}),
    (AGD, lambda p, g: agd(p, g, **AGD_OPTIONS), AGD_OPTIONS),
    (AGD, lambda p, g: agd(p, [-x for x in g], **AGD_OPTIONS), {**AGD_OPTIONS, "maximize": True}),
    (NAdamDozat, nadam_dozat, {}),
    (NAdamDozat, lambda p, g: nadam_dozat(p, g, **NADAM_OPTIONS), NADAM_OPTIONS),
    (NAdamDozat, lambda p, g: nadam_dozat(p, [-x for x in g], **NADAM_OPTIONS), {**NADAM_OPTIONS, "maximize": True}),
    (AdaBeliefSolo, adabelief, {}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("ours", "formula", "options"), TABLE)
def test_equals_its_formula(ours: Any, formula: Rule, options: dict[str, Any], dtype: torch.dtype) -> None:
    params = parameters(dtype, SHAPES)
    start = [p.detach().double().numpy().copy() for p in params]
    optimizer = ours(params, lr=1e-2, **options)
    generator = torch.Generator().manual_seed(1)
    seen: list[list[Array]] = [[] for _ in params]
    for _ in range(STEPS):
        gradients(params, generator)
        for grads, p in zip(seen, params, strict=True):
            grads.append(p.grad.double().numpy().copy())
        optimizer.step()
    exact = 1.0 if dtype == torch.float32 else 1e-8
    for p, origin, grads in zip(params, start, seen, strict=True):
        expected = formula(origin, grads)
        allowed = exact * (1e-6 * np.abs(expected).max() + 1e-5 * STEPS * np.abs(expected - origin).max())
        assert np.abs(p.detach().double().numpy() - expected).max() <= allowed


def adam_step(g: Array, m: Array, v: Array, t: int, betas: tuple[float, float]) -> tuple[Array, Array, Array]:
    """The corrected m, and both moments."""
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    return m / (1 - betas[0] ** t), m, v


def test_adamw_bf16_is_adamw_with_states_cast_after_each_step() -> None:
    """DeepSeek-V3, section 3.3.3: arithmetic in float32, moments kept in bfloat16. From equal states, step by step."""
    params = parameters(torch.float32, [(33,), (64, 128)])
    optimizer = AdamWBF16(params, lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, STEPS + 1):
        before = [
            [p.detach().double().numpy().copy(), *(state(optimizer, p, key) for key in ("exp_avg", "exp_avg_sq"))]
            for p in params
        ]
        gradients(params, generator)
        optimizer.step()
        for p, (old, m, v) in zip(params, before, strict=True):
            corrected, new_m, new_v = adam_step(p.grad.double().numpy(), m, v, t, (0.9, 0.95))
            expected = old * (1 - 1e-2 * 0.1) - 1e-2 * corrected / (np.sqrt(new_v / (1 - 0.95**t)) + 1e-8)
            assert np.abs(p.detach().double().numpy() - expected).max() <= 1e-6 * np.abs(expected).max() + 1e-7
            for key, value in (("exp_avg", new_m), ("exp_avg_sq", new_v)):
                assert optimizer.state[p][key].dtype == torch.bfloat16
                wrong = state(optimizer, p, key) != narrow.nearest(value.astype(np.float32).astype(np.float64), "bfloat16")
                assert np.mean(wrong) < 2e-3


def state(optimizer: torch.optim.Optimizer, p: torch.Tensor, key: str) -> Array:
    """A state in float64; zeros before the first step."""
    value = optimizer.state[p].get(key, torch.zeros_like(p))
    return np.asarray(value.double().numpy().copy())


def test_stable_adam_never_divides_by_zero() -> None:
    """ArXiv 2307.16189: lr*m/sqrt(max(v, eps)); gradients of 1e-6 leave a float16 v of zero, and Adam would blow up."""
    p = torch.nn.Parameter(torch.ones(4096))
    optimizer = StableAdam16([p], lr=1e-2)
    for _ in range(5):
        p.grad = torch.full_like(p, 1e-6)
        optimizer.step()
    assert torch.count_nonzero(optimizer.state[p]["exp_avg_sq"]) == 0
    assert abs((1 - p.detach()).mean() - 5 * 1e-2 * 1e-6 / 1e-7**0.5) < 1e-5


def test_stable_adam_equals_its_formula() -> None:
    params = parameters(torch.float32, [(33,), (5, 7)])
    optimizer = StableAdam16(params, lr=1e-2, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, STEPS + 1):
        before = [
            [p.detach().double().numpy().copy(), *(state(optimizer, p, key) for key in ("exp_avg", "exp_avg_sq"))]
            for p in params
        ]
        gradients(params, generator)
        optimizer.step()
        for p, (old, m, v) in zip(params, before, strict=True):
            corrected, new_m, new_v = adam_step(p.grad.double().numpy() + 0.1 * old, m, v, t, (0.9, 0.999))
            expected = old - 1e-2 * corrected / np.sqrt(np.maximum(new_v / (1 - 0.999**t), 1e-7))
            assert np.abs(p.detach().double().numpy() - expected).max() <= 1e-6 * np.abs(expected).max() + 1e-7
            for key, value in (("exp_avg", new_m), ("exp_avg_sq", new_v)):
                assert optimizer.state[p][key].dtype == torch.float16
                assert (np.abs(state(optimizer, p, key) - value) <= 1.001 * narrow.unit(value, "float16")).all()
