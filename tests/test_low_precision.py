"""16-bit parameters and states: nothing small is lost, nothing else changes (the traps that other optimizers fall into)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optgen.build import build
from optgen.generated.adamw import AdamW
from optgen.generated.adamw_4bit import AdamW4bit
from optgen.generated.adamw_8bit import AdamW8bit
from optgen.generated.lion import Lion
from optgen.generated.lion_8bit import Lion8bit
from optgen.generated.sgd import SGD
from optgen.generated.solo import Solo
from optgen.generated.solo_3bit import Solo3bit
from optgen.reference import narrow
from optgen.reference.interpreter import Reference
from optgen.runtime import low_precision
from tests.conftest import ROOT, interpreted

MODES = ("stochastic", "kahan", "correction8", "correction16")
NARROW = (torch.bfloat16, torch.float16)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.fixture(scope="module")
def values() -> Tensor:
    """Float32 values of every size and sign, ties, zeros, subnormals of the 16-bit formats, infinities and NaNs."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(20000, generator=generator) * torch.exp2(torch.randint(-40, 15, (20000,), generator=generator))
    patterns = torch.arange(0, 2**16, 7, dtype=torch.int32)
    ties = ((patterns << 16) | 0x8000).view(torch.float32)
    ties16 = torch.arange(1, 400).float() * 2.0**-25
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 2.0**-14, 65504.0, 65519.0, 3.38e38])
    cuda_nan = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    return torch.cat([spread, ties[torch.isfinite(ties)], ties16, special, cuda_nan])


@pytest.mark.parametrize("dtype", NARROW, ids=str)
class TestRounding:
    def test_nearest_is_what_torch_converts_to(self, values: Tensor, dtype: torch.dtype) -> None:
        ours = low_precision._nearest(values, dtype).to(dtype)
        assert torch.equal(ours.nan_to_num(12345.0), values.to(dtype).nan_to_num(12345.0))
        assert torch.equal(torch.signbit(ours), torch.signbit(values.to(dtype)))

    @pytest.mark.parametrize("bits", [0, 1, 0x7FFF, 0x8000, 0xFFFF])
    def test_stochastic_falls_on_the_side_that_the_bits_say(self, values: Tensor, dtype: torch.dtype, bits: int) -> None:
        values = values[values.abs() < (65000 if dtype == torch.float16 else 3e38)]  # what overflows has one neighbour only
        values = values[(values == 0) | (values.abs() >= 2.0**-120)]  # the definition divides by the spacing
        rounding = getattr(low_precision, f"stochastic_{name_of(dtype)}")
        ours = rounding(values, torch.full(values.shape, bits, dtype=torch.int32))
        expected = narrow.stochastic(values.double().numpy(), np.full(values.shape, bits), name_of(dtype))
        assert np.array_equal(ours.double().numpy(), expected)
        assert torch.equal(ours.to(dtype).float(), ours)  # the dtype holds it exactly

    def test_stochastic_is_unbiased(self, dtype: torch.dtype) -> None:
        x = torch.tensor([1.0001, -3.14159, 0.3333, 1e-3, 7e-6])
        bits = torch.arange(2**16, dtype=torch.int32).unsqueeze(-1).expand(-1, len(x))
        mean = getattr(low_precision, f"stochastic_{name_of(dtype)}")(x.expand(2**16, -1), bits).double().mean(0)
        assert torch.allclose(mean, x.double(), rtol=1e-7, atol=0)

    def test_what_is_not_finite_passes_through(self, dtype: torch.dtype) -> None:
        """Adding random bits to CUDA's NaN, 0x7FFFFFFF, as an integer would give -0."""
        patterns = torch.tensor([0x7FFFFFFF, -1, 0x7FC00000, 0x7F800000, -0x800000], dtype=torch.int32)
        x = patterns.view(torch.float32)
        for bits in (0, 1, 0xFFFF):
            ours = getattr(low_precision, f"stochastic_{name_of(dtype)}")(x, torch.full(x.shape, bits, dtype=torch.int32))
            assert torch.equal(ours.to(dtype).isnan(), x.isnan())
            assert torch.equal(ours[3:], x[3:])

    @pytest.mark.parametrize("kind", ["kahan", "int8", "int16"])
    def test_a_correction_holds_what_it_promises(self, values: Tensor, dtype: torch.dtype, kind: str) -> None:
        largest = 6e4 if dtype == torch.float16 else 3e38
        x = values[values.isfinite() & (values.abs() < largest) & ((values == 0) | (values.abs() > 2.0**-100))]
        held = dtype if kind == "kahan" else getattr(torch, kind)
        bits = torch.randint(0, 2**16, x.shape, dtype=torch.int32)
        p, lost = low_precision.split(x, dtype, held, bits)
        assert torch.equal(p.to(dtype), x.to(dtype))
        assert lost.dtype == held
        correction = lost.float().numpy() if kind == "kahan" else lost.numpy()
        resolution = narrow.resolution(p.double().numpy(), correction, name_of(dtype))
        error = np.abs(low_precision.join(p.to(dtype), lost).double().numpy() - x.double().numpy())
        assert np.all(error <= resolution * 1.001 + 1e-7 * x.abs().double().numpy())


