"""Inputs of a step: what is given, to whom and for how long; SophiaG and SophiaH beside others' steps; estimates of curvature."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pytorch_optimizer import SophiaH as TheirSophiaH
from torch import Tensor, nn

import optgen
from optgen.build import build
from optgen.diagnostics import SpecError
from optgen.generated.lion import Lion
from optgen.generated.sophia_g import SophiaG
from optgen.generated.sophia_h import SophiaH
from optgen.plan.traffic import kernel_bytes
from optgen.reference.compare import Case, compare
from optgen.spec.load import load_programs
from tests.conftest import SHIPPED

SHAPES = ((5, 7), (33,), ())
BACKENDS = ("torch", "cpp")


def make_params(dtype: torch.dtype = torch.float64, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def normal(like: list[nn.Parameter], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) for p in like]


def step(optimizer: Any, t: int, **inputs: Any) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, grad in zip(params, normal(params, t), strict=True):
        p.grad = grad
    if inputs:
        optimizer.give(**inputs)
    optimizer.step()


def equal(a: list[nn.Parameter], b: list[nn.Parameter]) -> bool:
    return all(map(torch.equal, a, b))


class LoopSophiaG:
    """The authors' step, in loops over floats: h is updated behind the step, by an estimate of that step's batch."""

    def __init__(self, params: list[nn.Parameter], lr: float, rho: float, decay: float, bs: float) -> None:
        self.p = [p.detach().double().flatten().tolist() for p in params]
        self.m = [[0.0] * len(p) for p in self.p]
        self.h = [[0.0] * len(p) for p in self.p]
        self.lr, self.rho, self.decay, self.bs = lr, rho, decay, bs

    def update_hessian(self, estimates: list[Tensor]) -> None:
        for h, estimate in zip(self.h, estimates, strict=True):
            for i, g in enumerate(estimate.flatten().tolist()):
                h[i] = 0.99 * h[i] + (1 - 0.99) * g * g

    def step(self, grads: list[Tensor]) -> None:
        for p, m, h, grad in zip(self.p, self.m, self.h, grads, strict=True):
            for i, g in enumerate(grad.flatten().tolist()):
                p[i] *= 1 - self.lr * self.decay
                m[i] = 0.965 * m[i] + (1 - 0.965) * g
                ratio = min(1.0, abs(m[i]) / (self.rho * self.bs * h[i] + 1e-15))
                p[i] -= self.lr * (m[i] > 0) * ratio - self.lr * (m[i] < 0) * ratio


@pytest.mark.parametrize("backend", BACKENDS)
def test_sophia_g_is_the_authors_step(backend: str) -> None:
    """An estimate that they take behind step t is given to step t + 1; some elements are clipped and some are not."""
    params = make_params()
    theirs = LoopSophiaG(params, lr=0.1, rho=0.04, decay=0.1, bs=100)
    ours = SophiaG(params, lr=0.1, bs=100, backend=backend)
    for t in range(30):
        given = {}
        if t % 5 == 1:
            estimates = normal(params, 1000 + t)
            theirs.update_hessian(estimates)
            given = {"g_hat": estimates}
        theirs.step(normal(params, t))
        step(ours, t, **given)
        for p, expected, h in zip(params, theirs.p, theirs.h, strict=True):
            assert torch.allclose(p.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
            kept = ours.state[p]["hessian"].flatten()
            assert torch.allclose(kept, torch.tensor(h, dtype=torch.float64), rtol=0, atol=1e-12)
    ratios = [(ours.state[p]["exp_avg"].abs() / (4 * ours.state[p]["hessian"])).flatten() for p in params]
    assert 0.1 < (torch.cat(ratios) < 1).double().mean() < 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_sophia_h_is_pytorch_optimizers(backend: str) -> None:
    ours, theirs = make_params(), make_params()
    mine = SophiaH(ours, weight_decay=0.1, backend=backend)
    other = TheirSophiaH(theirs, weight_decay=0.1, update_period=10**6)
    for t in range(25):
        estimates = normal(ours, 1000 + t)
        for p, grad in zip(theirs, normal(theirs, t), strict=True):
            p.grad = grad
        other.step(hessian=[e.clone() for e in estimates] if t % 4 == 0 else None)
        step(mine, t, **({"h_hat": estimates} if t % 4 == 0 else {}))
        for p, q in zip(ours, theirs, strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_some_parameters_are_given_more_than_others(backend: str) -> None:
    """By a mapping and by a list with None alike; each parameter's step is the one that it has alone."""
    by_list, by_mapping = make_params(), make_params()
    alone = make_params()
    first, second = SophiaH(by_list, backend=backend), SophiaH(by_mapping, backend=backend)
    single = [SophiaH([p], backend=backend) for p in alone]
    for t in range(6):
        estimates, grads = normal(alone, 1000 + t), normal(alone, t)
        chosen = [(t + at) % 2 == 0 for at in range(len(alone))]
        step(first, t, h_hat=[e if c else None for e, c in zip(estimates, chosen, strict=True)])
        step(second, t, h_hat={p: e for p, e, c in zip(by_mapping, estimates, chosen, strict=True) if c})
        for optimizer, p, grad, e, c in zip(single, alone, grads, estimates, chosen, strict=True):
            p.grad = grad
            if c:
                optimizer.give(h_hat=[e])
            optimizer.step()
        assert equal(by_list, by_mapping)
        assert equal(by_list, alone)


