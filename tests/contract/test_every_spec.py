"""What every shipped optimizer must do, not only the rows: construct, train and go on from a checkpoint bit for bit."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from optgen.reference.cases import hyper_cases
from optgen.spec.load import load_programs
from tests.conftest import SHIPPED
from tests.contract.rows import make_params, run, same, snapshot
from tests.contract.test_state_dict import copies, file

SPECS = sorted(SHIPPED)


def named(params: list[Any]) -> list[tuple[str, Any]]:
    """With names that rules and blocks can be made of."""
    return [(f"layers.0.mlp.{place}", p) for place, p in enumerate(params)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SPECS)
def test_training_goes_on_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    """With the defaults, and with arguments that take each branch of the rule and make each of its states.

    Parameters of 16 bits keep a key more, whatever the branch, so the last choice of arguments stands for the others.
    """
    spec, programs = load_programs(str(SHIPPED[name]))
    make = getattr(importlib.import_module(f"optgen.generated.{name}"), spec.name)
    chosen: list[dict[str, Any]] = [{}, *(dict(case.hypers) for program in programs for case in hyper_cases(program, 1))]
    for options in chosen if dtype == torch.float32 else [chosen[0], chosen[-1]]:
        params = make_params(dtype=dtype)
        optimizer = make(named(params), **options)
        run(optimizer, range(3))
        again = copies(params)
        resumed = make(named(again))
        resumed.load_state_dict(file(optimizer.state_dict()))
        run(optimizer, range(3, 6))
        run(resumed, range(3, 6))
        assert same(snapshot(optimizer), snapshot(resumed)), options
