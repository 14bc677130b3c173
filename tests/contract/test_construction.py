"""Parameters, groups and hyperparameters: what is taken, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract.rows import BY_NAME, Row, distance, gradient, make_params, run, same, snapshot, values


def test_parameters_may_come_as_list_generator_or_names(row: Row) -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2))
    start = copy.deepcopy(model.state_dict())
    results = []
    for given in (list, iter, lambda _: model.named_parameters()):
        model.load_state_dict(start)
        optimizer = row.make(given(model.parameters()))  # type: ignore[operator]
        run(optimizer, range(2))
        results.append(values(model.parameters()))
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"][0] == "0.weight"


def test_groups_with_own_options_equal_separate_optimizers(row: Row) -> None:
    together, alone = make_params(), make_params()
    groups = [{"params": together[:1], "lr": 5e-3}, {"params": together[1:], row.decay: 0.0}]
    run(row.make(groups), range(3))
    single = [row.make(alone[:1], lr=5e-3), row.make(alone[1:], **{row.decay: 0.0})]
    for step in range(3):
        for i, p in enumerate(alone):
            p.grad = gradient(p, 100 * step + i)
        for optimizer in single:
            optimizer.step()
    assert same(values(together), values(alone))


def test_parameters_that_torch_refuses(row: Row) -> None:
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="empty parameter list"):
        row.make([])
    with pytest.raises(TypeError, match="iterable"):
        row.make(p)
    with pytest.raises(TypeError, match="ordered collections"):
        row.make([{"params": {p}}])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        row.make([{"params": ["weight"]}])
    with pytest.raises(ValueError, match="non-leaf"):
        row.make([p * 2])
    with pytest.raises(ValueError, match="more than one parameter group"):
        row.make([{"params": [p]}, {"params": [p]}])


def test_a_parameter_that_is_listed_twice_is_updated_once(row: Row) -> None:
    """Of which torch warns; it would make two steps of it."""
    (p,), (q,) = make_params(((33,),)), make_params(((33,),))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = row.make([p, p])
    other = row.make([q])
    p.grad, q.grad = gradient(p, 0), gradient(q, 0)
    optimizer.step()
    other.step()
    assert same(values([p]), values([q]))
    assert float(optimizer.state[p]["step"]) == 1


def test_parameters_of_other_kinds_are_refused_by_dtype_or_layout(row: Row) -> None:
    with pytest.raises(TypeError, match=r"complex64"):
        row.make([nn.Parameter(torch.ones(3, dtype=torch.complex64))])
    with pytest.raises(TypeError, match=r"int64"):
        row.make([torch.ones(3, dtype=torch.int64)])
    with pytest.raises(TypeError, match=r"dense.*sparse"):
        row.make([nn.Parameter(torch.eye(3).to_sparse())])
    with pytest.raises(RuntimeError, match=r"share memory"):
        row.make([nn.Parameter(torch.ones(3, 1).expand(3, 4))])


WRONG_NUMBERS: tuple[tuple[Any, type[Exception], str], ...] = (
    (-1.0, ValueError, r"lr must be at least 0.0.*got -1.0"),
    (float("nan"), ValueError, r"lr must be .*a finite number.*got nan"),
    (float("inf"), ValueError, r"lr must be a finite number.*got inf"),
    (True, TypeError, r"lr must be a number, got True"),
    ("1e-3", TypeError, r"lr must be a number, got '1e-3'"),
    (None, TypeError, r"lr must be a number, got None"),
    (torch.ones(2), ValueError, r"lr as a tensor must have one element, got shape \(2,\)"),
    (torch.tensor(-1.0), ValueError, r"lr must be at least 0.0"),
)


@pytest.mark.parametrize(("value", "error", "message"), WRONG_NUMBERS, ids=lambda value: str(value)[:12])
def test_wrong_numbers_are_refused(row: Row, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        row.make(make_params(), lr=value)
    assert str(caught.value).startswith(row.cls.__name__)  # type: ignore[attr-defined]
    with pytest.raises(error, match=message):
        row.make([{"params": make_params(), "lr": value}])


@pytest.mark.parametrize("name", ["adamw", "lion", "adamw8bit", "solo"])
def test_wrong_betas_are_refused(name: str) -> None:
    row = BY_NAME[name]
    with pytest.raises(ValueError, match=r"betas \(beta2\) must be below 1.0, got 1.0"):
        row.make(make_params(), betas=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"betas must be 2 numbers \(beta1, beta2\), got \(0.9,\)"):
        row.make(make_params(), betas=(0.9,))
    with pytest.raises(ValueError, match=r"betas must be 2 numbers"):
        row.make(make_params(), betas=0.9)


def test_flags_and_choices_are_checked() -> None:
    with pytest.raises(TypeError, match=r"AdamW: amsgrad must be True or False, got 1"):
        BY_NAME["adamw"].make(make_params(), amsgrad=1)
    with pytest.raises(ValueError, match=r"couple_beta1 must be one of 'none', 'from_8_bits', 'from_5_bits', got 'most'"):
        BY_NAME["solo"].make(make_params(), couple_beta1="most")


def test_unknown_arguments_are_refused(row: Row) -> None:
    for unknown in ("foreach", "fused", "capturable", "learning_rate"):
        with pytest.raises(TypeError, match=unknown):
            row.make(make_params(), **{unknown: True})


def test_other_keys_of_a_group_are_kept(row: Row) -> None:
    params = make_params()
    optimizer = row.make([{"params": params[:1], "name": "matrices", "initial_lr": 0.5}, {"params": params[1:]}])
    run(optimizer, range(1))
    saved = optimizer.state_dict()["param_groups"][0]
    assert (saved["name"], saved["initial_lr"]) == ("matrices", 0.5)
    fresh = row.make([{"params": make_params()[:1]}, {"params": make_params()[1:]}])
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["name"] == "matrices"


def test_lists_and_tensors_are_numbers_too(row: Row) -> None:
    results = []
    lists = {} if row.name == "sgd" else {"betas": [0.8, 0.95]}
    tuples = {key: tuple(value) for key, value in lists.items()}
    for options in (
        {"lr": 0.015625, **tuples},
        {"lr": torch.tensor(0.015625), **lists},
        {"lr": torch.full((1,), 0.015625), **lists},
    ):
        params = make_params()
        run(row.make(params, **options), range(2))
        results.append(values(params))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_a_group_added_later_starts_at_the_first_step(row: Row) -> None:
    params, alone = make_params(), make_params()
    optimizer = row.make(params[:2])
    run(optimizer, range(2))
    optimizer.add_param_group({"params": params[2], "lr": 1e-3})
    run(optimizer, range(2, 4))
    assert [float(optimizer.state[p]["step"]) for p in params] == [4, 4, 2]
    other = row.make([alone[2]], lr=1e-3)
    for step in (2, 3):
        alone[2].grad = gradient(alone[2], 100 * step + 2)
        other.step()
    assert distance(params[2:], alone[2:]) < 1e-7


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: {"params": [p], "lr": -1.0},
        lambda p: {"params": [p], "lr": "fast"},
        lambda _: {"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]},
        lambda _: {"params": [nn.Parameter(torch.ones(2, 1).expand(2, 3))]},
        lambda p: {"params": [p * 2]},
        lambda p: {"params": [("named", p)]},
        lambda _: "no group",
    ],
    ids=["range", "type", "complex", "expanded", "non-leaf", "names", "no-dict"],
)
def test_a_refused_group_leaves_the_optimizer_as_it_was(row: Row, wrong: Any) -> None:
    optimizer = row.make(make_params())
    run(optimizer, range(1))
    before = snapshot(optimizer)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        optimizer.add_param_group(wrong(nn.Parameter(torch.ones(3))))
    assert same(snapshot(optimizer), before)
    run(optimizer, range(1, 2))


def test_backends_by_name(row: Row) -> None:
    with pytest.raises(ValueError, match=r"backend must be one of 'auto', 'torch', 'triton'.*got 'cuda'"):
        row.make(make_params(), backend="cuda")
    assert row.make(make_params(), backend="auto").explain()


def test_a_backend_that_cannot_run_here_changes_nothing(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    pytest.importorskip("triton")
    optimizer = row.make(make_params(), backend="triton")
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"backend='triton' cannot update a parameter on cpu.*TRITON_INTERPRET=1"):
        run(optimizer, range(1))
    assert same(snapshot(optimizer), before)


def test_instances_share_nothing_and_print_themselves(row: Row) -> None:
    first, second = row.make(make_params()), row.make(make_params(), lr=0.5)
    run(second, range(2))
    assert not first.state
    assert first.param_groups[0]["lr"] == row.options["lr"]
    text = repr(first)
    assert text.startswith(row.cls.__name__)  # type: ignore[attr-defined]
    assert f"lr: {row.options['lr']}" in text
