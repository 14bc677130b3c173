"""Run by test_triton.py in a process where Triton interprets: prints what it saw of each row as JSON."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import nn

from tests.contract.rows import ROWS, Row, distance, gradient, make_params, run, same, values

SHAPES = ((16, 256), (33,), (), (5, 7))


def interchange(row: Row) -> dict[str, Any]:
    """Two steps on one backend, one on the other after a load, against three on the torch backend."""
    found: dict[str, Any] = {}
    plain = make_params(SHAPES)
    reference = row.make(plain, backend="torch")
    run(reference, range(2))
    halfway = copy.deepcopy([values(plain), reference.state_dict()])
    run(reference, range(2, 3))
    for first, second in (("torch", "triton"), ("triton", "torch")):
        params = make_params(SHAPES)
        optimizer = row.make(params, backend=first)
        run(optimizer, range(2))
        again = [nn.Parameter(p.detach().clone()) for p in params]
        fresh = row.make(again, backend=second)
        fresh.load_state_dict(optimizer.state_dict())
        found[f"{first} loads into {second}"] = same(fresh.state_dict(), optimizer.state_dict())
        run(fresh, range(2, 3))
        found[f"{first} then {second}"] = distance(again, plain)
        if first == "triton":
            found["halfway"] = distance(params, halfway[0])
            found["layout"] = layout(optimizer.state_dict()) == layout(halfway[1])
    return found


def layout(saved: dict[str, Any]) -> Any:
    """Keys, dtypes and shapes of a state dict."""
    return {
        number: {key: (str(value.dtype), tuple(value.shape)) for key, value in state.items()}
        for number, state in saved["state"].items()
    }


def codes(row: Row) -> dict[str, Any]:
    """Two steps from the same start: codes, scales and random bits must agree bit for bit."""
    results = []
    for backend in ("torch", "triton"):
        params = make_params(((16, 256),))
        optimizer = row.make(params, backend=backend, lr=0.0)
        for step in range(2):
            params[0].grad = (gradient(params[0], step) * 64).round() / 64
            optimizer.step()
        results.append(optimizer.state_dict()["state"][0])
    plain, launched = results
    return {key: same(plain[key], launched[key]) for key in plain if "." in key or key in ("step", "rounding_key")}


def contract(row: Row) -> dict[str, Any]:
    """What the torch backend's tests say of a step, once more."""
    params = make_params(SHAPES)
    optimizer = row.make(params, backend="triton", **{row.decay: 0.0})
    before = values(params)
    for p in params:
        p.grad = gradient(p, 0)
        p.grad.view(-1)[::2] = 0
    grads = [p.grad.clone() for p in params if p.grad is not None]
    params[3].grad = None
    optimizer.step()
    moved = [(p.detach() != old).view(-1) for p, old in zip(params, before, strict=True)]
    return {
        "zero gradients stay": not any(bool(m[::2].any()) for m in moved),
        "others move": all(bool(m[1::2].all()) for m in moved[:2]),
        "None is skipped": params[3] not in optimizer.state,
        "gradients are kept": all(same(p.grad, grad) for p, grad in zip(params[:3], grads, strict=False)),
        "maximize": maximize(row),
    }


def maximize(row: Row) -> bool:
    up, down = make_params(((33,),)), make_params(((33,),))
    for params, sign in ((up, -1), (down, 1)):
        optimizer = row.make(params, backend="triton", maximize=sign < 0)
        params[0].grad = sign * gradient(params[0], 0)
        optimizer.step()
    return same(values(up), values(down))


def main() -> None:
    torch.manual_seed(0)
    print(json.dumps({row.name: {**interchange(row), "codes": codes(row), "contract": contract(row)} for row in ROWS}))


if __name__ == "__main__":
    main()