def test_a_step_forgets_what_it_was_given() -> None:
    params = make_params()
    optimizer = SophiaH(params)
    step(optimizer, 0, h_hat=normal(params, 50))
    before = [optimizer.state[p]["hessian"].clone() for p in params]
    assert all(h.any() for h in before)
    step(optimizer, 1)
    assert all(torch.equal(optimizer.state[p]["hessian"], h) for p, h in zip(params, before, strict=True))


def test_given_twice_the_second_counts() -> None:
    """A second call replaces what was given of that input before, for all parameters."""
    ours, theirs = make_params(), make_params()
    first, second = SophiaH(ours), SophiaH(theirs)
    first.give(h_hat=normal(ours, 7))
    first.give(h_hat={ours[0]: normal(ours, 8)[0]})
    step(first, 0)
    step(second, 0, h_hat=[normal(ours, 8)[0], None, None])
    assert equal(ours, theirs)


def test_a_closure_may_give() -> None:
    ours, theirs = make_params(), make_params()
    first, second = SophiaH(ours), SophiaH(theirs)
    estimates = normal(ours, 9)

    def closure() -> float:
        for p, grad in zip(ours, normal(ours, 0), strict=True):
            p.grad = grad
        first.give(h_hat=estimates)
        return 1.0

    assert first.step(closure) == 1.0
    step(second, 0, h_hat=estimates)
    assert equal(ours, theirs)


def test_without_a_gradient_an_input_is_forgotten() -> None:
    p = make_params()[:1]
    optimizer = SophiaH(p)
    optimizer.give(h_hat=normal(p, 0))
    optimizer.step()
    assert not optimizer.state
    step(optimizer, 1)
    assert not optimizer.state[p[0]]["hessian"].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_given_tensor_is_only_read(backend: str) -> None:
    """Of any floating dtype and strides; kernels compute in float32, or float64 for float64 parameters."""
    p = nn.Parameter(torch.randn(64, 32).t())  # not contiguous
    q = nn.Parameter(p.detach().clone(memory_format=torch.preserve_format))
    narrow = torch.randn(32, 64).to(torch.bfloat16)
    kept = narrow.clone()
    row = torch.randn(64).expand(32, 64)  # elements that share memory
    first, second = SophiaH([p], backend=backend), SophiaH([q], backend=backend)
    step(first, 0, h_hat=[narrow])
    step(second, 0, h_hat=[kept.float()])
    step(first, 1, h_hat=[row])
    step(second, 1, h_hat=[row.contiguous()])
    assert torch.equal(p, q)
    assert torch.equal(narrow, kept)
    graph = torch.randn(32, 64, requires_grad=True)
    step(first, 2, h_hat=[graph * 2])
    assert not first.state[p]["hessian"].requires_grad


