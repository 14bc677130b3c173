"""Reductions of several parameters, which wait for one another in mid-step: against torch, formulas and the reference."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optgen.build import build
from optgen.diagnostics import SpecError
from optgen.plan.traffic import kernel_bytes
from tests.conftest import interpreted
from tests.fewest_bytes import fewest_bytes, planned_bytes
from tests.test_oracles import STEPS, gradients
from tests.test_rows import equal_the_reference, optimizer_class

SHAPES = ((5, 7), (300, 40), (33,), (), (0,), (2, 3, 4))
HEAD = "name: Waits\nsummary: A rule whose parameters wait for one another.\n"
RULES = {
    # a name assigned again, a guard, and two variants in which other reductions stand between
    "codes": """
hyper: {lr: {default: 0.1}, beta: {default: 0.9}, flag: {default: false}}
state:
  m: {like: p, storage: {codebook: linear, bits: 8, block: row}}
  v: {like: p, storage: {use: int8, block: 128}}
update: |
  if flag:
    total = sum(g*g, over=group)
    total = sqrt(total)
    h = g/max(1e-3, total)
  else:
    h = g
  m = ema(m, h, beta)
  v = ema(v, h*h, beta)
  u = m/(sqrt(v) + 1e-3)
  far = max(abs(u), over=optimizer)
  near = mean(u, over=optimizer)
  total = mean(abs(g), over=group)
  u = (u - near)/(far + 1e-6)*total/(1 + total)
  size = l2(p)
  low = min(u*size, over=group)
  p = p - lr*u*(1 + 0.01*low/(1 + abs(low)))
""",
    # a reduction that waits for nothing, beside one that waits for a sum of its parameter: what waits for the first waits for both
    "levels": """
hyper: {lr: {default: 0.1}}
update: |
  b = sum(g*g, over=group)
  size = rms(p)
  a = max(g*size, over=group)
  c = mean(g/(1 + b), over=group)
  p = p - lr*g*(c + 1)/(1 + abs(a))
""",
    # of rows and of columns, of which there are fewer than elements
    "rows": """
hyper: {lr: {default: 0.1}, beta: {default: 0.9}}
state:
  r: {shape: "[..., rows, 1]"}
  c: {shape: "[..., 1, cols]"}
update: |
  r = ema(r, mean(g*g, over=cols), beta)
  c = ema(c, mean(g*g, over=rows), beta)
  level = rms(r, over=group)
  u = g/sqrt(max(r, 1e-6))*level/sqrt(max(c, 1e-6))
  far = l1(mean(abs(u), over=rows), over=optimizer)
  p = p - lr*u/(1 + far)
""",
}
MATRICES = ((5, 7), (16, 256), (3, 2, 300), (40, 135))


def spec(text: str, folder: Path, name: str = "waits") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def parameters(dtype: torch.dtype = torch.float64, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [torch.nn.Parameter(each.to(dtype)) for each in values]


def groups(params: list[Tensor]) -> list[dict[str, Any]]:
    return [{"params": params[:2], "lr": 0.01}, {"params": params[2:], "lr": 0.02}]


def clipped(path: Path, backend: str, *, by_group: bool, compiled: bool = False) -> float:
    """The largest difference from torch's clip_grad_norm_ and AdamW, over steps in some of which gradients are missing."""
    ours, theirs = parameters(), parameters()
    mine = optimizer_class(path)(groups(ours), backend=backend)
    other = torch.optim.AdamW(groups(theirs))
    torch._dynamo.reset()  # which counts how often it has compiled a step, whatever the optimizer
    step = torch.compile(mine.step, fullgraph=True) if compiled else mine.step
    for params, optimizer in ((ours, mine), (theirs, other)):
        generator = torch.Generator().manual_seed(1)
        for t in range(STEPS if not compiled else 2):
            gradients(params, generator)
            if t % 3 == 2:
                params[t % 5].grad = None
            if optimizer is mine:
                step()
                continue
            for taken in [group["params"] for group in other.param_groups] if by_group else [params]:
                torch.nn.utils.clip_grad_norm_(taken, 1.0)
            optimizer.step()
    return max(float((p - q).detach().abs().max()) for p, q in zip(ours, theirs, strict=True) if p.numel())


@pytest.mark.parametrize("by_group", [False, True])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_the_norm_of_all_gradients_is_clipped_as_torch_does(backend: str, by_group: bool, tmp_path: Path) -> None:
    assert clipped(clipping(tmp_path, by_group), backend, by_group=by_group) < 1e-13


def clipping(folder: Path, by_group: bool) -> Path:
    """AdamW behind the shipped transform, or behind the same of a group."""
    if by_group:
        (folder / "clip_group.yaml").write_text(
            "name: ClipGroup\nsummary: x\nkind: transform\nupdate: |\n  u = u*min(1, 1/(l2(u, over=group) + 1e-6))\n",
            encoding="utf-8",
        )
    return spec(f"extends: adamw\nbefore: [{'clip_group' if by_group else 'clip_global_norm'}]\n", folder)


