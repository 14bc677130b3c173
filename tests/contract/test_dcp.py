"""torch.distributed.checkpoint in one process: nested and flat dicts, its own way of making states, files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from optgen.runtime.optimizer import GeneratedOptimizer
from tests.contract.rows import Row, run, same, snapshot, values

FLAT = pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])


def build(row: Row, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[nn.Module, GeneratedOptimizer]:
    """A model with a matrix that is kept as codes, and groups with options of their own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 3)).to(dtype)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() < 2]},
    ]
    groups[1][row.decay] = 0.0  # type: ignore[assignment]
    return model, row.make(groups, **options)


@FLAT
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_goes_on_bit_for_bit(row: Row, flat: bool, dtype: torch.dtype) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = build(row, dtype)
    run(optimizer, range(3))
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    other, fresh = build(row, dtype, lr=0.5)
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, fresh, saved, options=options)
    assert same(fresh.state_dict(), optimizer.state_dict())
    assert fresh.param_groups[1][row.decay] == 0.0
    run(optimizer, range(3, 6))
    run(fresh, range(3, 6))
    assert same(values(other.parameters()), values(model.parameters()))
    assert same(fresh.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_its_first_step_makes_states_and_moves_nothing(row: Row, tensor: bool) -> None:
    """It makes a step with lr = 0 and zero gradients in place of a fresh optimizer's state."""
    model, optimizer = build(row, lr=torch.tensor(0.5) if tensor else 0.5)
    before = values(model.parameters())
    made = get_optimizer_state_dict(model, optimizer)
    assert same(values(model.parameters()), before)
    assert float(optimizer.param_groups[0]["lr"]) == 0.5
    assert all(p.grad is None for p in model.parameters())
    trained = build(row)[1]
    run(trained, range(1))
    for name, state in made["state"].items():
        assert isinstance(state, dict)
        expected = trained.state[dict(zip(dict(model.named_parameters()), params_of(trained), strict=True))[name]]
        assert {key: (value.dtype, value.shape) for key, value in state.items()} == {
            key: (value.dtype, value.shape) for key, value in expected.items()
        }
        floats = [value for key, value in state.items() if value.is_floating_point() and key != "step"]
        assert all(value.isfinite().all() for value in floats)
        if row.name != "sgd":  # whose L2 penalty is a gradient
            assert not any(
                value.any() for key, value in state.items() if key.endswith("scale") or key in ("exp_avg", "exp_avg_sq")
            )
    run(optimizer, range(3))
    assert all(p.isfinite().all() for p in model.parameters())


def params_of(optimizer: GeneratedOptimizer) -> list[Tensor]:
    """In the order of the model: weights and biases in turns."""
    weights, biases = (group["params"] for group in optimizer.param_groups)
    return [p for pair in zip(weights, biases, strict=True) for p in pair]


@FLAT
def test_files(row: Row, flat: bool, tmp_path: Path) -> None:
    """Saved and loaded in place, as a training script does it."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, optimizer = build(row)
    run(optimizer, range(3))
    weights, states = get_state_dict(model, optimizer, options=options)
    dcp.save({"model": weights, "optimizer": states}, checkpoint_id=tmp_path)
    other, fresh = build(row, lr=0.5)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    weights, states = get_state_dict(other, fresh, options=options)
    dcp.load({"model": weights, "optimizer": states}, checkpoint_id=tmp_path)
    set_state_dict(other, fresh, model_state_dict=weights, optim_state_dict=states, options=options)
    run(optimizer, range(3, 5))
    run(fresh, range(3, 5))
    assert same(values(other.parameters()), values(model.parameters()))
    assert same(fresh.state_dict()["state"], optimizer.state_dict()["state"])


def test_a_full_dict_on_the_cpu(row: Row) -> None:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model, optimizer = build(row)
    run(optimizer, range(2))
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    other, fresh = build(row)
    set_optimizer_state_dict(other, fresh, saved, options=options)
    assert same(fresh.state_dict(), optimizer.state_dict())


def test_a_frozen_parameter(row: Row) -> None:
    model, optimizer = build(row)
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    optimizer.zero_grad()
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer))
    other, fresh = build(row)
    other[0].weight.requires_grad_(False)  # type: ignore[index]
    set_optimizer_state_dict(other, fresh, saved)
    assert same(snapshot(fresh)[1]["state"], snapshot(optimizer)[1]["state"])