WRONG: dict[str, tuple[Callable[[list[nn.Parameter]], Any], type[Exception], str]] = {
    "name": (lambda p: {"hess": p}, TypeError, r"SophiaH has no input 'hess' \(known: h_hat\)"),
    "count": (lambda p: {"h_hat": [p[0].detach()]}, ValueError, "'h_hat' has 1 tensors for 3 parameters"),
    "stranger": (lambda _: {"h_hat": {torch.zeros(2): torch.zeros(2)}}, ValueError, r"a tensor of shape \(2,\), which is none"),
    "key": (lambda _: {"h_hat": {"weight": torch.zeros(2)}}, ValueError, "given for 'weight', which is none of its parameters"),
    "shape": (lambda p: {"h_hat": {p[0]: torch.zeros(7, 5)}}, ValueError, r"has shape \(7, 5\), the parameter \(5, 7\)"),
    "device": (lambda p: {"h_hat": {p[0]: torch.zeros(5, 7, device="meta")}}, ValueError, "is on meta, the parameter on cpu"),
    "dtype": (
        lambda p: {"h_hat": {p[0]: torch.zeros(5, 7, dtype=torch.int64)}},
        TypeError,
        "floating-point .* got torch.int64",
    ),
    "complex": (lambda p: {"h_hat": {p[0]: torch.zeros(5, 7, dtype=torch.cfloat)}}, TypeError, "got torch.complex64"),
    "sparse": (
        lambda p: {"h_hat": {p[0]: torch.zeros(5, 7).to_sparse()}},
        RuntimeError,
        "dense tensor, got layout torch.sparse_coo",
    ),
    "number": (lambda p: {"h_hat": {p[2]: 1.0}}, TypeError, "parameter '2', input 'h_hat': expected a tensor, got float"),
    "tensor": (
        lambda p: {"h_hat": p[0].detach()},
        TypeError,
        "is a list of tensors, one for each parameter, .* got Parameter|Tensor",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_given_is_refused(case: str) -> None:
    """And nothing is given then, of what is right neither."""
    values, error, message = WRONG[case]
    params, twin = make_params(), make_params()
    optimizer, other = SophiaH(params), SophiaH(twin)
    with pytest.raises(error, match=message):
        optimizer.give(**values(params))
    step(optimizer, 0)
    step(other, 0)
    assert equal(params, twin)


def test_others_have_no_inputs() -> None:
    with pytest.raises(TypeError, match=r"Lion has no input 'h_hat' \(it has none\)"):
        Lion(make_params()).give(h_hat=[])


def test_a_parameter_that_changed_since_is_refused_by_the_step() -> None:
    params = make_params(torch.float32)
    optimizer = SophiaH(params)
    optimizer.give(h_hat=normal(params, 0))
    params[0].data = torch.zeros(3)
    params[0].grad = torch.zeros(3)
    with pytest.raises(ValueError, match=r"parameter '0', input 'h_hat': has shape \(5, 7\), the parameter \(3,\)"):
        optimizer.step()
    assert not optimizer.state


def test_state_dicts_hold_no_inputs_and_resume() -> None:
    """Saved between giving and stepping, loaded in the middle of the cadence."""
    params = make_params(torch.float32)
    optimizer = SophiaG(params, bs=10)
    for t in range(3):
        step(optimizer, t, **({"g_hat": normal(params, 40 + t)} if t == 1 else {}))
    optimizer.give(g_hat=normal(params, 60))
    saved = copy.deepcopy(optimizer.state_dict())
    assert {key for state in saved["state"].values() for key in state} == {"step", "exp_avg", "hessian"}
    again = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = SophiaG(again, bs=10)
    resumed.give(g_hat=normal(again, 61))
    resumed.load_state_dict(saved)  # drops what was given
    resumed.give(g_hat=normal(again, 60))
    for t in range(3, 8):
        step(optimizer, t)
        step(resumed, t)
        assert equal(params, again)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_given_nothing(way: Callable[[Any], Any]) -> None:
    optimizer = SophiaG(make_params(torch.float32), bs=10)
    optimizer.give(g_hat=normal(optimizer.param_groups[0]["params"], 1))
    copied = way(optimizer)
    step(copied, 0)
    params = copied.param_groups[0]["params"]
    assert not any(copied.state[p]["hessian"].any() for p in params)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["sophia_g", "sophia_h"])
def test_states_may_be_stored_as_codes(name: str, backend: str) -> None:
    """Steps without an estimate leave the codes of h as they are, whatever the rounding."""
    storage = {"m": "int4", "h": {"codebook": "linear", "bits": 8, "block": 128, "rounding": "stochastic"}}
    made = optgen.optimizer_class(name, storage=storage)
    params = make_params(torch.float32, ((64, 128), (33,)))
    optimizer = made(params, lr=1e-3, backend=backend)
    which = "g_hat" if name == "sophia_g" else "h_hat"
    step(optimizer, 0, **{which: normal(params, 90)})
    kept = {key: value.clone() for key, value in optimizer.state[params[0]].items() if key.startswith("hessian")}
    assert kept["hessian.codes"].shape == (64, 128)
    assert kept["hessian.codes"].any()
    for t in range(1, 4):
        step(optimizer, t)
        assert all(torch.equal(optimizer.state[params[0]][key], value) for key, value in kept.items())
    step(optimizer, 4, **{which: normal(params, 91)})
    assert not torch.equal(optimizer.state[params[0]]["hessian.codes"], kept["hessian.codes"])


SCOPES = {
    "row and tensor": ("{codebook: linear, bits: 4, block: tensor}", "{codebook: linear, bits: 8, block: row}"),
    "rows and columns": ("{codebook: bfloat16, rounding: nearest}", "{codebook: linear, bits: 4, block: rank1}"),
    "blocks": ("{codebook: dynamic_exponent, bits: 3, block: 64}", "{codebook: bfloat16, rounding: stochastic}"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scope", SCOPES)
def test_every_kind_of_storage_is_written_when_it_is_given(
    scope: str, backend: str, generate: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    m, h = SCOPES[scope]
    text = f"name: Stored\nsummary: Codes.\nextends: sophia_h\nstate:\n  m: {{storage: {m}}}\n  h: {{storage: {h}}}\n"
    made = generate(text).Stored
    (tmp_path / "stored.yaml").write_text(text, encoding="utf-8")
    program = build(str(tmp_path / "stored.yaml")).program
    found = compare(made, program, Case("codes", ((40, 135), (16, 256)), steps=4), backend=backend)
    assert found.p <= 1
    assert found.state <= 1
    assert found.far_codes == 0


MIXED = """
name: Mixed
summary: Two inputs among flags, sums, host numbers and conditions on t.
hyper:
  lr:   {default: 0.1}
  fast: {default: false}
  beta: {default: 0.9, min: 0, below: 1}
inputs:
  a: {like: p}
  b: {like: p}
state:
  k: {shape: scalar}
  n: {shape: tensor}
  h: {like: p, save_as: hessian}
  x: {like: p, when: fast}
update: |
  u = g
  if given(a):
    k = k + 1
    h = ema(h, a*abs(a), beta)/(1 - beta**k)
    n = ema(n, l2(a), beta)
    u = u + a/max(l2(a), 1)
    if fast and t > 1:
      u = u - 2*a
  elif given(b) and fast:
    u = 2*u
  if given(b):
    if not given(a):
      u = u + b*b + k
  if fast:
    x = 0*g
    if given(b):
      x = b
    u = u + x
  c = where(given(a) or fast, 1, 2)
  if k > 0:
    u = u*c
  p = p - lr*u - 0.001*h - 0.01*sign(g)*n
"""

ROWS = """
name: Rows
summary: An input that is reduced over rows.
hyper: {lr: {default: 0.1}}
inputs: {a: {like: p}}
state:
  r: {shape: [..., rows, 1], sign: unsigned}
  c: {shape: [..., 1, cols], sign: unsigned}
  s: {like: p}
update: |
  w = g**2
  if given(a):
    w = a**2
    s = ema(s, a, 0.9)
    c = ema(c, mean(a**2, over=rows), 0.9)
  r = ema(r, mean(w + 1e-8, over=cols), 0.9)
  p = p - lr*g*rsqrt(r/mean(r, over=rows) + 0.1)*rsqrt(c + 1) - 0.01*s
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("hypers", [{}, {"fast": True}], ids=str)
@pytest.mark.parametrize("text", [MIXED, ROWS], ids=["mixed", "rows"])
def test_inputs_among_everything_else(
    text: str, hypers: dict[str, Any], backend: str, generate: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    if text is ROWS and hypers:
        pytest.skip("it has no flags")
    module = generate(text)
    (tmp_path / "rule.yaml").write_text(text, encoding="utf-8")
    built = build(str(tmp_path / "rule.yaml"))
    shapes = ((16, 256), (5, 7), (40, 33), (7, 11))
    found = compare(
        getattr(module, built.spec.name), built.program, Case("all", shapes, steps=8, hypers=hypers), backend=backend
    )
    assert found.p <= 1
    assert found.state <= 1


RULES = """
name: Ruled
summary: Matrices with an input, others without.
hyper: {lr: {default: 0.1}}
rules:
  - when: ndim >= 2
    name: matrix
    inputs: {h_hat: {like: p}}
    state: {h: {like: p}}
    update: |
      if given(h_hat):
        h = ema(h, h_hat, 0.9)
      p = p - lr*g/max(abs(h), 0.1)
  - when: size(0) > 10
    name: vector
    use: sophia_g
  - otherwise: sgd
"""


def test_inputs_belong_to_rules(generate: Callable[[str], ModuleType]) -> None:
    """A list for all parameters may hold tensors for those whose rule has no such input: they are not used."""
    made, params, twin = (
        generate(RULES).Ruled,
        make_params(shapes=((5, 7), (33,), (4,))),
        make_params(shapes=((5, 7), (33,), (4,))),
    )
    first, second = made(params), made(twin)
    for t in range(3):
        estimates = normal(params, 20 + t)
        step(first, t, h_hat=estimates, g_hat=[None, estimates[1], None])
        step(second, t, h_hat={twin[0]: estimates[0]}, g_hat=estimates)
        assert equal(params, twin)
    assert first.state[params[1]]["hessian"].any()
    with pytest.raises(TypeError, match=r"has no input 'z' \(known: h_hat, g_hat\)"):
        first.give(z=[])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_step_leaves_those_that_are_given_inputs(backend: str) -> None:
    """As a whole it is refused for them; else they run as they are between compiled ones."""
    torch._dynamo.reset()
    params, twin = make_params(torch.float32), make_params(torch.float32)
    optimizer, other = SophiaG(params, bs=10, backend=backend), SophiaG(twin, bs=10, backend=backend)
    compiled = torch.compile(optimizer.step)
    for t in range(7):
        estimates = normal(params, 70 + t)
        for p, q, grad in zip(params, twin, normal(params, t), strict=True):
            p.grad, q.grad = grad, grad.clone()
        if t in (2, 5):
            optimizer.give(g_hat=estimates)
            other.give(g_hat=estimates)
        compiled()
        other.step()
        for p, q in zip(params, twin, strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-6)
    torch._dynamo.reset()
    optimizer.give(g_hat=estimates)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="_update_with_inputs_not_compiled"):
        torch.compile(optimizer.step, fullgraph=True)()


def test_update_functions_that_are_compiled_take_inputs() -> None:
    params, twin = make_params(torch.float32), make_params(torch.float32)
    first, second = SophiaG(params, bs=10, backend="torch", compile=True), SophiaG(twin, bs=10, backend="torch")
    for t in range(4):
        given = {"g_hat": normal(params, 70 + t)} if t % 2 else {}
        step(first, t, **given)
        step(second, t, **given)
        for p, q in zip(params, twin, strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "flag"), [("sophia_g", "given_g_hat"), ("sophia_h", "given_h_hat")])
def test_bytes_of_an_input_and_of_what_it_changes_are_counted_with_it(name: str, flag: str) -> None:
    """Without it h is read and not written."""
    (kernel,) = build(str(SHIPPED[name])).plan.kernels
    without = kernel_bytes(kernel, param=4, grad=4)
    assert without == 4 + 4 + 4 + 8 + 4
    assert kernel_bytes(kernel, param=4, grad=4, flags={flag: True}) == without + 4 + 4


def test_a_python_spec_has_inputs_too(generate: Callable[..., ModuleType]) -> None:
    text = """
        from optgen import define
        define(
            name="Computed",
            summary="As in YAML.",
            hyper={"lr": {"default": 0.1}},
            inputs={"h_hat": {"like": "p", "doc": "estimate"}},
            update="u = g\\nif given(h_hat):\\n  u = g/max(h_hat, 1)\\np = p - lr*u",
        )
    """
    made = generate(text, suffix=".py").Computed
    p = nn.Parameter(torch.ones(3))
    optimizer = made([p])
    p.grad = torch.ones(3)
    optimizer.give(h_hat=[torch.full((3,), 2.0)])
    optimizer.step()
    assert torch.allclose(p, torch.full((3,), 0.95))
    assert "h_hat: like p. estimate" in (made.__doc__ or "")


FAULTS = {
    "state: {h: {like: p, when: given(a)}}\nupdate: |\n  h = g\n  p = p - h": (
        "not-static",
        "must not change from step to step",
    ),
    "state: {h: {like: p, init: a}}\nupdate: |\n  h = h + g\n  p = p - h": ("bad-init", "'a' is not known when state 'h'"),
    "update: |\n  a = g\n  p = p - a": ("assign-to-input", "'a' is an input and cannot be assigned"),
    "update: |\n  if given(g):\n    p = p - g": ("wrong-arguments", "this word takes the name of an input"),
    "state: {a: {like: p}}\nupdate: |\n  a = g\n  p = p - a": ("name-clash", "'a' is an input and a state"),
    "hyper: {a: {default: 1}}\nupdate: p = p - g": ("name-clash", "'a' is an input and a hyperparameter"),
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_around_inputs(text: str, tmp_path: Path) -> None:
    code, message = FAULTS[text]
    (tmp_path / "rule.yaml").write_text(f"name: Rule\nsummary: A rule.\ninputs: {{a: {{like: p}}}}\n{text}\n", encoding="utf-8")
    with pytest.raises(SpecError) as raised:
        load_programs(str(tmp_path / "rule.yaml"))
    assert (code, True) in {(d.code, message in d.message) for d in raised.value.diagnostics}


def test_hutchinson_is_the_diagonal_on_average() -> None:
    """Of a quadratic whose Hessian is known; a parameter that is linear in the loss has none, and one apart gets None."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    x, line, apart = (nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64)) for _ in range(3))
    loss = x @ matrix @ x / 2 + line.sum() * 3
    found = [optgen.hutchinson(loss, [x, line, apart], generator=generator) for _ in range(4000)]
    mean = torch.stack([each[0] for each in found if each[0] is not None]).mean(dim=0)
    diagonal = matrix.diagonal()
    assert (mean - diagonal).abs().max() < 0.25
    assert all(each[1] is not None and not each[1].any() and each[2] is None for each in found)
    assert x.grad is None
    loss.backward()  # type: ignore[no-untyped-call]
    again = [optgen.hutchinson(x @ x, [x], generator=torch.Generator().manual_seed(3))[0] for _ in range(2)]
    assert again[0] is not None and again[1] is not None and torch.equal(again[0], again[1])


def test_sampled_gradients_estimate_the_gauss_newton_matrix() -> None:
    """B times their mean square is the diagonal of J' S J, with S the covariance of the labels' distribution, over B."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 3, generator=generator)
    weight, unused = nn.Parameter(torch.randn(4, 3, generator=generator)), nn.Parameter(torch.zeros(2))
    logits = inputs @ weight.t()
    q = logits.detach().softmax(dim=1)
    exact = ((q * (1 - q)).t() @ inputs**2) / 5
    total, draws = torch.zeros(4, 3), 4000
    for _ in range(draws):
        found, none = optgen.sampled_gradients(logits, [weight, unused], generator=generator, retain_graph=True)
        assert found is not None and none is None
        total += 5 * found**2
    assert torch.allclose(total / draws, exact, rtol=0.15, atol=0.01)
    assert weight.grad is None


def test_estimates_refuse_what_they_cannot_use() -> None:
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="the logits have no graph"):
        optgen.sampled_gradients(torch.zeros(2, 3), [p])
    with pytest.raises(ValueError, match=r"shaped \(\.\.\., classes\) and not empty, got \(0, 3\)"):
        optgen.sampled_gradients(torch.zeros(0, 3), [p])
    with pytest.raises(ValueError, match=r"one number, got shape \(3,\)"):
        optgen.hutchinson(p * 2, [p])
    with pytest.raises(ValueError, match="the loss has no graph"):
        optgen.hutchinson(torch.ones(()), [p])


def test_verifying_takes_both_sides_of_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that never sees what it is given is told from the reference, and so is one that sees it in every step."""
    program = build(str(SHIPPED["sophia_h"])).program
    case = Case("small", ((33,),), steps=2)
    assert compare(SophiaH, program, case, backend="torch").state <= 1
    give = SophiaH.give
    monkeypatch.setattr(SophiaH, "give", lambda _, **__: None)
    assert compare(SophiaH, program, case, backend="torch").state > 1
    every = {"h_hat": [torch.ones(33)]}
    monkeypatch.setattr(SophiaH, "give", lambda self, **_: give(self, **every))
    assert compare(SophiaH, program, case, backend="torch").state > 1
