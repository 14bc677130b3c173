"""Tensors of every shape, dtype and memory format, and values that are not finite."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.rows import DTYPES, Row, distance, gradient, make_params, run, same, values

ODD_SHAPES = (
    (),
    (1,),
    (7,),
    (1023,),
    (0,),
    (0, 5),
    (5, 0, 3),
    (1, 1),
    (3, 5, 7),
    (2, 3, 4, 5),
    (2, 1, 3, 1, 2),
    (17, 257),
    (4097, 1),
)
STEP = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 0.04, torch.float16: 0.004}


def test_shapes_alone_or_together_give_the_same(row: Row) -> None:
    together, alone = make_params(ODD_SHAPES), make_params(ODD_SHAPES)
    run(row.make([(str(i), p) for i, p in enumerate(together)]), range(3))
    single = [row.make([(str(i), p)]) for i, p in enumerate(alone)]  # names, so that the random bits are the same
    for step in range(3):
        for i, p in enumerate(alone):
            p.grad = gradient(p, 100 * step + i)
            single[i].step()
    assert same(values(together), values(alone))
    assert all(p.isfinite().all() for p in together)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_follow_float64(row: Row, dtype: torch.dtype) -> None:
    """What is kept per element is float32, so narrow weights differ from wide ones by their own rounding alone."""
    shapes = ((33,), (5, 7))  # without codes
    params = make_params(shapes, dtype=dtype)
    wide = [nn.Parameter(p.detach().double()) for p in params]
    start = values(wide)
    optimizer, other = row.make(params), row.make(wide)
    for step in range(5):
        for i, (p, q) in enumerate(zip(params, wide, strict=True)):
            p.grad = gradient(p, 100 * step + i)
            q.grad = p.grad.double()
        optimizer.step()
        other.step()
    error = distance(params, wide)
    assert error <= STEP[dtype] * max(float(q.detach().abs().max()) for q in wide)
    assert distance(wide, start) > 2e-3
    real = torch.float64 if dtype == torch.float64 else torch.float32
    assert all(value.dtype == real for value in optimizer.state[params[0]].values() if value.dim() > 0)


def test_dtypes_mix_in_a_group(row: Row) -> None:
    mixed = [p for dtype in DTYPES for p in make_params(((64, 80), (3,)), dtype=dtype)]
    alone = [p for dtype in DTYPES for p in make_params(((64, 80), (3,)), dtype=dtype)]
    run(row.make([(str(i), p) for i, p in enumerate(mixed)]), range(2))
    for i, p in enumerate(alone):
        optimizer = row.make([(str(i), p)])
        for step in range(2):
            p.grad = gradient(p, 100 * step + i)
            optimizer.step()
    assert same(values(mixed), values(alone))
    assert [p.dtype for p in mixed] == [p.dtype for p in alone]


def test_many_small_parameters(row: Row) -> None:
    params = make_params([(i % 5 + 1,) for i in range(300)])
    before = values(params)
    run(row.make(params), range(1))
    assert all(not torch.equal(p, old) for p, old in zip(params, before, strict=True))


LAYOUTS: dict[str, Any] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "sliced": lambda x: torch.zeros(2 * x.shape[0], 3 * x.shape[1]).add_(9)[::2, ::3].copy_(x),
    "offset": lambda x: torch.zeros(x.numel() + 3)[3:].view(x.shape).copy_(x),
}


@pytest.mark.parametrize(("param", "grad"), list(itertools.product(LAYOUTS, ["contiguous", "expanded", *LAYOUTS])))
def test_memory_format_does_not_matter(row: Row, param: str, grad: str) -> None:
    (plain,) = make_params(((72, 70),))
    moved = nn.Parameter(LAYOUTS[param](plain.detach()))
    assert same(moved, plain)
    stride = moved.stride()
    optimizer, other = row.make([moved]), row.make([plain])
    for step in range(2):
        plain.grad = gradient(plain, step)
        if grad == "expanded":
            plain.grad = plain.grad[:, :1].expand(72, 70).contiguous()
            moved.grad = plain.grad[:, :1].expand(72, 70)
        else:
            moved.grad = LAYOUTS.get(grad, torch.clone)(plain.grad)
        optimizer.step()
        other.step()
    assert same(values([moved]), values([plain]))
    assert moved.stride() == stride
    assert same(optimizer.state_dict()["state"], other.state_dict()["state"])


def test_channels_last(row: Row) -> None:
    plain, moved = nn.Conv2d(8, 16, 6), nn.Conv2d(8, 16, 6)
    moved.load_state_dict(plain.state_dict())
    moved = moved.to(memory_format=torch.channels_last)
    run(row.make(plain.parameters()), range(2))
    run(row.make(moved.parameters()), range(2))
    assert same(values(plain.parameters()), values(moved.parameters()))
    assert moved.weight.is_contiguous(memory_format=torch.channels_last)


def test_neighbours_in_memory_are_untouched(row: Row) -> None:
    storage = torch.full((3 + 64 * 65 + 5,), 9.0)
    p = nn.Parameter(storage[3:-5].view(64, 65))
    run(row.make([p]), range(2))
    assert bool((storage[:3] == 9).all()) and bool((storage[-5:] == 9).all())
    assert bool((p != 9).any())


def test_parameters_that_share_memory(row: Row) -> None:
    """Views of one buffer, as flattened models have them, and tied weights."""
    buffer = torch.cat([p.detach().reshape(-1) for p in make_params()])
    plain = make_params()
    sizes = [p.numel() for p in plain]
    views = [nn.Parameter(part.view(p.shape)) for part, p in zip(buffer.split(sizes), plain, strict=True)]
    run(row.make(views), range(2))
    run(row.make(plain), range(2))
    assert same(values(views), values(plain))
    assert same(buffer, torch.cat([p.detach().reshape(-1) for p in plain]))


def test_shared_memory_of_processes(row: Row) -> None:
    params, plain = make_params(), make_params()
    for p in params:
        p.share_memory_()
    run(row.make(params), range(1))
    run(row.make(plain), range(1))
    assert all(p.is_shared() for p in params)
    assert same(values(params), values(plain))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_gradients_are_seen_and_stay_where_they_are(row: Row, bad: float) -> None:
    """A NaN shows in its weight; weights of other rows, and other parameters, are as they would be without it."""
    params, plain = make_params(), make_params()
    optimizer, other = row.make(params), row.make(plain)
    for p, q in zip(params, plain, strict=True):
        p.grad, q.grad = gradient(p, 1), gradient(q, 1)
    params[0].grad[2, 5] = bad  # type: ignore[index]
    params[1].grad[4] = bad  # type: ignore[index]
    optimizer.step()
    other.step()
    assert same(values(params[2:]), values(plain[2:]))
    for p, q, place in ((params[0].view(-1), plain[0].view(-1), 2 * 128 + 5), (params[1], plain[1], 4)):
        others = torch.arange(p.numel()) != place
        assert same(p[others].detach(), q[others].detach())
        if row.name != "lion" or math.isnan(bad):  # the sign of infinity is 1
            assert not p[place].isfinite()
    run(optimizer, range(1, 3))
    rows = [i for i in range(64) if i != 2]
    assert params[0][rows].isfinite().all()


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e15])
def test_extreme_gradients_stay_finite(row: Row, size: float) -> None:
    params = make_params()
    optimizer = row.make(params)
    for step in range(3):
        for p in params:
            p.grad = gradient(p, step) * size
        optimizer.step()
    if row.name == "sgd":  # follows the gradient wherever it goes
        params = params if size < 1 else []
    assert all(p.isfinite().all() for p in params)
    assert all(value.isfinite().all() for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
def test_the_default_dtype_does_not_matter(row: Row, default: torch.dtype) -> None:
    plain = make_params()
    run(row.make(plain), range(3))
    params = make_params()
    torch.set_default_dtype(default)
    try:
        optimizer = row.make(params)
        run(optimizer, range(3))
        dtypes = {value.dtype for state in optimizer.state.values() for value in state.values()}
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(values(params), values(plain))
    assert torch.bfloat16 not in dtypes
    assert dtypes <= {torch.float32, torch.uint8, torch.int64}


def test_the_default_device_does_not_matter(row: Row) -> None:
    """Inside `with torch.device("meta")`, as large models are made, nothing must land there."""
    params, plain = make_params(), make_params()
    run(row.make(plain), range(2))
    grads: list[list[Tensor]] = [[gradient(p, 100 * step + i) for i, p in enumerate(params)] for step in range(2)]
    optimizer = row.make(params)
    for step in range(2):
        for p, grad in zip(params, grads[step], strict=True):
            p.grad = grad
        with torch.device("meta"):
            optimizer.step()
    assert same(values(params), values(plain))


def test_parameters_on_the_meta_device(row: Row) -> None:
    """A parameter on the meta device has nothing to update and must not crash the rest."""
    (p,) = make_params(((5, 7),))
    meta = nn.Parameter(torch.empty(5, 7, device="meta"))
    optimizer = row.make([p, meta])
    p.grad, meta.grad = gradient(p, 0), torch.empty(5, 7, device="meta")
    before = values([p])
    optimizer.step()
    assert distance([p], before) > 0


@pytest.mark.parametrize("shape", [(128, 128), (32, 32), (2, 2)], ids=str)
def test_a_parameter_of_another_shape_is_refused(row: Row, shape: tuple[int, ...]) -> None:
    p = make_params(((64, 128),))[0]
    optimizer = row.make([p])
    run(optimizer, range(1))
    p.grad = None
    p.data = torch.ones(shape)
    p.grad = torch.ones(shape)
    with pytest.raises(RuntimeError, match="its state was made for another shape or storage"):
        optimizer.step()
    optimizer.state.pop(p)
    optimizer.step()


def test_states_follow_a_parameter_to_another_dtype(row: Row) -> None:
    p = make_params(((7,),))[0]
    optimizer = row.make([p])
    run(optimizer, range(1))
    p.grad = None
    p.data = p.data.double()
    run(optimizer, range(1, 2))
    assert all(value.dtype == torch.float64 for value in optimizer.state[p].values() if value.dim())
