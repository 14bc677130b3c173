"""Runs a generated optimizer beside the reference, step by step from equal states, and measures the difference."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optgen.ir.infer import knows_rows
from optgen.ir.nodes import Program
from optgen.reference import narrow, packing
from optgen.reference.interpreter import Reference, rounded, together
from optgen.reference.tolerances import TOLERANCES, Tolerance
from optgen.runtime.blocks import BlockOptimizer
from optgen.runtime.description import MATRIX
from optgen.runtime.rules import Parameter

__all__ = ["Case", "Difference", "compare", "spread_gradient"]


@dataclass(frozen=True)
class Case:
    """One thing to run: shapes of one dtype, hyperparameters, steps; after a first one they go on from step `start`.

    Where rules ask for more than shapes, `given` has names and tags of the parameters.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype = torch.float32
    steps: int = 5
    hypers: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    start: int = 0
    given: tuple[Parameter, ...] = ()


@dataclass
class Difference:
    """The largest differences seen; `p` and `state` in units of the tolerance, so that 1 is the limit."""

    p: float = 0.0
    state: float = 0.0
    codes: int = 0  # and other values that are rounded: 16-bit floats
    wrong_codes: int = 0
    far_codes: int = 0  # codes off by more than one level
    lost: int = 0  # elements that the rule itself has made infinite or NaN

    def passes(self, tolerance: Tolerance) -> bool:
        """Whether everything is within its limit."""
        few = self.wrong_codes <= max(1, tolerance.codes * self.codes)
        return self.p <= 1 and self.state <= 1 and self.far_codes == 0 and few


def compare(optimizer_class: type[torch.optim.Optimizer], program: Program, case: Case, **options: Any) -> Difference:
    """Run `case` with the generated class; `options` (backend, compile) go to its constructor."""
    generator = torch.Generator().manual_seed(case.seed)
    device = options.pop("device", "cpu")
    params = [
        torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(device, case.dtype))
        for shape in case.shapes
    ]
    groups = _groups(params, case.given)
    if issubclass(optimizer_class, BlockOptimizer):  # all of them in one block, whose turn never ends
        groups = [(str(place), p) for place, p in enumerate(params)]
        options = {**options, "blocks": [["*"]], "switch_every": 2**31}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rounding to the nearest, which is a case here
        optimizer = optimizer_class(groups, **{**case.hypers, **options})
    with np.errstate(all="ignore"):
        return _compared(optimizer, program, case, params, generator)


def _groups(params: list[torch.nn.Parameter], given: Sequence[Parameter]) -> list[Any]:
    """The parameters with their names, in a group for each set of tags."""
    if not any(known.name is not None or known.tags for known in given):
        return params
    groups: dict[frozenset[str], list[Any]] = {}
    for p, known in zip(params, given, strict=True):
        groups.setdefault(known.tags, []).append(p if known.name is None else (known.name, p))
    return [{"params": taken, "tags": sorted(tags)} for tags, taken in groups.items()]


def _compared(
    optimizer: torch.optim.Optimizer, program: Program, case: Case, params: Sequence[Tensor], generator: torch.Generator
) -> Difference:
    reference, has_gaps = Reference(program), knows_rows(program)
    name = str(case.dtype).removeprefix("torch.")
    difference = Difference()
    for step in range(case.steps + bool(case.start)):
        for p in params:
            gradient = spread_gradient(p.shape, generator)
            p.grad = (with_gaps(gradient) if has_gaps else gradient).to(p.device, case.dtype)
        before = [(_array(p), _state(optimizer.state.get(p, {}))) for p in params]
        inputs = _given(program, params, step, generator)
        if program.inputs:
            optimizer.give(**inputs)  # type: ignore[attr-defined]
        optimizer.step()
        group = optimizer.param_groups[0]
        if step == 0 and case.start:
            for p in params:
                optimizer.state[p]["step"].fill_(case.start)
            continue
        steps, known = [], []
        for p, (old, state) in zip(params, before, strict=True):
            if p.numel() == 0:
                continue
            got = _state(optimizer.state[p])
            state |= {k: v for k, v in got.items() if k == "rounding_key"}
            assert p.grad is not None
            exact = narrow.join(old, state.get("correction"), name)
            if "correction" in state:  # arithmetic takes parameter and correction as one float32
                exact = exact.astype(np.float32).astype(np.float64)
            given = {name: _array(of[p]) for name, of in inputs.items() if p in of}
            steps.append(reference.stepping(exact, _array(p.grad), state, group, given))
            known.append((p, exact, state, got))
        groups = [_group_of(p, optimizer) for p, *_ in known]
        for (p, exact, state, got), (expected, new) in zip(known, together(steps, groups), strict=True):
            _measure_p(difference, program, name, exact, _array(p), expected, got, group["low_precision"])
            _measure_states(difference, program, name, state, got, new)
    for point, moved in program.points:
        _compare_moves(difference, optimizer, program, point, Reference(moved), params, name)
    return difference


