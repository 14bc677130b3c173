"""State dicts: what they hold, that training goes on from them bit for bit, and what is refused."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optgen.runtime.optimizer import GeneratedOptimizer
from tests.contract.rows import BY_NAME, DTYPES, Row, gradient, make_params, run, same, snapshot, values

TORCH_NAMES = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}
CODE_NAMES = {f"{name}.{part}" for name in TORCH_NAMES for part in ("codes", "scale", "base")}


def file(saved: Any) -> Any:
    """Through a file, as a program without optgen would read it."""
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def trained(
    row: Row, steps: int = 3, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[list[nn.Parameter], GeneratedOptimizer]:
    params = make_params(dtype=dtype)
    optimizer = row.make(params, **options)
    run(optimizer, range(steps))
    return params, optimizer


def copies(params: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in params]


def test_plain_tensors_under_the_names_of_torch(row: Row) -> None:
    _, optimizer = trained(row)
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        assert all(type(value) is Tensor for value in state.values())
        assert set(state) <= TORCH_NAMES | CODE_NAMES | {"rounding_key"}
        assert state["step"].dtype == torch.float32 and state["step"].shape == () and float(state["step"]) == 3
    codes = [key for key in saved["state"][0] if key.endswith(".codes")]
    assert bool(codes) == row.coded
    assert all(saved["state"][0][key].dtype == torch.uint8 for key in codes)
    assert not any("." in key for key in saved["state"][1])
    assert saved["param_groups"][0]["optgen"] == f"{row.cls.__name__}/1"  # type: ignore[attr-defined]
    assert all(isinstance(value, int | float | bool | str | tuple | list) for value in saved["param_groups"][0].values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_training_goes_on_bit_for_bit(row: Row, dtype: torch.dtype) -> None:
    """Through a file, into a fresh optimizer over a copy of the model; stochastic rounding included."""
    params, optimizer = trained(row, dtype=dtype)
    again = copies(params)
    fresh = row.make(again, lr=0.5, **({"seed": 7} if row.name == "solo" else {}))
    fresh.load_state_dict(file(optimizer.state_dict()))
    assert same(fresh.state_dict(), optimizer.state_dict())
    run(optimizer, range(3, 6))
    run(fresh, range(3, 6))
    assert same(values(again), values(params))
    assert same(fresh.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "deepcopy of the dict"])
def test_copies_go_on_bit_for_bit(row: Row, how: str) -> None:
    params, optimizer = trained(row)
    if how == "pickle":
        again, fresh = pickle.loads(pickle.dumps((params, optimizer)))
    elif how == "deepcopy":
        again, fresh = copy.deepcopy((params, optimizer))
    else:
        again = copies(params)
        fresh = row.make(again)
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, range(3, 5))
    held = values(again)
    assert not same(held, values(params))  # nothing is shared
    run(fresh, range(3, 5))
    assert same(values(again), values(params))
    assert same(fresh.state_dict(), optimizer.state_dict())
    assert repr(fresh) == repr(optimizer)


def test_a_copy_takes_new_groups(row: Row) -> None:
    _, optimizer = trained(row)
    fresh = copy.deepcopy(optimizer)
    fresh.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    run(fresh, range(1))
    assert list(fresh.param_groups[0]) == list(fresh.param_groups[1])
    with pytest.raises(ValueError, match="lr"):
        fresh.add_param_group({"params": [nn.Parameter(torch.ones(3))], "lr": -1})


def test_rewinding_repeats_the_same_steps(row: Row) -> None:
    params, optimizer = trained(row)
    held, saved = values(params), copy.deepcopy(optimizer.state_dict())
    results = []
    for _ in range(2):
        for p, value in zip(params, held, strict=True):
            p.data.copy_(value)
        optimizer.load_state_dict(saved)
        run(optimizer, range(3, 5))
        results.append(snapshot(optimizer))
    assert same(*results)


def test_a_load_copies(row: Row) -> None:
    """Neither does a step change the dict that was loaded, nor does saving or loading change anything else."""
    params, optimizer = trained(row)
    before = snapshot(optimizer)
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    fresh = row.make(copies(params))
    fresh.load_state_dict(saved)
    run(fresh, range(3, 5))
    assert same(snapshot(optimizer), before)
    assert same(saved, kept)


def test_dtypes_survive_whatever_the_parameters_are(row: Row) -> None:
    """A bfloat16 model keeps float32 averages, uint8 codes and exact counters; a checkpoint of it loads into float32."""
    params, optimizer = trained(row, dtype=torch.bfloat16)
    optimizer.state[params[0]]["step"].fill_(1001)
    for dtype in (torch.bfloat16, torch.float32):
        fresh = row.make([nn.Parameter(p.detach().to(dtype)) for p in params])
        fresh.load_state_dict(file(optimizer.state_dict()))
        assert same(fresh.state_dict()["state"], optimizer.state_dict()["state"])
        assert float(fresh.state_dict()["state"][0]["step"]) == 1001


def test_narrow_or_wide_floats_load_as_they_are_declared(row: Row) -> None:
    """Someone saved float32 states as bfloat16, float64 or on number-typed counters: values load, dtypes stay declared."""
    _, optimizer = trained(row)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = int(state["step"])
        for key, value in state.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                state[key] = value.double()
    fresh = row.make(make_params())
    fresh.load_state_dict(saved)
    assert same(fresh.state_dict()["state"], optimizer.state_dict()["state"])


def test_before_the_first_step(row: Row) -> None:
    params, other = make_params(), make_params()
    optimizer, fresh = row.make(params, lr=0.125), row.make(other)
    fresh.load_state_dict(file(optimizer.state_dict()))
    assert not fresh.state
    assert fresh.param_groups[0]["lr"] == 0.125
    run(optimizer, range(2))
    run(fresh, range(2))
    assert same(values(params), values(other))


def test_parameters_without_gradients_have_no_state(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    params[1].grad = gradient(params[1], 0)
    optimizer.step()
    saved = file(optimizer.state_dict())
    assert list(saved["state"]) == [1]
    again = copies(params)
    fresh = row.make(again)
    fresh.load_state_dict(saved)
    assert set(fresh.state) == {again[1]}
    run(optimizer, range(1, 3))
    run(fresh, range(1, 3))
    assert same(values(again), values(params))


def test_groups_and_names_survive(row: Row) -> None:
    params = make_params()
    groups = [{"params": [("a", params[0])], "lr": 0.5}, {"params": [("b", params[1]), ("c", params[2])], row.decay: 0.0}]
    optimizer = row.make(groups, maximize=True)
    run(optimizer, range(1))
    again = copies(params)
    fresh = row.make([{"params": again[:1]}, {"params": again[1:]}])
    fresh.load_state_dict(file(optimizer.state_dict()))
    assert same(fresh.state_dict(), optimizer.state_dict())
    assert [g["lr"] for g in fresh.param_groups] == [0.5, row.options["lr"]]
    assert fresh.param_groups[1][row.decay] == 0.0
    assert fresh.param_groups[1]["param_names"] == ["b", "c"]
    run(optimizer, range(1, 3))
    run(fresh, range(1, 3))
    assert same(values(again), values(params))


def test_options_of_a_later_version_get_their_defaults(row: Row) -> None:
    _, optimizer = trained(row)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["param_groups"][0]["maximize"]
    fresh = row.make(make_params())
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["maximize"] is False
    run(fresh, range(3, 4))


def first_key(saved: dict[str, Any]) -> str:
    """A state kept as a tensor of the first parameter."""
    return next(key for key in saved["state"][0] if key not in ("step", "rounding_key"))


def no_counter(saved: dict[str, Any]) -> None:
    del saved["state"][0]["step"]


def wrong_counter(saved: dict[str, Any]) -> None:
    saved["state"][0]["step"] = torch.ones(2)


def wrong_shape(saved: dict[str, Any]) -> None:
    state = saved["state"][0]
    state[first_key(saved)] = state[first_key(saved)][:-1]


def wrong_value(saved: dict[str, Any]) -> None:
    saved["state"][0][first_key(saved)] = "zeros"


def foreign_state(saved: dict[str, Any]) -> None:
    saved["state"][0]["hessian"] = torch.zeros(64, 128)


def other_spec(saved: dict[str, Any]) -> None:
    saved["param_groups"][0]["optgen"] = "Other/1"


def newer_format(saved: dict[str, Any]) -> None:
    saved["param_groups"][0]["optgen"] = saved["param_groups"][0]["optgen"].replace("/1", "/2")


def broken_format(saved: dict[str, Any]) -> None:
    saved["param_groups"][0]["optgen"] = saved["param_groups"][0]["optgen"].replace("/1", "")


def more_groups(saved: dict[str, Any]) -> None:
    saved["param_groups"].append({**saved["param_groups"][0], "params": []})


def fewer_parameters(saved: dict[str, Any]) -> None:
    saved["param_groups"][0]["params"].pop()


def wrong_option(saved: dict[str, Any]) -> None:
    saved["param_groups"][0]["lr"] = -1.0


def no_state(saved: dict[str, Any]) -> None:
    del saved["state"]


def no_groups(saved: dict[str, Any]) -> None:
    del saved["param_groups"]


def wrong_state(saved: dict[str, Any]) -> None:
    saved["state"][0] = [torch.zeros(3)]


REFUSED = {
    no_counter: r"parameter 0 lacks the state 'step'",
    wrong_counter: r"state 'step' of parameter 0 has shape \(2,\), expected \(\)",
    wrong_shape: r"state '[\w.]+' of parameter 0 has shape .*expected",
    wrong_value: r"state '[\w.]+' of parameter 0 .*'zeros'",
    foreign_state: r"parameter 0 has a state 'hessian' here unknown \(known: step, ",
    other_spec: r"saved by Other",
    newer_format: r"has format 2, this version of optgen reads up to 1",
    broken_format: r"has format",
    more_groups: r"2 parameter groups, the optimizer 1",
    fewer_parameters: r"group 0 of the state dict has 2 parameters, the optimizer's 3",
    wrong_option: r"lr must be at least 0.0, got -1.0",
    no_state: r"no 'state'",
    no_groups: r"no 'param_groups'",
    wrong_state: r"parameter 0: its state is a list, expected a mapping",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_does_not_fit_is_refused_and_changes_nothing(row: Row, change: Any) -> None:
    _, optimizer = trained(row)
    saved = copy.deepcopy(optimizer.state_dict())
    change(saved)
    run(optimizer, range(3, 4))
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=REFUSED[change]) as caught:
        optimizer.load_state_dict(saved)
    assert str(caught.value).startswith(f"{row.cls.__name__}: ")  # type: ignore[attr-defined]
    assert same(snapshot(optimizer), before)
    run(optimizer, range(4, 5))


PARTS = (
    *(("adamw", "exp_avg_sq"), ("lion", "exp_avg"), ("adamw8bit", "exp_avg.codes"), ("adamw8bit", "exp_avg_sq.scale")),
    *(("solo", "exp_avg_sq.base"), ("solo", "rounding_key")),
)


@pytest.mark.parametrize(("name", "key"), PARTS)
def test_a_part_that_is_missing_is_refused(name: str, key: str) -> None:
    _, optimizer = trained(BY_NAME[name])
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][0][key]
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=f"parameter 0 lacks the state '{key}'"):
        optimizer.load_state_dict(saved)
    assert same(snapshot(optimizer), before)


def test_half_of_a_state_that_hangs_on_a_flag_is_refused() -> None:
    _, optimizer = trained(BY_NAME["adamw8bit"], amsgrad=True)
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][0]["max_exp_avg_sq.scale"]
    with pytest.raises(ValueError, match=r"lacks the state 'max_exp_avg_sq.scale'"):
        optimizer.load_state_dict(saved)
    del saved["state"][0]["max_exp_avg_sq.codes"]
    optimizer.load_state_dict(saved)


@pytest.mark.parametrize("name", ["adamw8bit", "solo"])
def test_codes_of_another_dtype_are_refused(name: str) -> None:
    """As torch's own load would leave them after a cast to the parameter's dtype."""
    _, optimizer = trained(BY_NAME[name])
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["exp_avg.codes"] = saved["state"][0]["exp_avg.codes"].bfloat16()
    with pytest.raises(ValueError, match=r"'exp_avg.codes' of parameter 0 has dtype torch.bfloat16, expected torch.uint8"):
        optimizer.load_state_dict(saved)


def test_states_of_one_optimizer_do_not_load_into_another() -> None:
    for name, other in (("adamw", "solo"), ("solo", "adamw8bit"), ("lion", "adamw"), ("sgd", "lion")):
        _, optimizer = trained(BY_NAME[name])
        with pytest.raises(ValueError, match="saved by"):
            BY_NAME[other].make(make_params()).load_state_dict(optimizer.state_dict())
    twin = BY_NAME["adamw"].make_twin(make_params())
    run(twin, range(1))
    for other in ("sgd", "lion", "solo", "adamw8bit"):  # torch's own say nothing of where they come from
        with pytest.raises(ValueError, match="parameter 0"):
            BY_NAME[other].make(make_params()).load_state_dict(twin.state_dict())


def test_a_flag_switched_on_later_makes_its_state() -> None:
    """Between steps, and by a load into an optimizer that has it."""
    params, optimizer = trained(BY_NAME["adamw"])
    optimizer.param_groups[0]["amsgrad"] = True
    again = copies(params)
    fresh = BY_NAME["adamw"].make(again)
    fresh.load_state_dict(optimizer.state_dict())
    run(optimizer, range(3, 5))
    run(fresh, range(3, 5))
    assert "max_exp_avg_sq" in fresh.state[again[0]]
    assert same(values(again), values(params))


@pytest.mark.parametrize(
    "garbage", [None, 3, [], "state", {"state": [], "param_groups": []}, {"state": {}, "param_groups": [3]}], ids=str
)
def test_what_is_no_state_dict_is_refused(row: Row, garbage: Any) -> None:
    _, optimizer = trained(row)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"state dict|param_groups"):
        optimizer.load_state_dict(garbage)
    assert same(snapshot(optimizer), before)


@pytest.mark.parametrize("step", [float("nan"), float("inf"), -1.0, 0.5])
def test_a_counter_that_counts_nothing_is_refused(row: Row, step: float) -> None:
    _, optimizer = trained(row)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"].fill_(step)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="'step' of parameter 0 must be a whole number from 0"):
        optimizer.load_state_dict(saved)
    assert same(snapshot(optimizer), before)
