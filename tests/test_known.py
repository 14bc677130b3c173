"""What eager steps remember of parameters: a change of anything is seen, and nothing is kept alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from optgen.generated.adamw import AdamW


def looks(optimizer: AdamW, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one each time the optimizer looks at its parameters anew."""
    seen: list[int] = []
    check = optimizer._check_step

    def counted() -> None:
        seen.append(1)
        check()

    monkeypatch.setattr(optimizer, "_check_step", counted)
    return seen


def made(count: int = 3) -> tuple[list[Tensor], AdamW]:
    params = [torch.randn(4, 5).requires_grad_() for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p)
    return params, AdamW(params, lr=0.1)


def test_steps_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer = made()
    seen = looks(optimizer, monkeypatch)
    for _ in range(4):
        optimizer.step()
        for p in params:
            p.grad = torch.randn_like(p)
    assert len(seen) == 1


def double(params: list[Tensor], optimizer: AdamW) -> None:
    params[0].data = params[0].data.double()
    params[0].grad = torch.ones_like(params[0])


def reshape(params: list[Tensor], optimizer: AdamW) -> None:
    params[0].grad = None
    params[0].data = params[0].data.view(20)
    optimizer.state.pop(params[0])
    params[0].grad = torch.ones_like(params[0])


def narrow(params: list[Tensor], optimizer: AdamW) -> None:
    """The gradient stays as it is."""
    params[0].data = params[0].data.bfloat16()


def rename(params: list[Tensor], optimizer: AdamW) -> None:
    """The same tensors in the same order, but what AdamW looks for is missing."""
    state = optimizer.state[params[0]]
    optimizer.state[params[0]] = {"mine" if key == "exp_avg" else key: value for key, value in state.items()}


def add_state(params: list[Tensor], optimizer: AdamW) -> None:
    optimizer.state[params[0]]["mine"] = torch.zeros(4, 5)


def replace_state(params: list[Tensor], optimizer: AdamW) -> None:
    optimizer.state[params[1]]["exp_avg"] = torch.zeros(4, 5)


def reload(params: list[Tensor], optimizer: AdamW) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def pop_state(params: list[Tensor], optimizer: AdamW) -> None:
    optimizer.state.pop(params[2])


def add_group(params: list[Tensor], optimizer: AdamW) -> None:
    p = torch.randn(3).requires_grad_()
    p.grad = torch.ones(3)
    optimizer.add_param_group({"params": [p]})


def set_flag(params: list[Tensor], optimizer: AdamW) -> None:
    optimizer.param_groups[0]["amsgrad"] = True


CHANGES = (double, narrow, reshape, rename, add_state, replace_state, reload, pop_state, add_group, set_flag)


@pytest.mark.parametrize("change", CHANGES, ids=[change.__name__ for change in CHANGES])
def test_changes_are_seen(change: Callable[[list[Tensor], AdamW], None], monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer = made()
    seen = looks(optimizer, monkeypatch)
    optimizer.step()
    change(params, optimizer)
    optimizer.step()
    assert len(seen) == 2
    optimizer.step()
    assert len(seen) == 2


def test_another_shape_than_its_states_is_refused_after_steps() -> None:
    params, optimizer = made()
    optimizer.step()
    params[0].grad = None
    params[0].data = params[0].data.view(20)
    params[0].grad = torch.ones(20)
    with pytest.raises(RuntimeError, match="made for another shape"):
        optimizer.step()


def test_a_parameter_listed_twice_is_updated_once_in_every_step() -> None:
    p, q = torch.ones(5).requires_grad_(), torch.ones(5).requires_grad_()
    p.grad, q.grad = torch.ones(5), torch.ones(5)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        twice = AdamW([p, p], lr=0.1)
    once = AdamW([q], lr=0.1)
    for _ in range(3):
        twice.step()
        once.step()
    assert twice.state[p]["step"] == 3
    assert torch.equal(p, q)


def test_another_parameter_in_the_same_place_is_not_known() -> None:
    """An id is given again when its object is gone."""
    params, optimizer = made()
    optimizer.step()
    groups = [(group, optimizer.flags(group)) for group in optimizer.param_groups]
    assert optimizer._known.recall(groups, optimizer.state) is not None
    other = torch.nn.Parameter(params[0].detach().clone())
    other.grad, optimizer.param_groups[0]["params"][0] = params[0].grad, other
    optimizer.state[other] = optimizer.state[params[0]]
    optimizer._known.parameters[id(other)] = optimizer._known.parameters[id(params[0])]
    assert optimizer._known.recall(groups, optimizer.state) is None


def test_a_sparse_gradient_is_refused_after_dense_ones() -> None:
    params, optimizer = made()
    optimizer.step()
    params[1].grad = torch.ones(4, 5).to_sparse()
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match="dense gradients"):
        optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


def test_counters_of_any_dtype_advance_and_autograd_sees_it() -> None:
    params, optimizer = made()
    optimizer.step()
    counters = [optimizer.state[p]["step"] for p in params]
    before = [counter._version for counter in counters]
    optimizer.step()
    assert all(counter._version > old for counter, old in zip(counters, before, strict=True))
    optimizer.state[params[1]]["step"] = torch.tensor(2.0, dtype=torch.float64)
    optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in params] == [3, 3, 3]


def test_new_gradients_and_learning_rates_count() -> None:
    params, optimizer = made(1)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    before = params[0].detach().clone()
    optimizer.step()
    assert torch.equal(params[0], before)


def test_parameters_without_gradients_are_left_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer = made()
    seen = looks(optimizer, monkeypatch)
    optimizer.step()
    grad, params[1].grad = params[1].grad, None
    before = params[1].detach().clone()
    optimizer.step()
    assert torch.equal(params[1], before)
    params[1].grad = grad
    optimizer.step()
    assert not torch.equal(params[1], before)
    assert optimizer.state[params[1]]["step"] == 2
    assert len(seen) == 1


def test_nothing_is_kept_alive() -> None:
    params, optimizer = made()
    optimizer.step()
    state = weakref.ref(optimizer.state[params[0]]["exp_avg"])
    optimizer.state.pop(params[0])
    gc.collect()
    assert state() is None
    p = weakref.ref(params[0])
    optimizer.param_groups[0]["params"].pop(0)
    params.pop(0)
    gc.collect()
    assert p() is None
