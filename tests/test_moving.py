"""Rules that train at one point and evaluate at another: Schedule-Free AdamW against others' code, its moves, what is refused."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optgen.build import build
from optgen.diagnostics import SpecError
from optgen.diagnostics.render import render_all
from tests.test_joint import parameters as random_parameters
from tests.test_oracles import STEPS, gradients
from tests.test_rows import equal_the_reference, optimizer_class
from tests.test_shared_states import spec as written

SHAPES = ((5, 7), (40, 300), (33,), (), (0,))
SCHEDULE_FREE = """
name: ScheduleFree
summary: AdamW without a schedule, which is evaluated at an average of where it has been.
reference: https://arxiv.org/abs/2405.15682
hyper:
  lr:    {default: 2.5e-3, min: 0}
  betas: {default: [0.9, 0.999], names: [beta1, beta2], above: 0, below: 1}
  eps:   {default: 1e-8, min: 0}
  weight_decay: {default: 0, min: 0}
  warmup_steps: {default: 0, min: 0}
  r: {default: 0, min: 0}
  weight_lr_power: {default: 2.0, min: 0}
state:
  v: {like: p, sign: unsigned, save_as: exp_avg_sq}
  z: {like: p, init: p}
  lr_max: {shape: scalar}
  weight_sum: {shape: scalar}
update: |
  rate = lr*min(1, t/max(warmup_steps, 1))
  lr_max = max(lr_max, rate)
  weight = t**r*lr_max**weight_lr_power
  weight_sum = weight_sum + weight
  c = weight/weight_sum
  v = ema(v, g**2, beta2)
  u = g/(sqrt(v/(1 - beta2**t)) + eps) + weight_decay*p
  p = p + c*(z - p) + rate*(beta1*(1 - c) - 1)*u
  z = z - rate*u
eval: |
  p = p + (1 - 1/beta1)*(z - p)
train: |
  p = p + (1 - beta1)*(z - p)
"""
# a point that depends on a flag, on states in few bits and of rows, and on how much of a state is kept
ODD = """
name: Odd
summary: x
hyper: {lr: {default: 0.1}, flag: {default: false}, beta: {default: 0.9, min: 0, below: 1}}
state:
  m: {like: p, storage: {use: int8, block: 128}}
  r: {shape: "[..., rows, 1]"}
update: |
  m = ema(m, g, beta)
  r = ema(r, mean(g*g, over=cols), beta)
  p = p - lr*m
eval: |
  ahead = lr*m/(1 + sqrt(r))
  if flag:
    ahead = 2*ahead
  p = p - ahead*half_gap(m)*32
train: |
  ahead = lr*m/(1 + sqrt(r))
  if flag:
    ahead = 2*ahead
  p = p + ahead*half_gap(m)*32
"""


def spec(text: str, folder: Path, name: str = "moving") -> Path:
    return written(text, folder, name)


def parameters() -> list[Tensor]:
    return random_parameters(shapes=SHAPES)


def groups(params: list[Tensor]) -> list[dict[str, Any]]:
    return [{"params": params[:2], "lr": 0.01}, {"params": params[2:4], "lr": 0.02, "weight_decay": 0.1}]


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_schedule_free_equals_that_of_others(backend: str, warmup: int, tmp_path: Path) -> None:
    from pytorch_optimizer import ScheduleFreeAdamW

    ours, theirs = parameters(), parameters()
    text = SCHEDULE_FREE.replace("beta2**t)) + eps", "beta2**t) + 1e-15) + eps")  # as theirs has it
    assert text != SCHEDULE_FREE
    mine = optimizer_class(spec(text, tmp_path))(groups(ours), backend=backend, warmup_steps=warmup)
    other = ScheduleFreeAdamW(groups(theirs), warmup_steps=warmup, weight_decay=0.0)
    for params, optimizer in ((ours, mine), (theirs, other)):
        generator = torch.Generator().manual_seed(1)
        for step in range(STEPS):
            gradients(params[:4], generator)
            optimizer.step()
            if step % 7 == 3:
                optimizer.eval()
                optimizer.eval()  # a second time does nothing
                optimizer.train()
        optimizer.eval()
    for p, q in zip(ours[:4], theirs[:4], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    mine.train()
    other.train()
    for p, q in zip(ours[:4], theirs[:4], strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", [SCHEDULE_FREE, ODD], ids=["schedule-free", "odd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moves_equal_the_reference(text: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = spec(text, tmp_path)
    for options in ({}, *({"low_precision": mode} for mode in ("nearest", "kahan", "correction8") if dtype != torch.float32)):
        equal_the_reference(path, "cpp", ((5, 7), (40, 300)), (dtype,), **options)


def test_a_move_is_what_its_formulas_say(tmp_path: Path) -> None:
    """With codes, flags and rows, by hand: of a large matrix, whose m is coded, and of a small one, of which half_gap is 0."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((64, 128), (4, 8))]
    optimizer = optimizer_class(spec(ODD, tmp_path))(params, flag=True)
    gradients(params, torch.Generator().manual_seed(1))
    optimizer.step()
    before = [p.detach().clone() for p in params]
    kept = [{key: value.clone() for key, value in optimizer.state[p].items()} for p in params]
    optimizer.eval()
    assert not torch.equal(params[0], before[0]) and torch.equal(params[1], before[1])
    for p, state in zip(params, kept, strict=True):
        assert all(torch.equal(value, optimizer.state[p][key]) for key, value in state.items())
    optimizer.train()
    torch.testing.assert_close(params[0].detach(), before[0], rtol=1e-6, atol=1e-6)


