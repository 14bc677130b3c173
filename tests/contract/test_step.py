"""One step: closures, gradients that are missing, late, foreign or zero, and what a step must leave alone."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract.rows import DTYPES, Row, distance, gradient, make_params, run, same, snapshot, values


def test_a_closure_is_called_once_with_gradients_on(row: Row) -> None:
    params, calls = make_params(), []
    optimizer = row.make(params)

    def closure() -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum((p**2).sum() for p in params)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        return loss.detach()

    expected = float(closure())
    before = values(params)
    with torch.no_grad():
        loss = optimizer.step(closure)
        assert not torch.is_grad_enabled()
    assert calls == [True, True]
    assert float(loss) == expected
    assert distance(params, before) > 0
    assert optimizer.step() is None


def test_parameters_without_gradients_are_left_alone(row: Row) -> None:
    params = make_params()
    params[1].requires_grad_(False)
    optimizer = row.make(params)
    before = values(params)
    optimizer.step()  # no gradient at all
    assert same(values(params), before)
    assert not optimizer.state
    params[0].grad = gradient(params[0], 0)
    optimizer.step()
    assert same(values(params[1:]), before[1:])
    assert distance(params[:1], before[:1]) > 0
    assert set(optimizer.state) == {params[0]}


def test_a_gradient_that_starts_late_starts_at_the_first_step(row: Row) -> None:
    params, alone = make_params(), make_params()
    optimizer = row.make(params)
    for step in range(4):
        for i, p in enumerate(params):
            p.grad = gradient(p, 100 * step + i) if i == 0 or step >= 2 else None
        optimizer.step()
    assert [float(optimizer.state[p]["step"]) for p in params] == [4, 2, 2]
    other = row.make(alone)
    for step in (2, 3):
        for i, p in enumerate(alone[1:], 1):
            p.grad = gradient(p, 100 * step + i)
        other.step()
    assert same(values(params[1:]), values(alone[1:]))


def test_a_gradient_that_pauses_resumes(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    run(optimizer, range(2))
    held, state = values(params[:1]), snapshot(optimizer)[1]["state"][0]
    for _ in range(2):
        params[0].grad = None
        optimizer.step()
    assert same(values(params[:1]), held)
    assert same(snapshot(optimizer)[1]["state"][0], state)
    run(optimizer, range(2, 3))
    assert float(optimizer.state[params[0]]["step"]) == 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_coordinates_without_gradients_stay_put(row: Row, dtype: torch.dtype) -> None:
    params = make_params(dtype=dtype)
    before = values(params)
    optimizer = row.make(params, **{row.decay: 0.0})
    for step in range(3):
        for p in params:
            p.grad = gradient(p, step)
            p.grad.view(-1)[::2] = 0
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        moved = (p.detach() != old).view(-1)
        assert not moved[::2].any()
        assert moved[1::2].any()


def test_gradients_keep_every_bit(row: Row) -> None:
    for dtype in DTYPES:
        params = make_params(dtype=dtype)
        optimizer = row.make(params, maximize=True)
        for p in params:
            p.grad = gradient(p, 3)
        kept = [(p.grad, p.grad.clone(), p.grad._version) for p in params if p.grad is not None]
        optimizer.step()
        for p, (grad, copy, version) in zip(params, kept, strict=True):
            assert p.grad is grad
            assert same(grad, copy)
            assert grad._version == version


def test_maximize_is_descent_on_the_negative(row: Row) -> None:
    up, down = make_params(), make_params()
    climbing, falling = row.make(up, maximize=True), row.make(down)
    for step in range(3):
        for p, q in zip(up, down, strict=True):
            p.grad, q.grad = -gradient(p, step), gradient(q, step)
        climbing.step()
        falling.step()
    assert same(values(up), values(down))


def test_gradients_may_have_another_dtype(row: Row) -> None:
    """A float32 gradient of a bfloat16 parameter counts in full."""
    params, wide = make_params(dtype=torch.bfloat16), make_params(dtype=torch.bfloat16)
    if not hasattr(params[0], "grad_dtype"):
        pytest.skip("this torch has no gradients of another dtype")
    other = row.make(wide)
    for p in params:
        p.grad_dtype = torch.float32
        p.grad = gradient(p, 7, torch.float32)
    for p in wide:
        p.grad = gradient(p, 7)
    optimizer = row.make(params)
    optimizer.step()
    other.step()
    state, coarse = (o.state_dict()["state"][1] for o in (optimizer, other))
    key = "momentum_buffer" if "momentum_buffer" in state else "exp_avg"
    assert 0 < distance([state[key]], [coarse[key]]) < 0.1


def test_parameters_are_updated_in_place(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    run(optimizer, range(1))
    addresses, versions = [p.data_ptr() for p in params], [p._version for p in params]
    states = [{key: value.data_ptr() for key, value in optimizer.state[p].items()} for p in params]
    run(optimizer, range(1, 3))
    assert [p.data_ptr() for p in params] == addresses
    assert all(p._version > version for p, version in zip(params, versions, strict=True))
    assert [{key: value.data_ptr() for key, value in optimizer.state[p].items()} for p in params] == states


def test_a_stale_backward_is_noticed(row: Row) -> None:
    """Autograd sees that a weight saved for the backward pass was overwritten."""
    (p,) = make_params(((5, 7),))
    optimizer = row.make([p])
    loss = (p * p).sum()
    p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_grad_mode_does_not_matter(row: Row, mode: Any) -> None:
    params, plain = make_params(), make_params()
    run(row.make(plain), range(2))
    with mode():
        run(row.make(params), range(2))
    assert same(values(params), values(plain))
    assert all(p.requires_grad and p.is_leaf for p in params)


def test_inference_mode_behaves_as_torch_does(row: Row) -> None:
    def attempt(make: Any) -> str:
        params = make_params()
        optimizer = make(params)
        try:
            with torch.inference_mode():
                run(optimizer, range(1))
            run(optimizer, range(1, 2))
        except RuntimeError as error:
            return str(error).split(".")[0]
        return "fine"

    assert attempt(row.make) == attempt(row.make_twin)


def test_state_made_outside_is_updated_in_inference_mode(row: Row) -> None:
    params, plain = make_params(), make_params()
    optimizer, other = row.make(params), row.make(plain)
    for each in (optimizer, other):
        run(each, range(1))
    run(other, range(1, 2))
    with torch.inference_mode():
        run(optimizer, range(1, 2))
    assert same(values(params), values(plain))


def test_options_changed_between_steps_act_at_once(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    run(optimizer, range(1))
    before = values(params)
    optimizer.param_groups[0]["lr"] = 0.0
    run(optimizer, range(1, 2))
    assert same(values(params), before)
    optimizer.param_groups[0]["lr"] = 1e-3
    run(optimizer, range(2, 3))
    assert distance(params, before) > 0


def test_data_replaced_between_steps_is_seen(row: Row) -> None:
    params, plain = make_params(), make_params()
    optimizer, other = row.make(params), row.make(plain)
    for each in (optimizer, other):
        run(each, range(1))
    old = [p.data for p in params]
    kept = [data.clone() for data in old]
    for p in params:
        p.data = p.data.clone()
    for each in (optimizer, other):
        run(each, range(1, 2))
    assert same(values(params), values(plain))
    assert same(old, kept)


def test_a_step_that_is_refused_changes_nothing(row: Row) -> None:
    """All parameters are looked at before the first is updated, whatever group they are in."""
    params = make_params()
    optimizer = row.make([{"params": params[:2]}, {"params": params[2:]}])
    run(optimizer, range(1))
    for i, p in enumerate(params):
        p.grad = gradient(p, i)
    params[2].grad = torch.eye(5, 7).to_sparse()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"dense gradients, got layout torch.sparse_coo"):
        optimizer.step()
    assert same(snapshot(optimizer), before)


@pytest.mark.parametrize("value", ["fast", None, [0.1], 0.1j], ids=str)
def test_a_number_that_is_none_is_refused_in_time(value: Any, row: Row) -> None:
    """In the second group, and written past the constructor: the first group must not have stepped by then."""
    params = make_params()
    optimizer = row.make([{"params": params[:2]}, {"params": params[2:]}])
    run(optimizer, range(1))
    for i, p in enumerate(params):
        p.grad = gradient(p, i)
    before = values(params), deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[1]["lr"] = value
    with pytest.raises(TypeError, match=r"lr must be a number, got"):
        optimizer.step()
    assert same((values(params), optimizer.state_dict()["state"]), before)


def test_a_learning_rate_in_a_tensor_of_any_shape(row: Row) -> None:
    trained = []
    for lr in (1e-2, torch.tensor([[1e-2]], dtype=torch.float64)):
        params = make_params()
        optimizer = row.make(params)
        optimizer.param_groups[0]["lr"] = lr
        run(optimizer, range(2))
        trained.append(values(params))
    assert same(*trained)


def test_steps_in_a_hook_after_accumulation(row: Row) -> None:
    """One optimizer per parameter, stepping inside the backward pass."""
    params, plain = make_params(), make_params()
    optimizers = {p: row.make([p], **{row.decay: 0.0}) for p in params}

    def hook(p: torch.Tensor) -> None:
        optimizers[p].step()  # type: ignore[index]
        p.grad = None

    for p in params:
        p.register_post_accumulate_grad_hook(hook)
    for p, q in zip(params, plain, strict=True):
        (p**3).sum().backward()
        (q**3).sum().backward()
        assert p.grad is None
        row.make([q], **{row.decay: 0.0}).step()
    assert same(values(params), values(plain))


def test_zero_grad(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    run(optimizer, range(1))
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_an_optimizer_as_autocast_sees_it(row: Row) -> None:
    params, plain = make_params(), make_params()
    run(row.make(plain), range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(row.make(params), range(2))
    assert same(values(params), values(plain))


def test_training_lowers_the_loss(row: Row) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    x = torch.randn(16, 64)
    y = x[:, :1] * 0.5
    optimizer = row.make(model.parameters(), lr=1e-3 if row.name != "sgd" else 1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
