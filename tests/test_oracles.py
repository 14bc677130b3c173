"""Every shipped spec against an implementation that others wrote: torch.optim, published packages, papers' formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import lion_pytorch
import numpy as np
import pytest
import pytorch_optimizer
import torch
import torch_optimizer
import torchao.optim
from torch import Tensor
from torchao.optim.quant_utils import create_dynamic_map

from optgen.generated.adadelta import Adadelta
from optgen.generated.adagrad import Adagrad
from optgen.generated.adam import Adam
from optgen.generated.adamax import Adamax
from optgen.generated.adamw import AdamW
from optgen.generated.adamw_flash import AdamWFlash
from optgen.generated.lamb import LAMB
from optgen.generated.lion import Lion
from optgen.generated.nadam import NAdam
from optgen.generated.novograd import NovoGrad
from optgen.generated.rmsprop import RMSprop
from optgen.generated.sgd import SGD
from optgen.generated.sgdw import SGDW
from optgen.generated.signsgd import SignSGD
from optgen.generated.signum import Signum
from optgen.generated.solo import Solo
from optgen.reference import packing
from optgen.runtime.layout import Codes
from optgen.runtime.torch_ops import pack, unpack
from tests import solo_oracle

STEPS = 20
SHAPES = [(), (1,), (33,), (5, 7), (64, 128), (3, 129), (40, 135), (7, 1000), (2, 3, 5, 7), (8, 16, 6, 6), (0, 4)]
LAMB_OF_OTHERS = partial(torch_optimizer.Lamb, clamp_value=math.inf)  # without bias correction, as the paper's third version
FLOAT32_SCALARS = {NAdam: 1e-3, NovoGrad: 1e-2}  # whose oracles keep one number in float32; how near they come in float64

TABLE: list[tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = [
    (SGD, torch.optim.SGD, {"lr": 0.1}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    (AdamW, torch.optim.AdamW, {}),
    (AdamW, torch.optim.AdamW, {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    (AdamW, torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True}),
    (AdamW, torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True, "maximize": True}),
    (Adam, torch.optim.Adam, {}),
    (Adam, torch.optim.Adam, {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    (Adam, torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    (Adagrad, torch.optim.Adagrad, {}),
    (Adagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
    (Adagrad, torch.optim.Adagrad, {"eps": 1e-3, "maximize": True}),
    (Adadelta, torch.optim.Adadelta, {}),
    (Adadelta, torch.optim.Adadelta, {"lr": 0.5, "rho": 0.95, "eps": 1e-4, "weight_decay": 0.1, "maximize": True}),
    (RMSprop, torch.optim.RMSprop, {}),
    (RMSprop, torch.optim.RMSprop, {"lr": 1e-3, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1, "momentum": 0.9}),
    (RMSprop, torch.optim.RMSprop, {"lr": 1e-3, "alpha": 0.9, "eps": 1e-2, "momentum": 0.9, "centered": True}),
    (RMSprop, torch.optim.RMSprop, {"lr": 1e-3, "weight_decay": 0.1, "centered": True, "maximize": True}),
    (Adamax, torch.optim.Adamax, {}),
    (Adamax, torch.optim.Adamax, {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    (NAdam, torch.optim.NAdam, {}),
    (NAdam, torch.optim.NAdam, {"lr": 1e-2, "betas": (0.8, 0.95), "weight_decay": 0.1, "momentum_decay": 0.1}),
    (NAdam, torch.optim.NAdam, {"lr": 1e-2, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    (SGDW, partial(pytorch_optimizer.SGDW, lr=1e-3, momentum=0.9, weight_decay=1e-2), {}),
    (SGDW, pytorch_optimizer.SGDW, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    (SGDW, pytorch_optimizer.SGDW, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "maximize": True}),
    (SGDW, pytorch_optimizer.SGDW, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    (SignSGD, partial(pytorch_optimizer.SignSGD, momentum=0.0), {"lr": 1e-3}),
    (SignSGD, partial(pytorch_optimizer.SignSGD, momentum=0.0), {"lr": 1e-3, "weight_decay": 0.1, "maximize": True}),
    (Signum, pytorch_optimizer.SignSGD, {"lr": 1e-3}),
    (Signum, pytorch_optimizer.SignSGD, {"lr": 1e-3, "momentum": 0.8, "weight_decay": 0.1}),
    (partial(LAMB, bias_correction=False), LAMB_OF_OTHERS, {"lr": 1e-2, "weight_decay": 0.0}),
    (partial(LAMB, bias_correction=False), LAMB_OF_OTHERS, {"betas": (0.8, 0.95), "weight_decay": 0.1}),
    (NovoGrad, torch_optimizer.NovoGrad, {"lr": 1e-2, "betas": (0.95, 0.98)}),
    (NovoGrad, torch_optimizer.NovoGrad, {"lr": 1e-2, "betas": (0.9, 0.5), "weight_decay": 0.1, "amsgrad": True}),
    (NovoGrad, torch_optimizer.NovoGrad, {"lr": 0.1, "betas": (0.9, 0.5), "weight_decay": 0.1, "grad_averaging": True}),
    (Lion, lion_pytorch.Lion, {"lr": 1e-3}),
    (Lion, lion_pytorch.Lion, {"lr": 1e-3, "betas": (0.95, 0.98), "weight_decay": 0.1}),
]


def parameters(dtype: torch.dtype, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def gradients(params: list[Tensor], generator: torch.Generator) -> None:
    """Gradients of very different sizes, one row of exact zeros."""
    for p in params:
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        g *= torch.randn(p.shape, generator=generator, dtype=torch.float64).exp()
        if p.dim() > 1 and p.numel():
            g[0] = 0
        p.grad = g.to(p.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("ours", "theirs", "options"), TABLE, ids=lambda x: getattr(x, "__name__", str(x)))
def test_equals_its_oracle(ours: Any, theirs: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    compare(ours, theirs, options, parameters(dtype), parameters(dtype))


def compare(ours: Any, theirs: Any, options: dict[str, Any], mine: list[Tensor], other: list[Tensor]) -> None:
    """Twenty steps of both on equal parameters and gradients."""
    dtype = mine[0].dtype
    start = [p.detach().clone() for p in mine]
    optimizers = ours(mine, **options), theirs(other, **options)
    generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    moved = [torch.zeros_like(p) for p in mine]
    for _ in range(STEPS):
        before = [p.detach().clone() for p in other]
        for params, generator, optimizer in zip((mine, other), generators, optimizers, strict=True):
            gradients(params, generator)
            optimizer.step()
        moved = [total + (p - old).abs() for total, p, old in zip(moved, other, before, strict=True)]
    exact = 1.0 if dtype == torch.float32 else FLOAT32_SCALARS.get(ours, 1e-9)
    for p, q, origin, distance in zip(mine, other, start, moved, strict=True):
        if p.numel():
            allowed = exact * (1e-6 * max(origin.abs().max(), q.abs().max()) + 1e-5 * distance.max())
            assert (p - q).abs().max() <= allowed


def test_lion_ignores_only_signs_of_nothing() -> None:
    """Lion's update is a sign: one flipped near zero moves by 2 lr. None is, on these gradients."""
    mine, other = parameters(torch.float32), parameters(torch.float32)
    ours, theirs = Lion(mine, lr=1e-3), lion_pytorch.Lion(other, lr=1e-3)
    generators = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        gradients(mine, generators[0])
        gradients(other, generators[1])
        ours.step()
        theirs.step()
    flipped = sum(int(((p - q).abs() > 1e-3).sum()) for p, q in zip(mine, other, strict=True))
    assert flipped == 0