def test_a_step_between_eval_and_train_is_refused(tmp_path: Path) -> None:
    params = parameters()
    optimizer = optimizer_class(spec(SCHEDULE_FREE, tmp_path))(params)
    optimizer.eval()  # nothing to move yet
    gradients(params, torch.Generator().manual_seed(1))
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True)) and not optimizer.state
    optimizer.train()
    optimizer.step()


def test_saved_while_it_is_evaluated(tmp_path: Path) -> None:
    """A state dict says where p is: loaded beside the parameters of that moment, training goes on as if nothing had been."""
    made_class = optimizer_class(spec(SCHEDULE_FREE, tmp_path))
    params = parameters()
    optimizer = made_class(groups(params))
    for step in range(3):
        gradients(params[:4], torch.Generator().manual_seed(step))
        optimizer.step()
    optimizer.eval()
    saved, values = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in params]
    others = [torch.nn.Parameter(value) for value in values]
    other = made_class(groups(others))
    other.load_state_dict(saved)
    assert not any(group["train_mode"] for group in other.param_groups)
    for taken, each in ((params, optimizer), (others, other)):
        each.train()
        gradients(taken[:4], torch.Generator().manual_seed(9))
        each.step()
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))


def test_a_compiled_step_and_other_strides(tmp_path: Path) -> None:
    made_class = optimizer_class(spec(SCHEDULE_FREE, tmp_path))
    ours, plain = ([torch.nn.Parameter(torch.ones(6, 5, dtype=torch.float64).t())] for _ in range(2))
    optimizer, other = made_class(ours, backend="torch"), made_class(plain)
    torch._dynamo.reset()  # which counts how often it has compiled a step, whatever the optimizer
    step = torch.compile(optimizer.step, fullgraph=True, backend="aot_eager")
    for number in range(3):
        for params, taken in ((ours, step), (plain, other.step)):
            gradients(params, torch.Generator().manual_seed(number))
            taken()
        optimizer.eval()
        other.eval()
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        optimizer.train()
        other.train()


def test_behind_transforms_and_in_one_file(tmp_path: Path) -> None:
    """States of transforms are the kernel's too; a vendored class moves where optgen cannot be imported."""
    path = spec(SCHEDULE_FREE, tmp_path, "schedule_free")
    path = spec("name: Clipped\nsummary: x\nextends: ./schedule_free.yaml\nbefore: [clip_rms]\nafter: [cautious]\n", tmp_path)
    params = parameters()
    optimizer = optimizer_class(path)(params)
    gradients(params, torch.Generator().manual_seed(1))
    optimizer.step()
    before = params[1].detach().clone()
    optimizer.eval()
    expected = before + (1 - 1 / 0.9) * (optimizer.state[params[1]]["z"] - before)
    torch.testing.assert_close(params[1].detach(), expected, rtol=1e-12, atol=1e-12)
    command = [sys.executable, "-m", "optgen.cli.main", "build", "--vendor", str(path), "--out", str(tmp_path / "one")]
    subprocess.run(command, check=True, capture_output=True)
    code = (
        "import sys, torch; sys.modules['optgen'] = None; import moving as one\n"
        "p = torch.nn.Parameter(torch.ones(8, 8)); o = one.Clipped([p]); p.grad = torch.ones(8, 8); o.step(); o.step()\n"
        "q = p.detach().clone(); o.eval(); assert not torch.equal(p, q); o.train(); torch.testing.assert_close(p.detach(), q)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path / "one")


HEAD = "name: Moving\nsummary: x\nhyper: {lr: {default: 0.1}}\nstate: {m: {like: p}}\nupdate: |\n  m = ema(m, g, 0.9)\n  p = p - lr*m\n"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("eval: |\n  p = p - m\n", "'eval' without 'train'"),
        ("train: |\n  p = p - m\n", "'train' without 'eval'"),
        ("eval: |\n  p = p - g\ntrain: |\n  p = p + m\n", "'g' is not known between steps"),
        ("eval: |\n  p = p - m*t\ntrain: |\n  p = p + m\n", "'t' is not known between steps"),
        ("eval: |\n  m = 2*m\n  p = p - m\ntrain: |\n  p = p + m\n", "state 'm' stays as it is"),
        ("eval: |\n  x = p - m\ntrain: |\n  p = p + m\n", "'eval' never assigns to p"),
        ("eval: |\n  p = p - m/l2(m, over=group)\ntrain: |\n  p = p + m\n", "not known between steps"),
        ("eval: |\n  p = p - n\ntrain: |\n  p = p + m\n", "unknown symbol 'n'"),
        ("eval: |\n  p = p - m\ntrain: |\n  p = p + m\nblocks: {every: 3}\n", "a spec with blocks has no 'eval'"),
    ],
)
def test_what_is_refused(points: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        build(str(spec(HEAD + points, tmp_path)))
    assert message in render_all(raised.value.diagnostics)


def test_rules_and_transforms_have_no_points(tmp_path: Path) -> None:
    rules = "name: Moving\nsummary: x\neval: |\n  p = 2*p\ntrain: |\n  p = p/2\nrules:\n  - otherwise: sgd\n"
    transform = "name: Moving\nsummary: x\nkind: transform\nupdate: |\n  u = 2*u\neval: |\n  p = 2*p\ntrain: |\n  p = p/2\n"
    spec(SCHEDULE_FREE, tmp_path, "schedule_free")
    uses = "name: Moving\nsummary: x\nhyper: {lr: {default: 1}}\nrules:\n  - otherwise: ./schedule_free.yaml\n"
    faults = {
        rules: "a spec with rules has no 'eval'",
        transform: "a transform has no 'eval'",
        uses: "has 'eval' and 'train', a rule has not",
    }
    for text, message in faults.items():
        with pytest.raises(SpecError) as raised:
            build(str(spec(text, tmp_path)))
        assert message in render_all(raised.value.diagnostics)
