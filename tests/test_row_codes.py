"""States of rows, columns and matrices in few bits: equal to the reference in every backend, and in float64 but for the codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optgen.build import build
from optgen.diagnostics import SpecError
from optgen.generated.adafactor_solo import AdafactorSolo
from optgen.reference import packing
from optgen.runtime.layout import Codes
from tests import solo_oracle
from tests.conftest import SHIPPED, interpreted
from tests.test_oracles import STEPS, gradients
from tests.test_rows import (
    COL,
    HEAD,
    MATRIX,
    ROW,
    equal_the_reference,
    neighbours_change_nothing,
    optimizer_class,
    parameters,
    stepped,
)

AVERAGES = """
state:
  r: {{shape: {ROW}, sign: unsigned, storage: {storage}}}
  c: {{shape: {COL}, sign: unsigned, storage: {storage}}}
update: |
  r = ema(r, mean(g**2 + 1e-30, over=cols), 0.9)
  c = ema(c, mean(g**2 + 1e-30, over=rows), 0.9)
  p = p - 0.01*g*rsqrt(r/mean(r, over=rows) + 0.01)*rsqrt(c + 0.01)
"""
OLD = """
hyper:
  flag: {{default: false}}
state:
  r: {{shape: {ROW}, sign: unsigned, storage: {storage}}}
  c: {{shape: {COL}, sign: unsigned, storage: {storage}, when: flag}}
  k: {{shape: {MATRIX}, sign: unsigned, storage: {storage}}}
  m: {{like: p, storage: {{codebook: linear, bits: 8, block: 64, min_size: 0}}}}
update: |
  v = r + g**2/(1 + g**2)
  if flag:
    v = min(r, c) + g**2/(1 + g**2)
  old = r
  late = r/(1 + mean(max(v, over=cols), over=rows))
  r = 0.5*max(v, over=cols)
  if flag:
    c = 0.5*max(v, over=rows)
  k = ema(k, mean(r + old, over=rows), 0.5)
  m = ema(m, g/(1 + abs(g)), 0.9)
  p = p - 0.01*(m/(1 + v) + (old + late)/(1 + k))
