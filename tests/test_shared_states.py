"""States that all parameters of a group or of the optimizer share: Prodigy against others' code, their life, what is refused."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optgen.build import build
from optgen.diagnostics import SpecError
from optgen.diagnostics.render import render_all
from tests.conftest import interpreted
from tests.test_joint import parameters as random_parameters
from tests.test_oracles import STEPS, gradients
from tests.test_rows import equal_the_reference, optimizer_class

SHAPES = ((5, 7), (300, 40), (33,), (0,))
PRODIGY = """
name: Prodigy
summary: AdamW that estimates how far the solution is, from all parameters together, and with it the learning rate.
reference: https://arxiv.org/abs/2306.06101
hyper:
  lr:    {default: 1.0, min: 0}
  betas: {default: [0.9, 0.999], names: [beta1, beta2], min: 0, below: 1}
  eps:   {default: 1e-8, min: 0}
  weight_decay: {default: 0, min: 0}
  d0:    {default: 1e-6, above: 0}
  d_coef: {default: 1.0, above: 0}
  growth_rate: {default: 1e30, min: 1}
  bias_correction: {default: false}
  safeguard_warmup: {default: false}
state:
  m: {like: p, save_as: exp_avg}
  v: {like: p, sign: unsigned, save_as: exp_avg_sq}
  s: {like: p}
  start: {like: p, init: p, save_as: p0}
  d: {scope: optimizer, init: d0}
  d_max: {scope: optimizer, init: d0}
  numerator: {scope: optimizer}
update: |
  beta3 = sqrt(beta2)
  rate = lr
  if bias_correction:
    rate = lr*sqrt(1 - beta2**t)/(1 - beta1**t)
  share = d/d0
  eta = d*rate
  start = start
  m = beta1*m + (1 - beta1)*d*g
  v = beta2*v + (1 - beta2)*(d*g)**2
  if safeguard_warmup:
    s = beta3*s + share*d*g
  else:
    s = beta3*s + share*eta*g
  numerator = beta3*numerator + sum(share*eta*g*(start - p), over=optimizer)
  path = l1(s, over=optimizer)
  guess = where(path > 0, d_coef*numerator/path, d)
  d = where(d == d0, max(d, guess), d)
  d_max = max(d_max, guess)
  d = min(d_max, d*growth_rate)
  p = p - weight_decay*eta*p
  p = p - eta*m/(sqrt(v) + d*eps)
"""
# a loss scale that grows while gradients are finite: what a group remembers is read by all of its parameters
SCALED = """
name: Scaled
summary: A step that gets longer as long as the gradients of a group point where they did.
hyper: {lr: {default: 0.1}, grow: {default: 1.5}}
state:
  m: {like: p, storage: {codebook: linear, bits: 8, block: tensor}}
  length: {shape: tensor, scope: group, init: 1}
update: |
  along = sum(g*m, over=group)
  m = ema(m, g, 0.9)
  length = where(along > 0, length*grow, length/2)
  p = p - lr*length*m
