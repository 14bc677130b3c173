"""Bytes of state as promised, nothing that grows or is kept, and `explain`."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from optgen.analysis.memory import Model, Shape, memory
from optgen.build import build
from tests.conftest import ROOT
from tests.contract.rows import BY_NAME, Row, gradient, make_params, run

SHAPES = ((64, 128), (33,), (), (70, 130), (16, 8, 6, 6), (0, 5), (4, 5))


def test_state_takes_the_bytes_that_optgen_memory_says(row: Row) -> None:
    """For every shape, with the spec's default flags."""
    built = build(str(ROOT / "specs" / f"{row.spec}.yaml"))
    params = make_params(SHAPES)
    optimizer = row.cls(params)
    run(optimizer, range(2))
    promised = memory(
        built.spec, built.programs, Model("test", "", tuple(Shape(str(i), shape) for i, shape in enumerate(SHAPES)))
    )
    for p, expected in zip(params, promised, strict=True):
        assert sum(value.nbytes for value in optimizer.state[p].values()) == expected.nbytes, tuple(p.shape)
    for value in (value for state in optimizer.state.values() for value in state.values()):
        assert value.untyped_storage().nbytes() == value.nbytes  # no view of something larger


@pytest.fixture
def _young_heap() -> Iterator[None]:
    """The collector looks at what the test makes, not at all of torch."""
    gc.freeze()
    yield
    gc.unfreeze()


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


@pytest.mark.usefixtures("_young_heap")
def test_nothing_grows_from_step_to_step(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    run(optimizer, range(2))
    before, keys = tensors_alive(), [set(state) for state in optimizer.state.values()]
    attributes = set(vars(optimizer))
    run(optimizer, range(2, 6))
    assert tensors_alive() == before
    assert [set(state) for state in optimizer.state.values()] == keys
    assert set(vars(optimizer)) == attributes


def test_gradients_are_released(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    run(optimizer, range(2))
    grads = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    assert not any(grad() is not None for grad in grads)


@pytest.mark.usefixtures("_young_heap")
def test_everything_goes_with_the_optimizer(row: Row) -> None:
    params = make_params()
    optimizer = row.make(params)
    run(optimizer, range(2))
    kept: list[Any] = [weakref.ref(value) for state in optimizer.state.values() for value in state.values()]
    kept += [weakref.ref(p) for p in params] + [weakref.ref(optimizer)]
    del optimizer, params
    gc.collect()
    assert not any(reference() is not None for reference in kept)


def test_a_cleared_state_starts_over(row: Row) -> None:
    params, plain = make_params(), make_params()
    optimizer = row.make(params)
    run(optimizer, range(2))
    optimizer.state.clear()
    for p, q in zip(params, plain, strict=True):
        q.data.copy_(p.detach())
    other = row.make(plain)
    run(optimizer, range(2, 4))
    run(other, range(2, 4))
    assert all(torch.equal(p, q) for p, q in zip(params, plain, strict=True))


def test_explain_has_a_line_for_each_parameter(row: Row) -> None:
    params = make_params(SHAPES)
    named = [(f"layer.{i}", p) for i, p in enumerate(params)]
    for given in (params, named):
        optimizer = row.make([{"params": given[:2]}, {"params": given[2:]}])
        before = dict(optimizer.state)
        heads, *lines = optimizer.explain().splitlines()
        assert dict(optimizer.state) == before
        assert heads.split() == ["parameter", "shape", "dtype", "backend", "kernel", "states"]
        for i, (line, shape) in enumerate(zip(lines, SHAPES, strict=True)):
            cells = re.split("  +", line)
            assert cells[0] in (str(i), f"layer.{i}")
            assert cells[1:4] == [str(shape), "float32", optimizer._backend(params[i].device)]
            assert cells[4].startswith("update")


@pytest.mark.parametrize("name", ["adamw8bit", "solo"])
def test_explain_says_why(name: str) -> None:
    params = make_params(((64, 128), (8192,), (4, 5)))
    optimizer = BY_NAME[name].make(params)
    _, coded, flat, small = optimizer.explain().splitlines()
    assert "bits in blocks of" in coded and "2 dimensions, 8192 elements" in coded
    assert "float32 (1 dimensions < 2)" in flat and "bits" not in flat
    assert "float32 (20 elements < 4096)" in small
    for p in params:
        p.grad = gradient(p, 0)
    optimizer.step()
    stored = [{key for key in optimizer.state[p] if key.endswith(".codes")} for p in params]
    assert [bool(keys) for keys in stored] == [True, False, False]


def test_explain_follows_flags() -> None:
    params = make_params()
    assert BY_NAME["sgd"].cls(params).explain().splitlines()[1].endswith(" none")
    assert "x float32" in BY_NAME["adamw"].make(params, amsgrad=True).explain()
    assert "x float32" not in BY_NAME["adamw"].make(params).explain()
    wide = BY_NAME["adamw"].make(make_params(dtype=torch.float64)).explain()
    assert "m float64; v float64" in wide