def test_lion_8bit_equals_its_formula(generate: Callable[[str], ModuleType]) -> None:
    """Step by step from equal states, with torchao's levels: the same parameters, and codes but for ties."""
    module = generate("""
        name: Published
        summary: Lion8bit for every matrix, with the published scale.
        extends: lion_8bit
        state:
          m: {storage: {min_size: 0, published: true}}
        """)
    levels = np.array(create_dynamic_map(signed=True), dtype=np.float32).astype(np.float64)
    params = parameters(torch.float32, [(64, 256), (16, 512), (8, 4, 64)])
    optimizer = module.Published(params, lr=1e-3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    different = total = 0
    for t in range(1, STEPS + 1):
        gradients(params, generator)
        before = [(p.detach().double().numpy().copy(), lion_state(optimizer.state[p], p, levels, t)) for p in params]
        optimizer.step()
        for p, (old, m) in zip(params, before, strict=True):
            g = p.grad.double().numpy()
            mixed = 0.9 * m + 0.1 * g
            expected = old * (1 - 1e-3 * 0.1) - 1e-3 * np.sign(mixed)
            clear = (mixed == 0) | (np.abs(mixed) > 1e-7 * np.abs(mixed).max())  # float32 may cancel to the other sign
            assert np.abs(p.detach().double().numpy() - expected)[clear].max() <= 1e-6 * np.abs(expected).max() + 1e-8
            blocks = (0.99 * m + 0.01 * g).reshape(-1, 256)
            scale = np.maximum(np.abs(blocks).max(axis=1, keepdims=True), 1e-12)
            assert optimizer.state[p]["exp_avg.scale"].numpy().reshape(-1, 1) == pytest.approx(scale, rel=1e-6)
            codes = unpack(optimizer.state[p]["exp_avg.codes"], 8, 256).numpy().reshape(-1, 256)
            apart = np.abs(codes - np.abs((blocks / scale)[..., None] - levels).argmin(axis=-1))
            assert apart.max() <= 1
            different, total = different + int(np.count_nonzero(apart)), total + apart.size
    assert different <= 1e-4 * total


def lion_state(state: dict[str, Tensor], p: Tensor, levels: np.ndarray, t: int) -> np.ndarray:
    """The momentum as torchao's levels decode it; zeros before the first step."""
    if t == 1:
        return np.zeros(p.shape)
    codes = unpack(state["exp_avg.codes"], 8, 256).numpy().reshape(-1, 256)
    return (levels[codes] * state["exp_avg.scale"].double().numpy().reshape(-1, 1)).reshape(p.shape)


def test_adamw_flash_equals_its_formula() -> None:
    """FlashOptim's own terms in float64: int8 of the companded quotient, uint8 of the square roots, from equal states."""
    params = parameters(torch.float32, [(64, 256), (8, 4, 64), (3, 33)])
    optimizer = AdamWFlash(params, lr=1e-3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    different = total = 0
    for t in range(1, STEPS + 1):
        gradients(params, generator)
        before = [(p.detach().double().numpy().copy(), flash_state(optimizer.state[p], p, t)) for p in params]
        optimizer.step()
        for p, (old, stored) in zip(params, before, strict=True):
            g = p.grad.double().numpy()
            m, v = 0.9 * stored[0] + 0.1 * g, 0.999 * stored[1] + 0.001 * g * g
            denominator = np.sqrt(v) / math.sqrt(1 - 0.999**t) + 1e-8
            expected = old * (1 - 1e-4) - 1e-3 * m / (1 - 0.9**t) / denominator
            assert np.abs(p.detach().double().numpy() - expected).max() <= 1e-6 * np.abs(expected).max() + 1e-8
            for key, value in (("exp_avg", m), ("exp_avg_sq", np.sqrt(v))):
                blocks = flash_blocks(value)
                scale = np.abs(blocks).max(axis=-1, keepdims=True)
                quotient = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale > 0)
                exact = 255 * quotient if key == "exp_avg_sq" else 127 + 254 * quotient / (1 + np.abs(quotient))
                codes = unpack(optimizer.state[p][f"{key}.codes"], 8, 32).numpy().reshape(exact.shape)
                apart = np.abs(codes - exact)
                assert apart.max() <= 0.5 + 1e-3
                different, total = different + int(np.count_nonzero(codes != np.floor(exact + 0.5))), total + apart.size
    assert different <= 1e-3 * total  # halves: FlashOptim rounds them up, and float32 decides some


def flash_blocks(x: np.ndarray) -> np.ndarray:
    """Groups of 32 along rows, the last one padded with zeros."""
    rows = x.reshape(-1, x.shape[-1])
    return np.pad(rows, ((0, 0), (0, -rows.shape[-1] % 32))).reshape(-1, 32)


def flash_state(state: dict[str, Tensor], p: Tensor, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Both moments as FlashOptim decodes its integers; zeros before the first step."""
    if t == 1:
        return np.zeros(p.shape), np.zeros(p.shape)
    m, v = (unpack(state[f"{key}.codes"], 8, 32).double().numpy().reshape(-1, 32) for key in ("exp_avg", "exp_avg_sq"))
    scales = [state[f"{key}.scale"].double().numpy().reshape(-1, 1) for key in ("exp_avg", "exp_avg_sq")]
    companded = (m - 127) / 127
    values = (companded / (2 - np.abs(companded)) * scales[0], (v / 255) ** 2 * scales[1])
    first, second = (value.reshape(p.numel() // p.shape[-1], -1)[:, : p.shape[-1]].reshape(p.shape) for value in values)
    return first, second


def nibbles(codes: Tensor) -> Tensor:
    """Torchao's 4-bit codes, the first of two in the high half."""
    return torch.stack([codes >> 4, codes & 15], dim=-1).view(-1)


@pytest.mark.parametrize(
    ("parent", "peer", "bits", "block"),
    [("adamw_8bit", torchao.optim.AdamW8bit, 8, 256), ("adamw_4bit", torchao.optim.AdamW4bit, 4, 128)],
)
def test_low_bit_adamw_equals_torchao(
    parent: str, peer: Any, bits: int, block: int, generate: Callable[[str], ModuleType]
) -> None:
    """From equal states, with the published scale: the same codes but for ties, and the same parameters."""
    module = generate(f"""
        name: Published
        summary: AdamW in few bits with the published scale.
        extends: {parent}
        state:
          m: {{storage: {{published: true}}}}
          v: {{storage: {{published: true}}}}
        """)
    shapes = [(64, 256), (32, 512), (16, 8, 64)]
    mine, other = parameters(torch.float32, shapes), parameters(torch.float32, shapes)
    ours = module.Published(mine, lr=1e-2, weight_decay=1e-2)
    theirs = peer(other, lr=1e-2, weight_decay=1e-2, block_size=block)
    generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    different = total = 0
    for _ in range(STEPS):
        before = [p.detach().clone() for p in other]
        gradients(mine, generators[0])
        gradients(other, generators[1])
        ours.step()
        with torch.compiler.set_stance("force_eager"):  # theirs would be compiled by Inductor, for half a minute
            theirs.step()
        for p, q, old in zip(mine, other, before, strict=True):
            assert (p - q).abs().max() <= 1e-6 * q.abs().max() + 1e-5 * (q - old).abs().max()
            for key in ("exp_avg", "exp_avg_sq"):
                state, quantized = ours.state[p], theirs.state[q][key]
                codes = unpack(state[f"{key}.codes"], bits, block).view(-1)
                expected = (quantized.codes.view(-1) if bits == 8 else nibbles(quantized.codes)).int()
                apart = (codes - expected).abs()
                different, total = different + int((apart > 0).sum()), total + apart.numel()
                assert apart.max() <= 1
                assert torch.allclose(state[f"{key}.scale"].view(-1), quantized.scale.view(-1), rtol=1e-6)
                packed = pack(expected.view(1, -1, block), bits)
                state[f"{key}.codes"].copy_(packed.view_as(state[f"{key}.codes"]))
                state[f"{key}.scale"].copy_(quantized.scale.view_as(state[f"{key}.scale"]))
            p.data.copy_(q)
    assert different <= 1e-4 * total


@pytest.mark.parametrize(
    ("parent", "bits", "beta1", "published"),
    [
        ("solo", (4, 2), 0.8, False),
        ("solo", (4, 2), 0.8, True),
        ("solo_2bit", (2, 2), 0.5, False),
        ("solo_3bit", (3, 3), 0.7, False),
        ("adabelief_solo", (4, 2), 0.8, False),
    ],
)
def test_solo_equals_the_paper(
    parent: str, bits: tuple[int, int], beta1: float, published: bool, generate: Callable[[str], ModuleType]
) -> None:
    """Step by step from equal states: parameters within the tolerance, codes equal but next to a border."""
    options = "published: true, " if published else ""
    module = generate(f"""
        name: Checked
        summary: Solo for every matrix.
        extends: {parent}
        state:
          m: {{storage: {{{options}min_size: 0}}}}
          v: {{storage: {{{options}min_size: 0}}}}
        """)
    params = parameters(torch.float32, [(64, 128), (16, 384), *([] if published else [(40, 135), (7, 1000), (8, 16, 6, 6)])])
    hyper = {"lr": 1e-2, "beta1": beta1, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-2}
    hyper["center"] = float(parent == "adabelief_solo")
    optimizer = module.Checked(params, lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, STEPS + 1):
        gradients(params, generator)
        before = [
            (p.detach().double().numpy().copy(), solo_state(optimizer.state[p], p, bits) if t > 1 else None) for p in params
        ]
        optimizer.step()
        for p, (old, state) in zip(params, before, strict=True):
            check_solo_step(optimizer, p, old, state, t, hyper, bits, published)


def solo_state(state: dict[str, Tensor], p: Tensor, bits: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The averages m and v as the oracle decodes them."""
    arrays = {key: value.double().numpy() for key, value in state.items() if key.endswith(("scale", "base"))}
    scalars = {key: value.reshape(-1, value.shape[-1], 1) for key, value in arrays.items()}
    m_codes = packing.unpack(state["exp_avg.codes"].numpy(), bits[0], 128)
    v_codes = packing.unpack(state["exp_avg_sq.codes"].numpy(), bits[1], 128)
    m = solo_oracle.decode_m(m_codes, scalars["exp_avg.scale"], bits[0])
    v = solo_oracle.decode_v(v_codes, scalars["exp_avg_sq.scale"], scalars["exp_avg_sq.base"])
    like = p.detach().numpy()
    return solo_oracle.elements_of(m, like), solo_oracle.elements_of(v, like)


def check_solo_step(
    optimizer: Any,
    p: Tensor,
    old: np.ndarray,
    state: Any,
    t: int,
    hyper: dict[str, float],
    bits: tuple[int, int],
    published: bool,
) -> None:
    assert p.grad is not None
    m, v = state if state is not None else (np.zeros_like(old), np.zeros_like(old))
    expected, m, v = solo_oracle.step(old, p.grad.double().numpy(), m, v, t, hyper)
    got = p.detach().double().numpy()
    assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max() + 1e-5 * np.abs(expected - old).max()

    kept = optimizer.state[p]
    codes, scale, near = solo_oracle.encode_m(solo_oracle.blocks_of(m), bits[0], published)
    ours = packing.unpack(kept["exp_avg.codes"].numpy(), bits[0], 128)
    assert kept["exp_avg.scale"].numpy().reshape(scale.shape) == pytest.approx(scale, rel=1e-6, abs=1e-30)
    assert np.all((ours == codes) | near)
    assert np.mean(near) < 0.01

    words = packing.step_words(int(kept["rounding_key"]) % 2**64, t)
    u = packing.random_bits(words, old.shape, Codes(2, 128, ()), 1) / 2**16
    codes, scale, base, near = solo_oracle.encode_v(solo_oracle.blocks_of(v), u, bits[1], published)
    ours = packing.unpack(kept["exp_avg_sq.codes"].numpy(), bits[1], 128)
    assert kept["exp_avg_sq.scale"].numpy().reshape(scale.shape) == pytest.approx(scale, rel=1e-6, abs=1e-30)
    sparse = published & (np.quantile(solo_oracle.blocks_of(v), 0.1, axis=-1, keepdims=True) <= 0)
    assert kept["exp_avg_sq.base"].numpy().reshape(base.shape) == pytest.approx(np.where(sparse, 0, base), rel=2e-6, abs=1e-30)
    assert np.all((ours == codes) | near | sparse)
    assert np.mean(near[(base < 1)[..., 0]]) < 0.002


def test_coupled_beta1_is_the_papers_rule() -> None:
    """beta1/(1 - beta1) times the codebook's half gap stays what it is at 5 or 8 bits (the paper's table: 0.820, 0.350)."""
    for choice, printed in (("none", 0.9), ("from_5_bits", 0.820), ("from_8_bits", 0.350)):
        p = torch.nn.Parameter(torch.zeros(64, 128))
        p.grad = torch.ones(64, 128)
        optimizer = Solo([p], betas=(0.9, 0.999), couple_beta1=choice)  # type: ignore[arg-type]
        optimizer.step()
        used = 1 - float(optimizer.state[p]["exp_avg.scale"][0, 0])  # the first m is (1 - beta1)*g
        assert used == pytest.approx(printed, abs=0.013)
        small = torch.nn.Parameter(torch.zeros(7))
        small.grad = torch.ones(7)
        Solo([small], betas=(0.9, 0.999), couple_beta1=choice).step()  # type: ignore[arg-type]