def _compare_moves(
    difference: Difference,
    optimizer: torch.optim.Optimizer,
    program: Program,
    point: str,
    reference: Reference,
    params: Sequence[Tensor],
    dtype: str,
) -> None:
    """Move all parameters to where they are evaluated, or back."""
    before = [(p, _array(p), _state(optimizer.state.get(p, {}))) for p in params if p.numel()]
    getattr(optimizer, point)()
    group = optimizer.param_groups[0]
    for p, old, state in before:
        exact = narrow.join(old, state.get("correction"), dtype)
        if "correction" in state:
            exact = exact.astype(np.float32).astype(np.float64)
        expected, _ = reference.step(exact, np.zeros(p.shape), state, group)
        mode = "nearest" if group["low_precision"] == "stochastic" else group["low_precision"]
        _measure_p(difference, program, dtype, exact, _array(p), expected, _state(optimizer.state[p]), mode)


def _group_of(p: Tensor, optimizer: torch.optim.Optimizer) -> int:
    """The place of a parameter's group."""
    return next(place for place, group in enumerate(optimizer.param_groups) if any(p is other for other in group["params"]))


def _given(
    program: Program, params: Sequence[Tensor], step: int, generator: torch.Generator
) -> dict[str, dict[Tensor, Tensor]]:
    """What a step is given: to some parameters more than to others, so that two steps take both sides of each condition."""
    return {
        each.name: {
            p: spread_gradient(p.shape, generator).to(p.device, p.dtype)
            for at, p in enumerate(params)
            if (step + at) >> place & 1 == 0
        }
        for place, each in enumerate(program.inputs)
    }


def spread_gradient(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A gradient whose elements differ by orders of magnitude, with exact zeros, in float64."""
    size = torch.randn(shape, generator=generator, dtype=torch.float64)
    spread = torch.randn(shape, generator=generator, dtype=torch.float64).mul(2).exp()
    gradient = size * spread
    return torch.where(torch.rand(shape, generator=generator) < 0.1, torch.zeros_like(gradient), gradient)


def with_gaps(gradient: Tensor) -> Tensor:
    """The same with a row and a column of zeros in each matrix that has several, as of a token that no window has."""
    if gradient.ndim >= MATRIX and min(gradient.shape[-2:]) > 1:
        gradient[..., -1, :] = 0
        gradient[..., -1] = 0
    return gradient


def _measure_p(
    difference: Difference,
    program: Program,
    dtype: str,
    old: Any,
    got: Any,
    expected: Any,
    state: Mapping[str, Any],
    low_precision: str,
) -> None:
    """The parameter, with its correction if it has one; what is rounded stochastically must fall on the same side."""
    tolerance = TOLERANCES[dtype]
    difference.lost += int(np.count_nonzero(~np.isfinite(expected)))
    moved = np.max(np.abs(expected - old))
    allowed = tolerance.of_p * np.max(np.abs(expected)) + tolerance.of_move * moved
    if tolerance.half_ulp and low_precision == "stochastic":
        side = rounded(expected, dtype, "stochastic", len(program.states), state, int(state["step"]))
        _count(difference, got, side, narrow.unit(side, dtype))
        allowed = allowed + 2 * tolerance.half_ulp * np.abs(expected)
    elif "correction" in state:
        allowed = allowed + narrow.resolution(got, state["correction"], dtype)
        got = narrow.join(got, state["correction"], dtype)
    else:
        allowed = allowed + tolerance.half_ulp * np.abs(expected)
    difference.p = max(difference.p, float(np.max(np.abs(got - expected) / np.maximum(allowed, 1e-300))))


def _measure_states(
    difference: Difference,
    program: Program,
    dtype: str,
    old: Mapping[str, Any],
    state: Mapping[str, Any],
    new: Mapping[str, Any],
) -> None:
    stored = {f"{s.save_as}.codes": s for s in program.states if s.storage is not None}
    floats = {s.save_as: s.floats.dtype for s in program.states if s.floats is not None}
    for key, value in new.items():
        if key in stored and (storage := stored[key].storage) is not None:
            places = Reference(program).places(stored[key])
            ours, theirs = (places[packing.unpack(np.asarray(v), storage.bits, storage.block)] for v in (state[key], value))
            _count(difference, ours, theirs, 1)
        elif key in floats:
            ours = state[key].astype(np.float64)
            cancelled = TOLERANCES[dtype].of_p * np.abs(old.get(key, 0.0))  # float32 arithmetic of what nearly cancels
            ours = np.where(np.abs(ours - value) <= cancelled, value, ours)
            _count(difference, ours, value, narrow.unit(value, floats[key]))
        elif key != "rounding_key":
            limit = TOLERANCES[dtype].of_state * float(np.max(np.abs(value))) + 1e-300
            difference.state = max(difference.state, float(np.max(np.abs(state[key] - value))) / limit)


def _count(difference: Difference, ours: Any, theirs: Any, spacing: Any) -> None:
    """Compare what is rounded: codes, or 16-bit floats whose neighbours are `spacing` apart."""
    with np.errstate(invalid="ignore"):
        apart = np.where(ours == theirs, 0, np.abs(ours - theirs))  # infinities are equal too
    difference.codes += apart.size
    difference.wrong_codes += int(np.count_nonzero(apart))
    difference.far_codes += int(np.count_nonzero(apart > 1.01 * spacing))


def _array(tensor: Tensor) -> Any:
    return tensor.detach().to("cpu", torch.float64).numpy().copy()


def _state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a state dict as numpy arrays of their own dtype; of bfloat16 as float32."""
    plain = {key: value.detach().cpu() for key, value in state.items()}
    return {key: (v.float() if v.dtype == torch.bfloat16 else v).numpy().copy() for key, v in plain.items()}