def run(optimizer: torch.optim.Optimizer, p: Tensor, gradient: float, steps: int) -> None:
    for _ in range(steps):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()


def mean(optimizer: Any) -> float:
    """Of the only parameter, with what is kept beside it."""
    return float(optimizer.master_parameters()[0].double().mean())


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("mode", MODES)
class TestSmallChanges:
    def test_a_thousand_steps_of_1e_4_move_a_tenth(self, mode: str, dtype: torch.dtype) -> None:
        p = torch.nn.Parameter(torch.ones(4096, dtype=dtype))
        optimizer = AdamW([p], lr=1e-4, weight_decay=0, low_precision=mode)
        run(optimizer, p, 1.0, 1000)
        assert abs(1 - mean(optimizer) - 0.1000) < 5e-4
        assert abs(1 - p.detach().double().mean() - 0.1000) < 2.0**-9 + 5e-4

    def test_a_thousand_decays_of_1e_4(self, mode: str, dtype: torch.dtype) -> None:
        p = torch.nn.Parameter(torch.ones(4096, dtype=dtype))
        optimizer = AdamW([p], lr=1e-2, weight_decay=1e-2, low_precision=mode)
        run(optimizer, p, 0.0, 1000)
        assert abs(1 - mean(optimizer) - 0.0952) < 5e-4
        assert abs(1 - p.detach().double().mean() - 0.0952) < 2.0**-9 + 5e-4

    def test_untouched_coordinates_stay(self, mode: str, dtype: torch.dtype) -> None:
        p = torch.nn.Parameter(torch.randn(64, 130).to(dtype))
        start = p.detach().clone()
        optimizer = Solo([p], lr=1e-2, weight_decay=0, low_precision=mode)
        for _ in range(20):
            p.grad = torch.randn(64, 130).to(dtype)
            p.grad[:, ::2] = 0
            optimizer.step()
        assert torch.equal(p[:, ::2], start[:, ::2])
        assert not torch.equal(p[:, 1::2], start[:, 1::2])

    def test_nan_and_infinity_stay(self, mode: str, dtype: torch.dtype) -> None:
        bad = torch.tensor([0x7FFF, -1, 0x7F80 if dtype == torch.bfloat16 else 0x7C00], dtype=torch.int16).view(dtype)
        p = torch.nn.Parameter(torch.cat([bad, torch.ones(61, dtype=dtype)]))
        run(Lion([p], lr=1e-3, low_precision=mode), p, 1.0, 3)
        assert torch.equal(p.isnan(), torch.arange(64) < 2)
        assert p[2] == torch.inf
        assert p[3:].isfinite().all()

    def test_a_reload_keeps_every_dtype_and_continues_exactly(self, mode: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.randn(40, 130).to(dtype))
        optimizer = Lion([p], lr=1e-3, low_precision=mode)
        run(optimizer, p, 0.3, 3)
        saved = copy.deepcopy(optimizer.state_dict())
        q = torch.nn.Parameter(p.detach().clone())
        other = Lion([q], lr=1e-3)
        other.load_state_dict(saved)
        assert {k: v.dtype for k, v in other.state[q].items()} == {k: v.dtype for k, v in optimizer.state[p].items()}
        run(optimizer, p, -0.2, 3)
        run(other, q, -0.2, 3)
        assert torch.equal(p, q)
        assert all(torch.equal(v, other.state[q][k]) for k, v in optimizer.state[p].items())


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_nearest_warns_and_loses_what_it_says(dtype: torch.dtype) -> None:
    p = torch.nn.Parameter(torch.ones(8, dtype=dtype))
    with pytest.warns(UserWarning, match="low_precision='nearest' loses every change"):
        optimizer = AdamW([p], lr=1e-4, weight_decay=0, low_precision="nearest")
    run(optimizer, p, 1.0, 100)
    assert torch.equal(p, torch.ones_like(p))


