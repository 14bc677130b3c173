"""What stands around an optimizer in a training loop: schedulers, gradient scaling, clipping, hooks."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.contract.rows import Row, distance, gradient, make_params, run, same, snapshot, values

SCHEDULERS: dict[str, Any] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=3),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.02, total_steps=6),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, base_lr=1e-3, max_lr=1e-2, step_size_up=2),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, start_factor=0.25, total_iters=2), lr_scheduler.ExponentialLR(o, gamma=0.5)],
        milestones=[2],
    ),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=3),
}


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_act_on_the_next_step(row: Row, name: str, tensor: bool) -> None:
    """Equal to setting the options by hand; a tensor lr equals a float."""
    params, plain = make_params(((33,), (64, 80))), make_params(((33,), (64, 80)))
    lr = row.options["lr"]
    optimizer = row.make(params, lr=torch.tensor(lr, dtype=torch.float64) if tensor else lr)
    other = row.make(plain)
    scheduler = SCHEDULERS[name](optimizer)
    seen = []
    for step in range(5):
        group = optimizer.param_groups[0]
        seen.append(float(group["lr"]))
        other.param_groups[0].update({key: group[key] for key in ("betas", "momentum") if key in group}, lr=float(group["lr"]))
        run(optimizer, range(step, step + 1))
        run(other, range(step, step + 1))
        scheduler.step()
    assert distance(params, plain) < 1e-7
    assert len(set(seen)) > 2


def test_reduce_on_plateau_and_back_from_zero(row: Row) -> None:
    params = make_params(((33,),))
    optimizer = row.make(params)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    for loss in (1.0, 1.0, 1.0):
        run(optimizer, range(1))
        scheduler.step(loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * row.options["lr"])


def test_a_scheduler_after_a_load_goes_on(row: Row) -> None:
    params, again = make_params(), make_params()
    optimizer = row.make(params)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for step in range(4):
        if step == 2:
            saved, plan, held = snapshot(optimizer)[1], scheduler.state_dict(), values(params)
        run(optimizer, range(step, step + 1))
        scheduler.step()
    fresh = row.make(again)
    other = lr_scheduler.CosineAnnealingLR(fresh, T_max=6)
    other.load_state_dict(plan)
    fresh.load_state_dict(saved)
    for p, value in zip(again, held, strict=True):
        p.data.copy_(value)
    for step in range(2, 4):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(fresh, range(step, step + 1))
            other.step()
    assert same(values(again), values(params))


def test_grad_scaler_equals_a_plain_step(row: Row) -> None:
    params, plain = make_params(), make_params()
    optimizer, other = row.make(params), row.make(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        loss = sum(((p * p).sum() for p in params), torch.zeros(()))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        scaler.step(optimizer)
        scaler.update()
        sum(((p * p).sum() for p in plain), torch.zeros(())).backward()
        torch.nn.utils.clip_grad_norm_(plain, 1.0)
        other.step()
        optimizer.zero_grad()
        other.zero_grad()
    assert distance(params, plain) < 1e-6


def test_grad_scaler_skips_what_is_not_finite(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    run(optimizer, range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = snapshot(optimizer)
    scaler.scale(torch.zeros(()))  # makes the scale
    params[1].grad = torch.full((33,), float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert same(snapshot(optimizer), before)
    assert scaler.get_scale() == 512.0
    for i, p in enumerate(params):
        p.grad = gradient(p, i) * 512
    scaler.step(optimizer)
    assert float(optimizer.state[params[0]]["step"]) == 3


def test_step_hooks(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    seen: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append(f"before {len(optimizer.state)}")),
        optimizer.register_step_post_hook(lambda *_: seen.append(f"after {len(optimizer.state)}")),
    ]
    run(optimizer, range(1))
    assert seen == ["before 0", "after 3"]
    for handle in handles:
        handle.remove()
    run(optimizer, range(1, 2))
    assert len(seen) == 2


def test_a_pre_hook_may_replace_the_arguments(row: Row) -> None:
    optimizer = row.make(make_params())
    optimizer.register_step_pre_hook(lambda o, *_: ((o, lambda: 7.0), {}))
    assert optimizer.step() == 7.0


def test_global_hooks(row: Row) -> None:
    seen: list[Any] = []
    handle = register_optimizer_step_post_hook(lambda *given: seen.append(given[0]))
    optimizer = row.make(make_params())
    run(optimizer, range(1))
    handle.remove()
    run(optimizer, range(1, 2))
    assert seen == [optimizer]


def test_state_dict_hooks(row: Row) -> None:
    """They run in torch's order, may replace what they are given, and survive."""
    optimizer, fresh = row.make(make_params()), row.make(make_params())
    run(optimizer, range(1))
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, saved: {**saved, "extra": 1})
    saved = optimizer.state_dict()
    assert saved["extra"] == 1

    def halve(o: Any, given: dict[str, Any]) -> dict[str, Any]:
        assert not o.state
        seen.append("loading")
        return {**given, "param_groups": [{**group, "lr": group["lr"] / 2} for group in given["param_groups"]]}

    fresh.register_load_state_dict_pre_hook(halve)
    fresh.register_load_state_dict_post_hook(lambda _: seen.append(f"loaded {len(fresh.state)}"))
    fresh.load_state_dict(saved)
    assert seen == ["saving", "loading", "loaded 3"]
    assert fresh.param_groups[0]["lr"] == row.options["lr"] / 2
    assert optimizer.param_groups[0]["lr"] == row.options["lr"]
    assert set(saved) == {"state", "param_groups", "extra"}


def test_the_profiler_sees_the_step(row: Row) -> None:
    optimizer = row.make(make_params(((3,),)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(optimizer, range(1))
    assert f"Optimizer.step#{row.cls.__name__}.step" in {event.key for event in profile.key_averages()}  # type: ignore[attr-defined]
