"""Host scalars: of floats and of tensors they are the same, and parameters of several ages have each their own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from optgen.runtime import host

NUMBERS = (-2.5, -0.0, 0.0, 0.3, 1.0, 7.0, math.inf, -math.inf, math.nan)


@pytest.mark.parametrize(
    "function", [host.minimum, host.maximum, host.sign, host.absolute, host.sqrt, host.exp, host.log, host.rsqrt]
)
def test_floats_are_as_tensors(function: Callable[..., Any]) -> None:
    """What floats refuse is left to tensors."""
    arity = 2 if function in (host.minimum, host.maximum) else 1
    refused = 0
    for args in itertools.product(NUMBERS, repeat=arity):
        expected = function(*[torch.tensor([x], dtype=torch.float64) for x in args])
        try:
            found = function(*args)
        except (ArithmeticError, ValueError):
            refused += 1
            assert not expected.isfinite()
            continue
        torch.testing.assert_close(torch.tensor([found], dtype=torch.float64), expected, rtol=1e-15, atol=0, equal_nan=True)
    assert refused < len(NUMBERS) ** arity / 2


def test_conditions_are_as_tensors() -> None:
    for holds in (True, False):
        condition = torch.tensor([holds])
        assert host.where(holds, 1.5, 0.1) == host.where(condition, 1.5, 0.1).item()
        assert host.where(condition, 1.5, 0.1).dtype == torch.float64
        assert host.invert(holds) is not holds
        assert host.invert(condition).item() is not holds


SPEC = """
name: Ratio
summary: Scalars that floats refuse.
hyper: {lr: {default: 1.0}, below: {default: 0.0}, base: {default: 4.0}}
state: {s: {shape: scalar, init: 1}}
update: |
  s = 0.5*s
  a = min(1/below, 8)
  b = base**0.5
  p -= lr*(a + b + s)*g
"""


@pytest.mark.parametrize(("below", "base", "factor"), [(0.5, 4.0, 2 + 2), (0.0, 16.0, 8 + 4), (0.5, -1.0, math.nan)])
def test_what_floats_refuse_is_as_ieee_says(
    below: float, base: float, factor: float, generate: Callable[[str], ModuleType]
) -> None:
    """1/0 is infinite, and a root of -1 is no number, as it would be for tensors."""
    p = torch.zeros(3).requires_grad_()
    optimizer = generate(SPEC).Ratio([p], below=below, base=base)
    p.grad = torch.ones(3)
    for step in (1, 2):
        before = p.detach().clone()
        optimizer.step()
        torch.testing.assert_close(before - p, torch.full((3,), factor + 0.5**step), equal_nan=True)
        assert optimizer.state[p]["s"] == 0.5**step


def test_parameters_of_several_ages_have_scalars_of_their_own() -> None:
    """Mixed in one bucket, behind one without elements, they are as in optimizers of their own."""
    from optgen.generated.nadam import NAdam

    mixed, alone = [[torch.full((4,), float(i)).requires_grad_() for i in range(5)] for _ in range(2)]
    empty = torch.zeros(0, 4).requires_grad_()
    empty.grad = torch.zeros(0, 4)
    together, apart = NAdam([empty, *mixed]), [NAdam([p]) for p in alone]
    for step in range(4):
        for i, (p, q) in enumerate(zip(mixed, alone, strict=True)):
            grad = torch.arange(4.0) - 1.5 if (step + i) % 3 else None
            p.grad, q.grad = grad, None if grad is None else grad.clone()
        together.step()
        for optimizer in apart:
            optimizer.step()
    for p, q, optimizer in zip(mixed, alone, apart, strict=True):
        assert torch.equal(p, q)
        assert together.state[p]["step"] == optimizer.state[q]["step"]
        assert together.state[p]["mu_product"] == optimizer.state[q]["mu_product"]
