"""Scales of rows and columns ("rank-1", Li, Chen and Zhu, arXiv 2309.01507, section 4.2): the paper's formulas, and edges."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optgen.generated.adamw_4bit_rank1 import AdamW4bitRank1
from optgen.ir.nodes import Storage
from optgen.runtime.torch_ops import unpack
from optgen.storage.codebooks import CODEBOOKS
from tests.test_oracles import STEPS, gradients, parameters

Array = np.ndarray[Any, Any]
SHAPES = [(64, 256), (40, 135), (3, 16, 130), (2, 3, 8, 128)]
LEVELS = (np.arange(16) + 1) / 16  # linear, without zero
DE4 = np.sort([0, 1, *(sign * x for sign in (-1, 1) for x in (0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875))])


def decoded(codes: Tensor, levels: Array, shape: tuple[int, ...]) -> Array:
    """The levels of 4-bit codes, without the padding of rows."""
    values = levels[unpack(codes, 4, 128).numpy().reshape(-1, codes.shape[-1] * 2)]
    return np.asarray(values[:, : shape[-1]].reshape(shape))


def rank1(x: Array) -> Array:
    """Of each element the smaller one of the largest of its row and that of its column."""
    size = np.abs(x)
    return np.minimum(size.max(axis=-1, keepdims=True), size.max(axis=-2, keepdims=True))


def moments(state: dict[str, Tensor], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Both moments as the paper reads them; zeros before the first step."""
    if not state:
        return np.zeros(shape), np.zeros(shape)
    blocks = -(-shape[-1] // 128)
    scale = state["exp_avg.scale"].double().numpy().reshape(-1, blocks).repeat(128, axis=1)[:, : shape[-1]].reshape(shape)
    v_scale = np.minimum(state["exp_avg_sq.row_scale"].double().numpy(), state["exp_avg_sq.col_scale"].double().numpy())
    return decoded(state["exp_avg.codes"], DE4, shape) * scale, decoded(state["exp_avg_sq.codes"], LEVELS, shape) * v_scale


def test_the_levels_are_those_of_the_codebooks() -> None:
    states = {state.name: state for state in AdamW4bitRank1.description.states}
    assert states["v"].codes is not None and states["v"].codes.scope == "rank1"
    assert states["v"].levels == "unsigned linear" and states["m"].levels == "signed dynamic_exponent"
    assert np.allclose(CODEBOOKS["linear"].levels(Storage("linear", 4, 128), True), LEVELS)
    assert np.allclose(CODEBOOKS["dynamic_exponent"].levels(Storage("dynamic_exponent", 4, 128), False), DE4)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_equals_the_paper(backend: str) -> None:
    """From equal states, step by step: parameters, scales to float32, and the nearest levels but for ties."""
    params = parameters(torch.float32, SHAPES)
    optimizer = AdamW4bitRank1(params, lr=1e-2, weight_decay=1e-2, backend=backend)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, STEPS + 1):
        gradients(params, generator)
        before = [(p.detach().double().numpy().copy(), moments(optimizer.state[p], p.shape)) for p in params]
        optimizer.step()
        for p, (old, stored) in zip(params, before, strict=True):
            g, state = p.grad.double().numpy(), optimizer.state[p]
            m, v = 0.9 * stored[0] + 0.1 * g, 0.999 * stored[1] + 0.001 * g * g
            expected = old * (1 - 1e-4) - 1e-2 * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            assert np.abs(p.detach().double().numpy() - expected).max() <= 1e-6 * np.abs(expected).max() + 1e-7
            assert np.allclose(state["exp_avg_sq.row_scale"].numpy(), v.max(axis=-1, keepdims=True), rtol=1e-6, atol=0)
            assert np.allclose(state["exp_avg_sq.col_scale"].numpy(), v.max(axis=-2, keepdims=True), rtol=1e-6, atol=0)
            quotient = np.divide(v, rank1(v), out=np.zeros_like(v), where=rank1(v) > 0)
            nearest = np.abs(quotient[..., None] - LEVELS).min(axis=-1)
            taken = np.abs(decoded(state["exp_avg_sq.codes"], LEVELS, p.shape) - quotient)
            assert (taken - nearest)[rank1(v) > 0].max() <= 1e-5  # the other side of a tie, at most


