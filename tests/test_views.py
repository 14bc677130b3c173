"""Rules that see parameters in another shape: blocks of a row, and the first dimension against all others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from optgen.build import build
from optgen.diagnostics import SpecError
from optgen.diagnostics.render import render_all
from tests.conftest import interpreted
from tests.test_oracles import gradients
from tests.test_rows import equal_the_reference, optimizer_class

HEAD = "name: Views\nsummary: x\nhyper: {lr: {default: 0.1}, block: {default: 4, above: 0}}\nrules:\n"
# one second moment for each block, and for each output channel
BLOCKS = """
  - otherwise:
    name: all
    view: {cols: block}
    state: {m: {like: p}, v: {shape: "[..., rows, 1]", sign: unsigned}}
    update: |
      m = ema(m, g, 0.9)
      v = ema(v, mean(g*g, over=cols), 0.99)
      p = p - lr*m/(sqrt(v) + 1e-3)
"""
CHANNELS = """
  - when: ndim >= 2 and size(0) < 100000*block
    name: channels
    view: matrix
    state: {v: {shape: "[..., rows, 1]", sign: unsigned}, c: {shape: "[..., 1, cols]", sign: unsigned}}
    update: |
      v = ema(v, mean(g*g, over=cols), 0.99)
      c = ema(c, mean(g*g, over=rows), 0.99)
      p = p - lr*g/(sqrt(v) + sqrt(c) + 1e-3)
  - otherwise: sgd
"""
SHAPES = ((8, 12), (20,), (2, 3, 4, 8), (5, 256))


def spec(text: str, folder: Path) -> Path:
    path = folder / "views.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def blocks(g: Tensor, kept: list[Tensor]) -> Tensor:
    m, v = kept
    m.mul_(0.9).add_(0.1 * g)
    v.mul_(0.99).add_(0.01 * g.reshape(-1, 4).square().mean(1, keepdim=True))
    return (m.reshape(-1, 4) / (v.sqrt() + 1e-3)).reshape(g.shape)


def channels(g: Tensor, kept: list[Tensor]) -> Tensor:
    v, c = kept
    flat = g.flatten(1)
    v.mul_(0.99).add_(0.01 * flat.square().mean(1, keepdim=True))
    c.mul_(0.99).add_(0.01 * flat.square().mean(0, keepdim=True))
    return (flat / (v.sqrt() + c.sqrt() + 1e-3)).reshape(g.shape)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_views_equal_their_formulas(backend: str, compiled: bool, tmp_path: Path) -> None:
    cases = (
        (BLOCKS, SHAPES, blocks, lambda p: [torch.zeros_like(p), p.new_zeros(p.numel() // 4, 1)]),
        (
            CHANNELS.replace(" and size(0) < 100000*block", "").replace("sqrt(c) + 1e-3", "sqrt(c) + block/4000"),
            (SHAPES[0], SHAPES[2]),
            channels,
            lambda p: [p.new_zeros(len(p), 1), p.new_zeros(1, p[0].numel())],
        ),
    )
    for text, shapes, rule, begin in cases:
        params = [torch.nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in shapes]
        expected = [p.detach().clone() for p in params]
        kept = [begin(p) for p in expected]
        optimizer = optimizer_class(spec(text, tmp_path))(params, backend=backend)
        torch._dynamo.reset()  # which counts how often it has compiled a step, whatever the optimizer
        step = torch.compile(optimizer.step, fullgraph=True, backend="aot_eager") if compiled else optimizer.step
        for number in range(4):
            gradients(params, torch.Generator().manual_seed(number))
            step()
            for p, q, states in zip(params, expected, kept, strict=True):
                assert p.grad is not None
                q.sub_(0.1 * rule(p.grad, states))
        for p, q in zip(params, expected, strict=True):
            torch.testing.assert_close(p.detach(), q, rtol=1e-11, atol=1e-12)


def test_triton_sees_blocks_too(tmp_path: Path) -> None:
    interpreted("-c", "import sys; from tests.test_views import triton_equals; triton_equals(sys.argv[1])", str(tmp_path))


def triton_equals(folder: str) -> None:
    equal_the_reference_of_one_rule(spec(BLOCKS, Path(folder)), "triton")


def equal_the_reference_of_one_rule(path: Path, backend: str) -> None:
    equal_the_reference(path, backend, SHAPES[:2], (torch.float32,), steps=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_equal_the_reference(dtype: torch.dtype, tmp_path: Path) -> None:
    equal_the_reference(spec(BLOCKS, tmp_path), "cpp", SHAPES, (dtype,))


def test_states_are_saved_for_blocks_and_channels(tmp_path: Path) -> None:
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = optimizer_class(spec(BLOCKS, tmp_path))(params)
    gradients(params, torch.Generator().manual_seed(1))
    optimizer.step()
    assert [tuple(optimizer.state[p]["v"].shape) for p in params] == [(8, 3, 1), (5, 1), (2, 3, 4, 2, 1), (5, 64, 1)]
    assert [optimizer.state[p]["m"].shape for p in params] == [p.shape for p in params]
    other = optimizer_class(spec(BLOCKS, tmp_path))(params)
    other.load_state_dict(optimizer.state_dict())
    assert "cols" not in optimizer.explain() and "(8, 3, 1)" in optimizer.explain()


def test_what_a_view_cannot_be(tmp_path: Path) -> None:
    made_class = optimizer_class(spec(BLOCKS, tmp_path))
    for shape in ((8, 6), ()):
        with pytest.raises(ValueError, match="cuts its columns into blocks of block=4, which does not divide them"):
            made_class([torch.nn.Parameter(torch.ones(shape))])
    with pytest.raises(ValueError, match="block is a whole number of columns from 1"):
        made_class([torch.nn.Parameter(torch.ones(8))], block=2.5)
    image = torch.nn.Parameter(torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = optimizer_class(
        spec(CHANNELS.replace(" and size(0) < 100000*block", "").replace("1e-3", "block*1e-3"), tmp_path)
    )([image])
    image.grad = torch.ones_like(image)
    with pytest.raises(RuntimeError, match=r"parameter '0' has shape .* lies in another order than its dimensions"):
        optimizer.step()
    for view, message in (
        ("{cols: block, rows: block}", "'view' names a hyperparameter"),
        ("columns", "'view' cannot be 'columns'"),
        ("{cols: 4}", "'view' names a hyperparameter"),
    ):
        with pytest.raises(SpecError) as raised:
            build(str(spec(BLOCKS.replace("{cols: block}", view), tmp_path)))
        assert message in render_all(raised.value.diagnostics)
    stored = BLOCKS.replace("m: {like: p}", "m: {like: p, storage: {use: int8, block: 128}}")
    with pytest.raises(SpecError, match="lies in rows of p, and this rule sees others"):
        build(str(spec(stored, tmp_path)))