def test_a_correction_of_another_shape_is_refused() -> None:
    """SGD has no other state that could tell; a kernel would read and write behind the end of the correction."""
    p = torch.nn.Parameter(torch.ones(8).bfloat16())
    optimizer = SGD([p], low_precision="correction8")
    run(optimizer, p, 1.0, 1)
    p.data = torch.ones(9).bfloat16()
    with pytest.raises(RuntimeError, match=r"SGD: parameter '0' has shape \(9,\), but its state was made for another shape"):
        run(optimizer, p, 1.0, 1)


def test_parameters_of_32_bits_take_no_notice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained = []
        for mode in ("nearest", *MODES):
            p = torch.nn.Parameter(torch.ones(40))
            optimizer = AdamW([p], low_precision=mode)
            run(optimizer, p, 0.1, 3)
            assert set(optimizer.state[p]) == {"step", "exp_avg", "exp_avg_sq"}
            trained.append(p)
    assert all(torch.equal(p, trained[0]) for p in trained)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"AdamW: low_precision must be one of 'stochastic', .*, got 'fast'"):
        AdamW([torch.nn.Parameter(torch.ones(1))], low_precision="fast")


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(("mode", "error"), [("kahan", 2**-17), ("correction8", 2**-16), ("correction16", 2**-22)])
def test_masters_are_exported_and_imported(mode: str, error: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(33, 5).to(dtype)), torch.nn.Parameter(torch.randn(7))]
    optimizer = AdamW(params, low_precision=mode)
    masters = [torch.randn(33, 5), torch.randn(7)]
    optimizer.load_master_parameters(masters)
    for p, exact, back in zip(params, masters, optimizer.master_parameters(), strict=True):
        assert back.dtype == torch.float32
        assert torch.equal(p, exact.to(p.dtype))
        assert ((back - exact).abs() <= error * exact.abs() + 1e-7).all()
    start = optimizer.master_parameters()
    for p in params:
        p.grad = torch.zeros_like(p)
        optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(start, optimizer.master_parameters(), strict=True))
    for wrong in ([masters[0]], [masters[0], torch.ones(8)]):
        with pytest.raises(ValueError, match=r"AdamW: (got 1 tensors for 2 parameters|parameter 1 has shape \(7,\))"):
            optimizer.load_master_parameters(wrong)