def test_a_compiled_step_is_one_graph(tmp_path: Path) -> None:
    """C++ kernels are an op for each group, which cannot wait for others: torch's compiler takes the torch backend then."""
    assert clipped(clipping(tmp_path, by_group=False), "auto", by_group=False, compiled=True) < 1e-13


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_rules_equal_the_reference(name: str, backend: str, tmp_path: Path) -> None:
    equal_the_reference(spec(RULES[name], tmp_path, name), backend, MATRICES)


def test_triton_equals_the_reference(tmp_path: Path) -> None:
    code = "import sys; from tests.test_joint import triton_equals; triton_equals(sys.argv[1])"
    interpreted("-c", code, str(tmp_path))


def triton_equals(folder: str) -> None:
    for name, text in RULES.items():
        equal_the_reference(spec(text, Path(folder), name), "triton", MATRICES[:2], (torch.float32,), steps=2)
    for by_group in (False, True):
        assert clipped(clipping(Path(folder), by_group), "triton", by_group=by_group) < 1e-13


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_every_reduction_of_a_group_and_of_the_optimizer(backend: str, tmp_path: Path) -> None:
    """Against plain torch: sum, mean, max, min and norms over the elements of all, each group's own or not."""
    text = """
hyper: {lr: {default: 0.1}}
update: |
  a = sum(g, over=group) + mean(g, over=group)*2 + max(g, over=group)*3 + min(g, over=group)*5
  b = l1(p, over=optimizer) + l2(p, over=optimizer)*7 + rms(p, over=optimizer)*11
  p = p - lr*a - 1e-3*b*g
"""
    params = parameters(shapes=SHAPES[:3])
    before = [p.detach().clone() for p in params]
    optimizer = optimizer_class(spec(text, tmp_path))(groups(params), backend=backend)
    gradients(params, torch.Generator().manual_seed(1))
    optimizer.step()
    every = torch.cat([p.ravel() for p in before])
    b = every.abs().sum() + every.norm() * 7 + every.square().mean().sqrt() * 11
    for group, at in zip(optimizer.param_groups, ((0, 1), (2,)), strict=True):
        g = torch.cat([p.grad.ravel() for p in group["params"]])
        a = g.sum() + g.mean() * 2 + g.max() * 3 + g.min() * 5
        for i, p in zip(at, group["params"], strict=True):
            torch.testing.assert_close(p.detach(), before[i] - group["lr"] * a - 1e-3 * b * p.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_parameters_of_other_dtypes_wait_too(backend: str, tmp_path: Path) -> None:
    """Buckets of different dtypes have one norm; a float64 parameter sees it in float64."""
    params = [
        *parameters(torch.float32, SHAPES[:2]),
        *parameters(torch.bfloat16, SHAPES[2:3]),
        *parameters(torch.float64, ((9,),)),
    ]
    text = "hyper: {lr: {default: 1.0}}\nupdate: |\n  p = p - lr*l2(g, over=group)\n"
    optimizer = optimizer_class(spec(text, tmp_path))(params, backend=backend)
    gradients(params, torch.Generator().manual_seed(1))
    norm = torch.cat([p.grad.double().ravel() for p in params if p.grad is not None]).norm()
    before = params[-1].detach().clone()
    optimizer.step()
    torch.testing.assert_close(before - params[-1].detach(), norm.expand(9), rtol=2e-7, atol=0)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_who_takes_part_hangs_on_flags(backend: str, tmp_path: Path) -> None:
    """Groups on the other side of a flag, of one of two nested ones too, are neither counted nor taken for zeros."""
    groups_on_two_sides(backend, tmp_path)


def test_who_takes_part_hangs_on_flags_in_triton(tmp_path: Path) -> None:
    code = "import sys, pathlib; from tests.test_joint import groups_on_two_sides as f; f('triton', pathlib.Path(sys.argv[1]))"
    interpreted("-c", code, str(tmp_path))


def groups_on_two_sides(backend: str, folder: Path) -> None:
    text = """
hyper: {lr: {default: 1.0}, fa: {default: true}, fb: {default: true}}
update: |
  u = g
  if fa:
    u = g/2
    if fb:
      u = g + mean(g, over=optimizer) + max(-abs(g) - 1, over=optimizer)
  p = p - lr*u
"""
    made_class = optimizer_class(spec(text, folder))
    for first, second in (
        ({}, {"fb": False}),
        ({"fa": False}, {}),
        ({}, {"fa": False, "fb": False}),
        ({"fb": False}, {"fa": False}),
    ):
        params = parameters(shapes=SHAPES[:2])
        before = [p.detach().clone() for p in params]
        optimizer = made_class([{"params": params[:1], **first}, {"params": params[1:], **second}], backend=backend)
        gradients(params, torch.Generator().manual_seed(1))
        optimizer.step()
        sides = [{"fa": True, "fb": True, **side} for side in (first, second)]
        taking = [
            p.grad.ravel() for p, side in zip(params, sides, strict=True) if side["fa"] and side["fb"] and p.grad is not None
        ]
        for p, old, side in zip(params, before, sides, strict=True):
            assert p.grad is not None
            u = p.grad / 2 if side["fa"] else p.grad
            if side["fa"] and side["fb"]:
                every = torch.cat(taking)
                u = p.grad + every.mean() + (-every.abs() - 1).max()
            torch.testing.assert_close(p.detach(), old - u, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_two_runs_have_the_same_bits(backend: str, tmp_path: Path) -> None:
    made_class = optimizer_class(spec(RULES["codes"], tmp_path))
    runs = []
    for _ in range(2):
        params = parameters(torch.float32, MATRICES)
        optimizer = made_class(groups(params), backend=backend)
        for step in range(3):
            gradients(params, torch.Generator().manual_seed(step))
            optimizer.step()
        runs.append(params)
    assert all(torch.equal(p, q) for p, q in zip(*runs, strict=True))


def test_rules_reduce_over_their_own_parameters(tmp_path: Path) -> None:
    text = """
hyper: {lr: {default: 0.1}}
rules:
  - name: matrices
    when: ndim >= 2
    update: |
      p = p - lr*l2(g, over=optimizer)
  - name: others
    when: ndim < 2
    update: |
      size = l2(g, over=optimizer)
      p = p - lr*sum(g/size, over=optimizer)
"""
    for backend in ("torch", "cpp"):
        params = parameters(shapes=SHAPES[:4])
        before = [p.detach().clone() for p in params]
        optimizer_class(spec(text, tmp_path))(params, backend=backend)
        optimizer = optimizer_class(spec(text, tmp_path))(params, backend=backend)
        gradients(params, torch.Generator().manual_seed(1))
        optimizer.step()
        of_matrices, of_others = (torch.cat([p.grad.ravel() for p in taken]) for taken in (params[:2], params[2:]))
        moves = [of_matrices.norm()] * 2 + [(of_others / of_others.norm()).sum()] * 2
        for p, old, move in zip(params, before, moves, strict=True):
            torch.testing.assert_close(p.detach(), old - 0.1 * move, rtol=1e-12, atol=1e-12)


def test_parameters_wait_once_for_all_that_can_be_reduced_together(tmp_path: Path) -> None:
    """In every variant the same reductions end the same phases, whatever its codes need between them."""
    plan = build(str(spec(RULES["codes"], tmp_path))).plan
    phases = [[(r.joint.phase, r.joint.name) for r in kernel.joint if r.joint] for kernel in plan.kernels]
    assert len(phases) > 1 and all(sorted(each) == sorted(phases[0]) for each in phases)
    assert {number for number, _ in phases[0]} == {1, 2, 3}
    for kernel in plan.kernels:
        ends = [{r.joint.phase for sweep in sweeps for r in sweep.reductions if r.joint} for sweeps in kernel.phases]
        assert ends == [{1}, {2}, {3}, set()]
        assert tuple(itertools.chain(*kernel.phases)) == kernel.sweeps


def test_clipping_reads_gradients_once_more_and_moves_no_other_byte(tmp_path: Path) -> None:
    (kernel,) = build(str(clipping(tmp_path, by_group=False))).plan.kernels
    (plain,) = build("specs/adamw.yaml").plan.kernels
    parts = 2 * 4 / 256  # a number for each block is written, and read where they are joined
    assert kernel_bytes(kernel, param=2, grad=2) == kernel_bytes(plain, param=2, grad=2) + 2 + parts
    assert planned_bytes(kernel) == fewest_bytes(kernel)


def test_backends_cannot_be_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters(shapes=SHAPES[:2])
    optimizer = optimizer_class(clipping(tmp_path, by_group=False))(params)
    gradients(params, torch.Generator().manual_seed(1))
    picked = iter(("cpp", "triton"))
    monkeypatch.setattr("optgen.runtime.optimizer.pick_backend", lambda *_, **__: next(picked))
    monkeypatch.setattr(
        torch.Tensor, "device", property(lambda self: torch.device("cpu") if self.shape == (5, 7) else torch.device("meta"))
    )
    with pytest.raises(RuntimeError, match="different backends, cpp and triton"):
        optimizer._check_step()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("sum(lr, over=group)", "one number for each parameter"),
        ("sum(l2(g), over=group)", "one number for each parameter, and several are reduced by their elements"),
        ("sum(g, over=model)", "over all parameters of a group or of the optimizer"),
        ("sum(g, over=(rows, group))", "over all parameters of a group or of the optimizer"),
    ],
)
def test_what_cannot_be_reduced(value: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        build(str(spec(f"hyper: {{lr: {{default: 0.1}}}}\nupdate: |\n  p = p - lr*{value}\n", tmp_path)))
    assert message in str(raised.value)