"""


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)  # in which the other implementation keeps its sums then
    yield
    torch.set_default_dtype(torch.float32)


def spec(text: str, folder: Path, name: str = "shared") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return random_parameters(dtype, SHAPES)


def towards_one(params: list[Tensor], step: int) -> None:
    """Gradients that lead somewhere, so that the estimate grows."""
    generator = torch.Generator().manual_seed(step)
    for p in params:
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = (p.detach().double() - 1 + 0.1 * noise).to(p.dtype)


def groups(params: list[Tensor]) -> list[dict[str, Any]]:
    return [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:]}]


def prodigy_distance(path: Path, backend: str, **options: Any) -> float:
    """The largest difference, relative to 1, of parameters and of the estimate, over 20 steps."""
    from pytorch_optimizer import Prodigy

    ours, theirs = parameters(), parameters()
    mine = optimizer_class(path)(groups(ours), backend=backend, **options)
    other = Prodigy([*groups(theirs)[:1], {"params": theirs[1:3]}], weight_decay=0.0, weight_decouple=True, **options)
    assert other.param_groups[0]["weight_decay"] == 0.1
    for step in range(STEPS):
        for params, optimizer in ((ours, mine), (theirs, other)):
            towards_one(params, step)
            optimizer.step()
    estimate = mine.state[ours[0]]["d"].item()
    assert estimate > 1.5 * options.get("d0", 1e-6)  # else nothing was estimated
    apart = [float((p - q).detach().abs().max()) for p, q in zip(ours[:3], theirs[:3], strict=True)]
    return max(*apart, abs(estimate / other.param_groups[0]["d"] - 1))


OPTIONS = ({}, {"safeguard_warmup": True, "bias_correction": True, "growth_rate": 1.5, "d0": 1e-3, "d_coef": 2.0})


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("options", OPTIONS, ids=["default", "options"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_prodigy_equals_that_of_others(backend: str, options: dict[str, Any], tmp_path: Path) -> None:
    assert prodigy_distance(spec(PRODIGY, tmp_path), backend, **options) < 1e-9


def test_triton_equals_both(tmp_path: Path) -> None:
    interpreted(
        "-c", "import sys; from tests.test_shared_states import triton_equals; triton_equals(sys.argv[1])", str(tmp_path)
    )


def triton_equals(folder: str) -> None:
    torch.set_default_dtype(torch.float64)
    for options in OPTIONS:
        assert prodigy_distance(spec(PRODIGY, Path(folder)), "triton", **options) < 1e-9
    torch.set_default_dtype(torch.float32)
    equal_the_reference(spec(SCALED, Path(folder), "scaled"), "triton", ((5, 7), (16, 256)), steps=2)


@pytest.mark.parametrize("text", [PRODIGY, SCALED], ids=["prodigy", "scaled"])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_rules_equal_the_reference(text: str, backend: str, tmp_path: Path) -> None:
    equal_the_reference(spec(text, tmp_path), backend, ((5, 7), (16, 256), (40, 135)))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_a_group_has_a_state_of_its_own(backend: str, tmp_path: Path) -> None:
    params = parameters(torch.float32)
    optimizer = optimizer_class(spec(SCALED, tmp_path))(groups_of_scaled(params), backend=backend)
    for sign in (1, 1, -10):  # of the second group
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, 1 if i < 2 else sign)
        optimizer.step()
    lengths = [optimizer.state[p]["length"] for p in params]
    assert lengths[0] is lengths[1] and lengths[2] is lengths[3] and lengths[0] is not lengths[2]
    assert (lengths[0].item(), lengths[2].item()) == (0.5 * 1.5 * 1.5, 0.5 * 1.5 / 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # groups differ, and may
    assert [optimizer.state[p]["length"] for p in params] == lengths


def groups_of_scaled(params: list[Tensor]) -> list[dict[str, Any]]:
    return [{"params": params[:2]}, {"params": params[2:]}]


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_parameters_that_come_later_or_pause_share_what_there_is(backend: str, tmp_path: Path) -> None:
    params = parameters()
    optimizer = optimizer_class(spec(PRODIGY, tmp_path))(params[1:3], backend=backend, d0=1e-3)
    for step in range(6):
        towards_one(params[1:3], step)
        if step > 3:
            params[1].grad = None  # its state goes on with the others'
        optimizer.step()
    before = optimizer.state[params[2]]["d"].item()
    assert before > 2e-3
    optimizer.add_param_group({"params": params[:1]})
    towards_one(params[:3], 7)
    optimizer.step()
    assert len({id(optimizer.state[p]["d"]) for p in params[:3]}) == 1
    assert optimizer.state[params[0]]["d"].item() >= before


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_saved_and_copied_states_are_shared_again(backend: str, tmp_path: Path) -> None:
    made_class = optimizer_class(spec(PRODIGY, tmp_path))
    params = parameters(torch.float32)
    optimizer = made_class(params, backend=backend, d0=1e-3)
    for step in range(3):
        towards_one(params, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), [p.detach().clone() for p in params]], file)
    file.seek(0)
    saved, values = torch.load(file)
    others = [torch.nn.Parameter(value) for value in values]
    other = made_class(others, backend=backend)
    other.load_state_dict(saved)
    thirds, third = copy.deepcopy((params, optimizer))
    for step in range(3, 6):
        for taken, each in ((params, optimizer), (others, other), (thirds, third)):
            towards_one(taken, step)
            each.step()
    for taken, each in ((others, other), (thirds, third)):
        assert all(torch.equal(p, q) for p, q in zip(params, taken, strict=True))
        assert len({id(each.state[p]["d"]) for p in taken}) == 1
        assert each.state[taken[0]]["d"] is not optimizer.state[params[0]]["d"]
    saved["state"][1]["d"] = saved["state"][1]["d"] * 2
    with pytest.raises(ValueError, match="'d' is one for all parameters of the optimizer, and differs"):
        other.load_state_dict(saved)


def test_a_compiled_step_shares(tmp_path: Path) -> None:
    made_class = optimizer_class(spec(PRODIGY, tmp_path))
    ours, plain = parameters(), parameters()
    optimizer, other = made_class(ours, d0=1e-3), made_class(plain, d0=1e-3, backend="torch")
    torch._dynamo.reset()  # which counts how often it has compiled a step, whatever the optimizer
    step = torch.compile(optimizer.step, fullgraph=True, backend="aot_eager")
    for number in range(3):
        towards_one(ours, number)
        towards_one(plain, number)
        step()
        other.step()
    assert optimizer.state[ours[0]]["d"] is optimizer.state[ours[1]]["d"]
    assert other.state[plain[0]]["d"].item() > 1e-3
    for p, q in zip(ours, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_parameters_of_other_dtypes_keep_equal_copies(tmp_path: Path) -> None:
    params = [*parameters(torch.float32)[:2], *parameters()[2:3]]
    optimizer = optimizer_class(spec(PRODIGY, tmp_path))(params, d0=1e-3)
    for step in range(4):
        towards_one(params, step)
        optimizer.step()
    first, second, third = (optimizer.state[p]["d"] for p in params)
    assert first is second and (first.dtype, third.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(first.double(), third, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_copies_of_other_dtypes_stay_the_same(backend: str, tmp_path: Path) -> None:
    """Though one kind pauses, or has no elements, and a parameter begins late."""
    text = "name: One\nsummary: x\nhyper: {lr: {default: 0.01}}\nstate: {s: {scope: optimizer, init: 1}}\nupdate: |\n"
    text += "  s = ema(s, sum(g**2, over=optimizer), 0.9)\n  p = p - lr*g/sqrt(s)\n"
    params = [torch.nn.Parameter(torch.ones(4, dtype=dtype)) for dtype in (torch.float64, torch.float32, torch.float32)]
    params.append(torch.nn.Parameter(torch.ones(0, dtype=torch.float64)))
    optimizer = optimizer_class(spec(text, tmp_path))(params, backend=backend)
    expected = 1.0
    for active in ((0, 1, 3), (1,), (1, 3), (1, 2), (0, 2), (0, 1, 2, 3)):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, i + 1.0) if i in active else None
        optimizer.step()
        expected = 0.9 * expected + 0.1 * sum(4 * (i + 1.0) ** 2 for i in active if i != 3)
        found = [optimizer.state[p]["s"].item() for p in params if optimizer.state.get(p)]
        assert found == pytest.approx([expected] * len(found), rel=1e-6)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_a_compiled_step_wants_equal_groups_too(tmp_path: Path) -> None:
    params = parameters()
    optimizer = optimizer_class(spec(PRODIGY, tmp_path))(groups(params))
    optimizer.param_groups[1]["d_coef"] = 2.0
    towards_one(params, 0)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"Observed exception|must be the same in all groups"):
        torch.compile(optimizer.step, fullgraph=True, backend="eager")()
    assert not any("m" in state for state in optimizer.state.values())


def test_groups_must_agree_on_what_a_state_of_the_optimizer_depends_on(tmp_path: Path) -> None:
    params = parameters()
    optimizer = optimizer_class(spec(PRODIGY, tmp_path))(groups(params))
    gradients(params, torch.Generator().manual_seed(1))
    optimizer.param_groups[1]["d_coef"] = 2.0
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match=r"depends on 'd_coef', which must be the same in all groups, got 1\.0, 2\.0"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True)) and not optimizer.state
    states = {state.name: set(state.same) for state in build(str(spec(PRODIGY, tmp_path))).program.states}
    assert states["d"] == {"d0", "d_coef", "growth_rate"} and states["numerator"] == {"betas"}


HEAD = "name: Shared\nsummary: x\nhyper: {lr: {default: 0.1}, betas: {default: [0.9, 0.99], names: [beta1, beta2]}}\n"


@pytest.mark.parametrize(
    ("state", "update", "message"),
    [
        ("{scope: group}", "a = sum(g)\n  d = d + a", "'d' is one for all parameters of the group, and 'a' differs"),
        ("{scope: optimizer}", "d = d + l2(g, over=group)", "what is of a group differs among these"),
        ("{scope: group}", "d = d + t", "and 't' differs among these"),
        ("{scope: group}", "if t > 1:\n    d = d + l2(g, over=group)", "a condition differs among these"),
        ("{scope: group, like: p}", "d = d + l2(g, over=group)", "and so one number"),
        ("{scope: group, init: 2*lr}", "d = d + l2(g, over=group)", "write a number, or the name of a hyperparameter"),
        ("{scope: group, init: beta1}", "d = d + l2(g, over=group)", "write a number, or the name of a hyperparameter"),
        ("{scope: group, when: lr > 1}", "d = d + l2(g, over=group)", "shared, and always there"),
        ("{scope: group}}\nblocks: {every: 3", "d = d + l2(g, over=group)", "states of blocks end with their turns"),
        ("{scope: model}", "d = d + l2(g, over=group)", "expected one of 'group', 'optimizer', 'parameter'"),
    ],
)
def test_what_is_refused(state: str, update: str, message: str, tmp_path: Path) -> None:
    text = f"{HEAD}state: {{d: {state}}}\nupdate: |\n  {update}\n  p = p - lr*(beta1 + beta2)*d*g\n"
    with pytest.raises(SpecError) as raised:
        build(str(spec(text, tmp_path)))
    assert message in render_all(raised.value.diagnostics)