@pytest.mark.parametrize("mode", ["stochastic", "correction8"])
def test_a_compiled_step_rounds_alike(mode: str) -> None:
    """A compiler may elide a conversion to 16 bits and back: the correction would be zero."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(5, 7).bfloat16()), torch.nn.Parameter(torch.randn(9))]
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    compiled = AdamW(params, lr=torch.tensor(1e-3), low_precision=mode)
    eager = AdamW(others, lr=torch.tensor(1e-3), low_precision=mode)
    step = torch.compile(lambda: type(compiled).step(compiled), fullgraph=True)
    for _ in range(3):
        for p, q in zip(params, others, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        step()
        eager.step()
    assert torch.equal(params[0], others[0])
    if mode == "correction8":
        ours, theirs = (one.state[one.param_groups[0]["params"][0]]["correction"] for one in (compiled, eager))
        assert torch.count_nonzero(ours) > 0
        assert torch.equal(ours, theirs)


STATES = """
    name: Averages
    summary: AdamW with 16-bit moments.
    extends: adamw
    state:
      m: {{storage: {{codebook: {dtype}, rounding: {rounding}}}}}
      v: {{storage: {{codebook: {dtype}, rounding: {rounding}}}}}
    """


def test_a_bfloat16_v_follows_the_true_average(generate: Callable[[str], ModuleType]) -> None:
    """At beta2 = .999, where rounding to the nearest freezes: 2,000 rising and falling steps."""
    module = generate(STATES.format(dtype="bfloat16", rounding="stochastic"))
    p = torch.nn.Parameter(torch.ones(4096))
    optimizer = module.Averages([p], lr=0.0)
    exact, worst = 0.0, 0.0
    for t in range(2000):
        gradient = 1.0 if t < 1000 else 0.0
        run(optimizer, p, gradient, 1)
        exact = 0.999 * exact + 0.001 * gradient**2
        if t > 50:
            v = optimizer.state[p]["exp_avg_sq"].double()
            worst = max(worst, abs(v.mean().item() / exact - 1))
    assert worst < 0.01
    assert optimizer.state[p]["exp_avg_sq"].dtype == torch.bfloat16
    assert abs(v.mean() - 0.2325) < 0.002


@pytest.mark.parametrize(
    ("cls", "name", "error"),
    [(AdamW8bit, "adamw_8bit", 1.05), (AdamW4bit, "adamw_4bit", 5.0), (Solo, "solo", 4.5), (Solo3bit, "solo_3bit", 2.0)],
)
def test_a_low_bit_v_rises_and_falls_with_the_true_average(cls: Any, name: str, error: float) -> None:
    """The sum over a block stays within a factor `error` of float64's, and falls with it: levels are coarse, scales exact.

    Squares that differ by five orders of magnitude within a block. AdamW4bit has no level below a sixteenth of the scale,
    SOLO rounds in the exponent, which is unbiased there and upwards in the value.
    """
    program = build(str(ROOT / "specs" / f"{name}.yaml")).program
    reference, v = Reference(program), next(state for state in program.states if state.name == "v")
    p = torch.nn.Parameter(torch.ones(16, 256))
    optimizer = cls([p], lr=0.0)
    generator = torch.Generator().manual_seed(0)
    size = torch.exp(torch.randn(p.shape, generator=generator))
    exact = torch.zeros(p.shape, dtype=torch.float64)
    ratios = {}
    for t in range(2000):
        p.grad = size * torch.randn(p.shape, generator=generator) * (1.0 if t < 1000 else 0.1)
        optimizer.step()
        exact = 0.999 * exact + 0.001 * p.grad.double() ** 2
        if t in (999, 1999):
            stored = reference.read(v, {key: value.numpy() for key, value in optimizer.state[p].items()}, tuple(p.shape))
            ratios[t] = stored.sum() / exact.sum().item()
    assert 1 / error < ratios[999] < error
    assert abs(ratios[1999] / ratios[999] - 1) < 0.1


@pytest.mark.parametrize("cls", [Solo, Solo3bit, AdamW4bit])
def test_tiny_gradients_are_not_lost_in_a_scale(cls: Any) -> None:
    """Adam's step does not depend on the size of the gradients; 1e-12 squared is 1e-24, a thousandth of it 1e-27."""
    trained = []
    for size in (1.0, 2.0**-40):
        generator = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.ones(32, 256))
        optimizer = cls([p], lr=1e-2, eps=0.0)
        for _ in range(10):
            p.grad = torch.randn(p.shape, generator=generator) * size
            optimizer.step()
        trained.append(p.detach())
    assert torch.allclose(trained[0], trained[1], rtol=1e-5)


def test_tiny_gradients_of_lion() -> None:
    p = torch.nn.Parameter(torch.ones(32, 256))
    optimizer = Lion8bit([p], lr=1e-2)
    for _ in range(10):
        p.grad = torch.full_like(p, 1e-30)
        optimizer.step()
    assert torch.allclose(p, torch.full_like(p, 0.9))


def test_16_bit_states_take_two_bytes_and_keep_their_dtype(generate: Callable[[str], ModuleType]) -> None:
    module = generate(STATES.format(dtype="float16", rounding="nearest"))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        p = torch.nn.Parameter(torch.randn(5, 300).to(dtype))
        optimizer: Any = module.Averages([p])
        run(optimizer, p, 0.5, 2)
        other = module.Averages([torch.nn.Parameter(p.detach().clone())])
        other.load_state_dict(optimizer.state_dict())
        for one in (optimizer, other):
            state = next(iter(one.state.values()))
            assert {state[key].dtype for key in ("exp_avg", "exp_avg_sq")} == {torch.float16}


def test_triton_rounds_alike() -> None:
    """Parameters, corrections and states of every mode, bit for bit, in Triton's interpreter."""
    pytest.importorskip("triton")
    assert interpreted("-m", "tests.triton_narrow").startswith("equal")
