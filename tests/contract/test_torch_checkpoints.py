"""Checkpoints of torch.optim go on in the same rule, and back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from optgen.generated.adadelta import Adadelta
from optgen.generated.adagrad import Adagrad
from optgen.generated.adam import Adam
from optgen.generated.adamax import Adamax
from optgen.generated.nadam import NAdam
from optgen.generated.rmsprop import RMSprop
from tests.contract.rows import BY_NAME, distance, make_params, run, values
from tests.contract.test_state_dict import copies, file, trained

TWINS = (
    ("sgd", {}, {}),
    ("sgd", {"momentum": 0.0}, {}),
    ("sgd", {"nesterov": True}, {}),
    ("adamw", {}, {"foreach": True}),
    ("adamw", {"amsgrad": True}, {}),
    ("adamw", {"lr": 1e-3, "maximize": True}, {"fused": True}),
)


@pytest.mark.parametrize(("name", "options", "extra"), TWINS, ids=str)
def test_a_checkpoint_of_torch_goes_on(name: str, options: dict[str, Any], extra: dict[str, Any]) -> None:
    row = BY_NAME[name]
    params = make_params()
    twin = row.make_twin(params, **options, **extra)
    run(twin, range(4))
    again = copies(params)
    optimizer = row.make(again)
    optimizer.load_state_dict(file(twin.state_dict()))
    assert "foreach" not in optimizer.param_groups[0]
    for key, value in options.items():
        assert optimizer.param_groups[0][key] == value
    start = values(params)
    run(twin, range(4, 10))
    run(optimizer, range(4, 10))
    largest = max(float(p.detach().abs().max()) for p in params)
    assert distance(again, params) < 1e-6 * largest + 1e-5 * distance(params, start)


PAIRS: tuple[tuple[Any, Any, dict[str, Any]], ...] = (
    (Adam, torch.optim.Adam, {"amsgrad": True}),
    (Adagrad, torch.optim.Adagrad, {"initial_accumulator_value": 0.1, "lr_decay": 0.1}),
    (Adadelta, torch.optim.Adadelta, {"lr": 0.5}),
    (RMSprop, torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "lr": 1e-3}),
    (Adamax, torch.optim.Adamax, {"lr": 1e-2}),
    (NAdam, torch.optim.NAdam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
)


@pytest.mark.parametrize(("ours", "theirs", "options"), PAIRS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_checkpoint_of_every_rule_that_torch_has_goes_on(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    params = make_params()
    twin = theirs(params, **options)
    run(twin, range(4))
    again = copies(params)
    optimizer = ours(again)
    optimizer.load_state_dict(file(twin.state_dict()))
    assert all(optimizer.param_groups[0][key] == value for key, value in options.items())
    start = values(params)
    run(twin, range(4, 10))
    run(optimizer, range(4, 10))
    largest = max(float(p.detach().abs().max()) for p in params)
    assert distance(again, params) < 1e-6 * largest + 1e-5 * distance(params, start)


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=str)
def test_a_checkpoint_goes_on_in_torch(options: dict[str, Any]) -> None:
    """Back as well: no one is locked in."""
    row = BY_NAME["adamw"]
    params, optimizer = trained(row, **options)
    again = copies(params)
    twin = row.make_twin(again, **options)
    saved = copy.deepcopy(optimizer.state_dict())  # torch's load shares tensors
    saved["param_groups"] = [{**twin.state_dict()["param_groups"][0], **group} for group in saved["param_groups"]]
    twin.load_state_dict(saved)
    run(twin, range(3, 6))
    run(optimizer, range(3, 6))
    assert distance(again, params) < 1e-6
