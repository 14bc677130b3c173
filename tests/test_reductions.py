"""Sums and norms of all elements: in every backend, whatever shares the launch, with what is not finite, in few sweeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optgen.build import build
from optgen.generated.lamb import LAMB
from optgen.generated.novograd import NovoGrad
from optgen.in_memory import optimizer_class
from optgen.plan.traffic import kernel_bytes
from tests.conftest import SHIPPED, interpreted

EVERY = """
name: Every
summary: Every reduction, nested, shared and under a flag.
hyper:
  lr:   {default: 1e-2, min: 0}
  clip: {default: false}
state:
  m: {like: p}
update: |
  m = ema(m, g, 0.9)
  centred = m - mean(m)
  deviation = rms(centred)
  spread = max(m) - min(m)
  scale = 1
  if clip:
    scale = min(1, 0.5/(l2(g) + 1e-12))
  share = l1(m)/(sum(1 + 0*m) + 1e-12)
  p = p - lr*scale*centred/(deviation + 1e-3) - 1e-3*spread*sign(m) - lr*where(abs(m) > 0.37*share, m, 0)
"""
ORDERS = {  # rules in which it matters when a number of all elements is read: their states and their update
    "a local again": ("", "n = rms(g); u = g/n; n = max(g) + 3; p = p - u*n"),
    "a local of both": ("", "u = g; v = u*2; u = rms(g); p = p - v - u"),
    "a local under a flag": ("", "n = rms(g); u = g*n; if flag: n = n*0.5; p = p - u*n"),
    "an old state": ("s: {shape: tensor, init: 0.75}", "p = p - s; s = ema(s, rms(g), 0.5)"),
    "a state of elements": ("m: {like: p}", "p = p - m; m = rms(g)"),
    "what is summed changes": ("", "a = g; x = l1(a); a = 0.5*a; y = max(a); p = p - 0.1*a/(x + y)"),
    "codes of one number": (
        "m: {like: p, storage: {codebook: dynamic_exponent, bits: 8, block: 64, min_size: 0}}",
        "m = rms(g); p = p - m*g",
    ),
    "a constant start": ("s: {shape: tensor, init: 0.7}", "s = ema(s, max(g), 0.5); p = p - 0.1*g*s"),
    "a condition of elements": ("", "u = g; if flag: big = abs(g) > 1; if flag: u = where(big, g, p); p = p - u"),
    "a condition of all": ("", "u = g; big = rms(g) > 1; if flag: u = where(big, g, p) + where(big, p, g); p = p - u"),
}
SHAPES = [(), (1,), (33,), (5, 7), (1000, 3), (7, 300), (64, 128), (3, 4, 5)]
ALONE = (7, 300)


def stepped(
    backend: str, shapes: list[tuple[int, ...]], steps: int = 3, optimizer: type[torch.optim.Optimizer] = LAMB
) -> list[Tensor]:
    """Parameters after a few steps; those of one shape start and move alike, whatever the others are."""
    params = []
    for shape in shapes:
        generator = torch.Generator().manual_seed(math.prod(shape))
        params.append(torch.nn.Parameter(torch.randn(shape, generator=generator)))
    made: Any = optimizer(params, lr=0.1, backend=backend)  # type: ignore[call-arg]
    for step in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        made.step()
    return [p.detach() for p in params]


def ordered(name: str, folder: Path) -> Path:
    """The spec of one of ORDERS."""
    states, update = ORDERS[name]
    lines = [
        f"if flag:\n    {part.removeprefix('if flag: ')}" if part.startswith("if ") else part for part in update.split("; ")
    ]
    text = "".join(f"  {line}\n" for line in lines)
    hyper = "hyper: {flag: {default: true}}\n" if "flag" in update else ""
    path = folder / f"{name.replace(' ', '_')}.yaml"
    path.write_text(f"name: Ordered\nsummary: x\n{hyper}state: {{{states}}}\nupdate: |\n{text}", encoding="utf-8")
    return path


def moved(path: Path, backend: str) -> list[Tensor]:
    """Parameters after three steps of a spec."""
    params = [torch.nn.Parameter(torch.linspace(-1, 1, math.prod(shape)).view(shape)) for shape in ((3, 130), (7,), ())]
    made = optimizer_class(str(path))(params, backend=backend)
    for step in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
        made.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("name", ORDERS)
def test_numbers_are_read_when_the_rule_says(name: str, tmp_path: Path) -> None:
    path = ordered(name, tmp_path)
    for ours, expected in zip(moved(path, "cpp"), moved(path, "torch"), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_triton_reads_numbers_when_the_rule_says(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from pathlib import Path\n"
        "from tests.test_reductions import ORDERS, moved, ordered\n"
        "for name in ORDERS:\n"
        f"    path = ordered(name, Path({str(tmp_path)!r}))\n"
        "    for ours, expected in zip(moved(path, 'triton'), moved(path, 'torch'), strict=True):\n"
        "        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, msg=lambda text: f'{name}: {text}')\n"
    )
    interpreted("-c", code)


def test_every_reduction_equals_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "every.yaml"
    path.write_text(EVERY, encoding="utf-8")
    interpreted("-m", "optgen.cli.main", "verify", str(path), "--backend", "torch", "--backend", "triton", "--backend", "cpp")


@pytest.mark.parametrize("optimizer", [LAMB, NovoGrad])
@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_neighbours_in_a_launch_change_nothing(backend: str, optimizer: type[torch.optim.Optimizer]) -> None:
    (alone,) = stepped(backend, [ALONE], optimizer=optimizer)
    among = stepped(backend, SHAPES, optimizer=optimizer)[SHAPES.index(ALONE)]
    assert torch.equal(alone, among)
    assert torch.equal(alone, stepped(backend, [ALONE], optimizer=optimizer)[0])


@pytest.mark.parametrize("optimizer", [LAMB, NovoGrad])
def test_threads_change_nothing(optimizer: type[torch.optim.Optimizer]) -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(stepped("cpp", [(700, 300)], optimizer=optimizer)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_neighbours_in_a_launch_of_triton_change_nothing() -> None:
    code = (
        "import torch\n"
        "from tests.test_reductions import ALONE, LAMB, NovoGrad, stepped\n"
        "shapes = [(33,), ALONE, (5, 7)]\n"
        "for optimizer in (LAMB, NovoGrad):\n"
        "    alone, among = [stepped('triton', each, 2, optimizer) for each in ([ALONE], shapes)]\n"
        "    assert torch.equal(alone[0], among[1])\n"
    )
    interpreted("-c", code)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("word", ["max", "min", "sum", "rms"])
def test_what_is_not_finite_reaches_the_result_alike(word: str, bad: float, tmp_path: Path) -> None:
    path = tmp_path / "not_finite.yaml"
    path.write_text(f"name: NotFinite\nsummary: x\nupdate: p = p*0 + {word}(g)\n", encoding="utf-8")
    results = []
    for backend in ("torch", "cpp"):
        p = torch.nn.Parameter(torch.zeros(3, 333))
        p.grad = torch.arange(999.0).view(3, 333)
        p.grad[1, 7] = bad
        optimizer_class(str(path))([p], backend=backend).step()
        results.append(p.detach())
    assert torch.equal(results[0].isnan(), results[1].isnan())
    assert torch.equal(results[0].nan_to_num(), results[1].nan_to_num())


def test_parameters_without_elements_are_left_alone() -> None:
    assert [p.numel() for p in stepped("cpp", [(0, 4), (3,)])] == [0, 3]


def test_the_norm_of_zero_leaves_the_step_as_it_is() -> None:
    """The ratio of LAMB is 1 where the parameter or its direction is zero."""
    p = torch.nn.Parameter(torch.zeros(40))
    p.grad = torch.full((40,), 3.0)
    LAMB([p], lr=0.1, weight_decay=0.0).step()
    assert torch.allclose(p, torch.full((40,), -0.1), atol=1e-5)


def test_a_state_of_one_number_is_kept_beside_the_parameter(tmp_path: Path) -> None:
    p = torch.nn.Parameter(torch.ones(3, 5))
    p.grad = torch.full((3, 5), 2.0)
    optimizer = NovoGrad([p])
    optimizer.step()
    v = optimizer.state[p]["exp_avg_sq"]
    assert (v.shape, v.dtype, v.item()) == ((), torch.float32, pytest.approx(60))
    torch.save(optimizer.state_dict(), tmp_path / "kept.pt")
    q = torch.nn.Parameter(p.detach().clone())
    q.grad = p.grad.clone()
    resumed = NovoGrad([q])
    resumed.load_state_dict(torch.load(tmp_path / "kept.pt", weights_only=True))
    optimizer.step()
    resumed.step()
    assert torch.equal(p, q)
    assert "exp_avg_sq" in optimizer.state_dict()["state"][0]
    assert "v one number of all elements" in optimizer.explain()


def test_a_state_of_one_number_can_follow_what_the_host_knows(tmp_path: Path) -> None:
    """Without a reduction there is one sweep, and still no tile may read what another has written."""
    path = tmp_path / "host.yaml"
    state = "state: {k: {shape: tensor}, c: {shape: tensor, init: 2}}\n"
    path.write_text(
        f"name: HostNumber\nsummary: x\n{state}update: |\n  k = k + t\n  c = 0.5\n  p = p - k*g + c\n", encoding="utf-8"
    )
    for backend in ("torch", "cpp"):
        p = torch.nn.Parameter(torch.zeros(100, 300))
        optimizer = optimizer_class(str(path))([p], backend=backend)
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
        assert torch.equal(p, torch.full((100, 300), 3 * 0.5 - 1 - 3 - 6))
    interpreted("-m", "optgen.cli.main", "verify", str(path), "--backend", "triton")


def test_lamb_writes_its_averages_in_the_first_sweep() -> None:
    """28 bytes as AdamW, and once more the parameter and both averages: reading the gradient again would take 4 more."""
    plan = build(str(SHIPPED["lamb"])).plan
    (kernel,) = plan.kernels
    first, last = kernel.sweeps
    assert {b.name for b in first.buffers if b.written} >= {"m_state", "v_state"}
    assert {b.name for b in last.buffers if b.written} == {"param", "correction"}
    assert kernel_bytes(kernel, param=4, grad=4) == 28 + 12 + 4 * 4 / 256


def test_a_rounded_state_is_not_read_again(tmp_path: Path) -> None:
    """What was stored in 16 bits is not what the rule computed: its last sweep computes it again from the old one."""
    path = tmp_path / "rounded.yaml"
    states = "state: {m: {storage: bfloat16}}\n"
    path.write_text(f"name: Rounded\nsummary: x\nextends: lamb\n{states}", encoding="utf-8")
    (kernel,) = build(str(path)).plan.kernels
    first, last = kernel.sweeps
    assert "m_state" not in {b.name for b in first.buffers if b.written}
    assert "m_state" in {b.name for b in last.buffers if b.written}


def test_reading_an_old_value_keeps_the_store_for_later(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    update = "update: |\n  old = m\n  m = ema(m, g, 0.9)\n  p = p - 0.1*(m - old)/(rms(m) + 1)\n"
    path.write_text(f"name: Old\nsummary: x\nstate: {{m: {{like: p}}}}\n{update}", encoding="utf-8")
    (kernel,) = build(str(path)).plan.kernels
    assert "m_state" in {b.name for b in kernel.sweeps[-1].buffers if b.written}


def test_many_states_are_planned_in_time(tmp_path: Path) -> None:
    """Eight states and seven reductions, one after the other: forty thousand choices of sweeps."""
    states = ", ".join(f"m{i}: {{like: p}}" for i in range(8))
    lines = [f"m{i} = ema(m{i}, {f'm{i - 1}/(rms(m{i - 1}) + 1)' if i else 'g'}, 0.9)" for i in range(8)]
    path = tmp_path / "many.yaml"
    update = "".join(f"  {line}\n" for line in [*lines, "p = p - " + " - ".join(f"0.1*m{i}" for i in range(8))])
    path.write_text(f"name: Many\nsummary: x\nstate: {{{states}}}\nupdate: |\n{update}", encoding="utf-8")
    (kernel,) = build(str(path)).plan.kernels
    assert len(kernel.sweeps) == 8
    each, last = 12, 8 + 6 * 4  # what was made before and a state, there and back; the parameter and the other states
    assert kernel_bytes(kernel, param=4, grad=4) == 8 * each + last + 7 * 2 * 4 / 256  # 216 if states were written last