def test_an_outlier_stays_in_its_row_and_column() -> None:
    """What the paper is about: with blocks it takes the whole block's resolution."""
    p = torch.nn.Parameter(torch.zeros(64, 256))
    p.grad = torch.ones(64, 256)
    p.grad[5, 7] = 1e4
    optimizer = AdamW4bitRank1([p])
    optimizer.step()
    scale = torch.minimum(optimizer.state[p]["exp_avg_sq.row_scale"], optimizer.state[p]["exp_avg_sq.col_scale"])
    away = torch.ones(64, 256, dtype=torch.bool)
    away[5], away[:, 7] = False, False
    assert torch.allclose(scale[away], torch.tensor(1e-3)) and torch.allclose(scale[5, 8], torch.tensor(1e-3))
    assert torch.allclose(scale[5, 7], torch.tensor(1e5))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_value_that_is_not_finite_does_not_reach_others(backend: str) -> None:
    params = [torch.nn.Parameter(torch.zeros(64, 256)) for _ in range(2)]
    for p in params:
        p.grad = torch.linspace(-1, 1, 64 * 256).view(64, 256)
    params[0].grad[3, 4], params[0].grad[9, 200] = float("nan"), float("inf")
    params[1].grad[3, 4] = params[1].grad[9, 200] = 0
    optimizer = AdamW4bitRank1(params, backend=backend)
    for _ in range(3):
        optimizer.step()
    touched = torch.zeros(64, 256, dtype=torch.bool)
    touched[3, 4] = touched[9, 200] = True
    assert torch.equal(params[0][~touched], params[1][~touched])


def test_rows_and_columns_of_zeros_stay_where_they_are() -> None:
    p = torch.nn.Parameter(torch.ones(64, 256))
    p.grad = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    p.grad[4], p.grad[:, 9] = 0, 0
    optimizer = AdamW4bitRank1([p], weight_decay=0.0)
    for _ in range(5):
        optimizer.step()
    assert bool((p[4] == 1).all()) and bool((p[:, 9] == 1).all()) and bool(torch.isfinite(p).all())


def test_narrow_and_flat_parameters_keep_float32() -> None:
    params = [torch.nn.Parameter(torch.zeros(*shape)) for shape in ((9000,), (100, 64), (64, 128))]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer = AdamW4bitRank1(params)
    optimizer.step()
    kept = [{key: tensor.shape for key, tensor in optimizer.state[p].items() if key.startswith("exp_avg_sq")} for p in params]
    assert kept[0] == {"exp_avg_sq": (9000,)} and kept[1] == {"exp_avg_sq": (100, 64)}
    assert kept[2]["exp_avg_sq.row_scale"] == (64, 1) and kept[2]["exp_avg_sq.col_scale"] == (1, 128)
    assert "rows of 64 elements < 128" in optimizer.explain()


def test_other_codebooks_and_mixed_states(generate: Callable[[str], ModuleType]) -> None:
    """Signed states too; log levels, which need a quantile of a block, are refused by the checker (bad_specs)."""
    module = generate("""
        name: Ranked
        summary: A momentum with scales of rows and columns.
        hyper: {lr: {default: 1e-2}}
        state: {m: {like: p, storage: {codebook: linear, bits: 8, block: rank1, zero: true}}}
        update: |
          m = ema(m, g, 0.9)
          p = p - lr*m
        """)
    p = torch.nn.Parameter(torch.zeros(32, 200))
    optimizer = module.Ranked([p])
    generator = torch.Generator().manual_seed(0)
    exact = torch.zeros(32, 200)
    for _ in range(4):
        p.grad = torch.randn(32, 200, generator=generator)
        exact = 0.9 * exact + 0.1 * p.grad
        optimizer.step()
    state = optimizer.state[p]
    scale = torch.minimum(state["m.row_scale"], state["m.col_scale"])
    codes = unpack(state["m.codes"], 8, 128).view(32, -1)[:, :200]
    levels = torch.tensor(CODEBOOKS["linear"].levels(Storage("linear", 8, 128, zero=True), False))
    assert float((levels[codes.long()] * scale - exact).abs().max()) < 0.02 * float(exact.abs().max())