"""
RULES = {"averages": AVERAGES, "old": OLD}
STORAGES = {
    "linear8": "{codebook: linear, bits: 8, block: 32, min_size: 0}",
    "dynamic4": "{codebook: dynamic_exponent, bits: 4, block: 128, min_size: 0}",
    "power3": "{codebook: power, power: 2, bits: 3, block: 64, min_size: 0, rounding: stochastic}",
    "log2": "{codebook: log, quantile: 0.1, bits: 2, block: 32, min_size: 0, rounding: stochastic}",
    "linear1": "{codebook: linear, zero: true, bits: 1, block: 32, min_size: 0}",
    "e4m3": "{codebook: e4m3, block: 64, min_size: 0}",
    "bfloat16": "{codebook: bfloat16, rounding: stochastic}",
    "float16": "float16",
}
SHAPES = ((40, 300), (5, 200), (200, 5), (3, 2, 70, 130), (33, 129), (11, 4, 5, 3))
FEW = ((40, 70), (200, 5), (3, 12, 3, 5))


def spec(rule: str, storage: str, folder: Path) -> Path:
    """The file of one of RULES with one of STORAGES."""
    path = folder / f"{rule}_{storage}.yaml"
    text = RULES[rule].format(ROW=ROW, COL=COL, MATRIX=MATRIX, storage=STORAGES[storage])
    path.write_text(HEAD + text.lstrip(), encoding="utf-8")
    return path


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rule", RULES)
def test_codes_of_rows_equal_the_reference(rule: str, storage: str, tmp_path: Path) -> None:
    equal_the_reference(spec(rule, storage, tmp_path), "torch", SHAPES)


@pytest.mark.parametrize(
    ("rule", "storage"), [*(("averages", storage) for storage in STORAGES), ("old", "power3"), ("old", "bfloat16")]
)
def test_cpp_equals_the_reference(rule: str, storage: str, tmp_path: Path) -> None:
    """Kernels for each mix of codes and floats are compiled for each dtype, so both dtypes for one of each kind."""
    dtypes = (torch.float32, torch.float64) if storage in ("log2", "bfloat16") else (torch.float32,)
    equal_the_reference(spec(rule, storage, tmp_path), "cpp", SHAPES, dtypes)


def test_codes_take_no_pass_of_their_own() -> None:
    """Averages are decoded, changed and encoded in the pass that makes them of their floats without codes."""
    rule = build(str(SHIPPED["adafactor_solo"])).plan.rules[0]
    passes = [[sweep.over for sweep in kernel.sweeps] for kernel in rule.kernels]
    assert len(passes) == 4 and all(each == passes[0] for each in passes)
    for kernel in rule.kernels:
        readers = [sweep for sweep in kernel.sweeps for buffer in sweep.buffers if buffer.name == "r_codes" and buffer.read]
        assert len(readers) == ("r" in kernel.variant.stored)


def test_triton_equals_the_reference(tmp_path: Path) -> None:
    paths = [str(spec(list(RULES)[place % 2], storage, tmp_path)) for place, storage in enumerate(STORAGES)]
    paths.append(str(spec("old", "log2", tmp_path)))
    code = (
        "import torch\n"
        "from tests.test_row_codes import *\n"
        f"for path in {paths!r}:\n"
        "    equal_the_reference(Path(path), 'triton', FEW, (torch.float32,), steps=2)\n"
    )
    interpreted("-c", code)


@pytest.mark.parametrize("storage", ["log2", "bfloat16"])
def test_compiled_torch_equals_the_reference(storage: str, tmp_path: Path) -> None:
    equal_the_reference(spec("averages", storage, tmp_path), "torch", FEW, (torch.float32,), steps=2, compile=True)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_neighbours_in_a_launch_change_nothing(backend: str, tmp_path: Path) -> None:
    neighbours_change_nothing(spec("old", "power3", tmp_path), backend)


def test_threads_change_nothing(tmp_path: Path) -> None:
    before, found = torch.get_num_threads(), []
    made_class = optimizer_class(spec("averages", "log2", tmp_path))
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            params = parameters([(700, 300), (3, 40, 130), (1, 70_000), (5000, 3)])
            optimizer = made_class([(str(p.shape), p) for p in params], backend="cpp")
            found.append(stepped(optimizer, params, 2))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


def test_what_is_kept_and_resumed(tmp_path: Path) -> None:
    """Two bits a number and two scalars a block, in lines of a matrix each; from a state dict the same steps follow."""
    made_class = optimizer_class(spec("old", "log2", tmp_path))
    runs = []
    for resumed in (False, True):
        params = parameters([(2, 40, 300), (5, 200), (33, 4, 7)])
        optimizer: Any = made_class([(str(p.shape), p) for p in params], backend="torch", flag=True)
        stepped(optimizer, params, 1)
        if resumed:
            optimizer, saved = made_class([(str(p.shape), p) for p in params], backend="cpp", flag=True), optimizer.state_dict()
            optimizer.load_state_dict(saved)
        shapes = [{key: tuple(x.shape) for key, x in optimizer.state[p].items()} for p in params]
        runs.append(stepped(optimizer, params, 2))
    assert all(torch.allclose(left, right, rtol=1e-5, atol=1e-6) for left, right in zip(*runs, strict=True))
    large, wide, stack = shapes
    assert (large["r.codes"], large["r.scale"], large["r.base"]) == ((2, 16), (2, 2), (2, 2))  # 40 rows, padded to 64
    assert (large["c.codes"], large["c.scale"], large["k"]) == ((2, 80), (2, 10), (2, 1, 1))
    assert (wide["r"], wide["c.codes"]) == ((5, 1), (1, 56))
    assert (stack["k.codes"], stack["r"], stack["c"]) == ((1, 16), (33, 4, 1), (33, 1, 7))
    text = optimizer.explain()
    assert (
        "r 2 bits in blocks of 32 (3 dimensions, 80 numbers)" in text
        and "c (33, 1, 7) float32 (lines of 7 numbers < 32)" in text
    )


def test_float32_for_a_group(tmp_path: Path) -> None:
    """Classes and groups that keep such states in float32 step as a spec without storage does."""
    path = spec("averages", "log2", tmp_path)
    plain = tmp_path / "plain.yaml"
    plain.write_text(path.read_text().replace(f", storage: {STORAGES['log2']}", ""))
    found = []
    for made_class, options in ((optimizer_class(plain), {}), (optimizer_class(path), {"storage": "float32"})):
        params = parameters([(40, 300), (5, 7)])
        found.append(stepped(made_class(params, backend="cpp", **options), params))
    assert all(map(torch.equal, *found))


REFUSED = {
    "a row": ("{codebook: linear, bits: 8, block: row}", "share scales in blocks"),
    "rank1": ("{codebook: linear, bits: 8, block: rank1}", "share scales in blocks"),
    "large blocks": ("{codebook: linear, bits: 8, block: 512}", "too large for a rule that knows rows"),
}


@pytest.mark.parametrize("storage", REFUSED)
def test_what_is_refused(storage: str, tmp_path: Path) -> None:
    how, message = REFUSED[storage]
    path = tmp_path / "bad.yaml"
    path.write_text(HEAD + AVERAGES.format(ROW=ROW, COL=COL, storage=how).lstrip(), encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        optimizer_class(path)


def test_states_of_views_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    rule = AVERAGES.format(ROW=ROW, COL=COL, storage=STORAGES["linear8"]).strip().replace("\n", "\n    ")
    head = "hyper: {lr: {default: 1}, head: {default: 4}}\nrules:\n  - otherwise:\n    name: all\n    view: {rows: head}\n    "
    path.write_text(HEAD + head + rule + "\n", encoding="utf-8")
    with pytest.raises(SpecError, match="'r' is of rows or columns of a view"):
        optimizer_class(path)


LINES = [(256, 384), (40, 300), (200, 3), (2, 130, 140), (5, 7)]  # of both, of columns, of rows, of a stack, of none


def read(state: dict[str, Tensor], key: str, lines: np.ndarray) -> np.ndarray:
    """The averages `exp_avg_sq_row` or `_col` as SOLO decodes them; zeros before the first step."""
    if f"{key}.codes" not in state:
        return state[key].double().numpy().reshape(lines.shape) if key in state else np.zeros_like(lines)
    scalars = [state[f"{key}.{name}"].double().numpy()[..., None] for name in ("scale", "base")]
    codes = packing.unpack(state[f"{key}.codes"].numpy(), 2, 128)
    return solo_oracle.elements_of(solo_oracle.decode_v(codes, *scalars), lines)


def check_written(state: dict[str, Tensor], key: str, lines: np.ndarray, t: int, salt: int) -> None:
    """What is kept of averages is what SOLO keeps; which code a number gets may differ where float32 is near to a border."""
    if lines.shape[-1] < 128:
        assert np.allclose(state[key].numpy().reshape(lines.shape), lines, rtol=1e-5, atol=0)
        return
    words = packing.step_words(int(state["rounding_key"]) % 2**64, t)
    u = packing.random_bits(words, lines.shape, Codes(2, 128, ()), salt) / 2**16
    codes, scale, base, near = solo_oracle.encode_v(solo_oracle.blocks_of(lines), u, 2, published=False)
    ours = packing.unpack(state[f"{key}.codes"].numpy(), 2, 128)
    assert np.allclose(state[f"{key}.scale"].numpy()[..., None], scale, rtol=1e-5, atol=0)
    assert np.allclose(state[f"{key}.base"].numpy()[..., None], base, rtol=1e-5, atol=0)
    assert np.all((ours == codes) | near) and np.mean(near[(base < 1)[..., 0]]) < 0.01


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_adafactor_solo_equals_its_formulas(backend: str) -> None:
    """SOLO's AdafactorQ: the rule of Adafactor's paper between decoding and encoding its averages, step by step."""
    params = [torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(3))) for shape in LINES]
    optimizer = AdafactorSolo([(str(p.shape), p) for p in params], backend=backend)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, STEPS + 1):
        gradients(params, generator)
        before = [(p.detach().double().numpy(), {k: v.clone() for k, v in optimizer.state[p].items()}) for p in params]
        before = [(old.copy(), state) for old, state in before]
        optimizer.step()
        for p, (old, state) in zip(params, before, strict=True):
            assert p.grad is not None
            g = p.grad.double().numpy()
            count, rows, cols = int(np.prod(p.shape[:-2])), *p.shape[-2:]
            r, c = (
                read(state, "exp_avg_sq_row", np.zeros((count, rows))),
                read(state, "exp_avg_sq_col", np.zeros((count, cols))),
            )
            beta2, squares = 1 - t**-0.8, g.reshape(count, rows, cols) ** 2 + 1e-30
            r, c = beta2 * r + (1 - beta2) * squares.mean(axis=2), beta2 * c + (1 - beta2) * squares.mean(axis=1)
            v = (r / r.mean(axis=1, keepdims=True))[:, :, None] * c[:, None, :]
            u = g / np.sqrt(v.reshape(g.shape))
            u = u / max(1, np.sqrt(np.mean(u**2)))
            expected = old - min(0.01, 1 / np.sqrt(t)) * max(1e-3, np.sqrt(np.mean(old**2))) * u
            assert np.allclose(p.detach().double().numpy(), expected, rtol=1e-5, atol=1e-6)
            check_written(optimizer.state[p], "exp_avg_sq_row", r, t, 0)
            check_written(optimizer.state[p], "exp_avg_sq_col", c, t, 1)
