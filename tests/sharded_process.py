"""Run by tests/test_sharding.py as each of two processes: parameters that FSDP2 shards beside whole ones in one process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from optgen import optimizer_class
from optgen.generated.lamb import LAMB
from optgen.generated.solo import Solo
from optgen.generated.sophia_h import SophiaH
from optgen.runtime import sharding
from optgen.runtime.layout import Codes
from tests.contract.rows import BY_NAME, Row, gradient
from tests.rule_specs import SHARDED

STEPS = 3
SHAPES = {
    "even": (64, 128),
    "uneven": (65, 256),
    "padded": (33, 300),
    "wide": (1, 8192),  # the second process has nothing of it
    "deep": (6, 32, 160),
    "bias": (3,),
}
INNER = {"deep": 1, "wide": 1}  # sharded along these dimensions instead of the first; "wide" inside its row


class Model(nn.Module):
    """Parameters of all kinds, the same on each call."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Steps with the same gradients however the parameters are sharded."""
    for step in steps:
        for i, p in enumerate(model.parameters()):
            full = gradient(torch.empty(p.shape), 100 * step + i).to(p.dtype)
            p.grad = distribute_tensor(full, p.device_mesh, p.placements) if isinstance(p, DTensor) else full
        optimizer.step()


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and state tensor, whole."""
    for name, p in model.named_parameters():
        for key, value in [("", p.detach()), *sorted(optimizer.state[p].items())]:
            yield f"{name}.{key}", value.full_tensor() if isinstance(value, DTensor) else value


def compare(ours: nn.Module, optimizer: Any, theirs: nn.Module, reference: Any) -> None:
    """Every bit, dtypes and shapes included."""
    for (name, mine), (_, expected) in zip(tensors(ours, optimizer), tensors(theirs, reference), strict=True):
        assert mine.shape == expected.shape and mine.dtype == expected.dtype, name
        assert torch.equal(mine, expected), f"{name}: {(mine != expected).sum()} of {mine.numel()} differ"


def sharded(row: Row, dtype: torch.dtype, dims: dict[str, int], **options: Any) -> tuple[nn.Module, Any]:
    """A model that FSDP2 shards along the first dimension, or along those of `dims`."""
    model = Model().to(dtype)
    names = {p: name for name, p in model.named_parameters()}
    fully_shard(model, shard_placement_fn=lambda p: Shard(dims.get(names[p], 0)))
    return model, row.make(model.named_parameters(), **options)


def save(model: nn.Module, optimizer: Any, place: Path) -> None:
    weights, states = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": states}, checkpoint_id=place)


def load(model: nn.Module, optimizer: Any, place: Path) -> None:
    weights, states = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": states}, checkpoint_id=place)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=states)


def steps_and_checkpoints(row: Row, folder: Path) -> None:
    """Step, save and load: bit for bit what one process has."""
    for dtype, mode, dims in (
        (torch.float32, "stochastic", {}),
        (torch.bfloat16, "stochastic", INNER),
        (torch.bfloat16, "correction8", {}),
        (torch.float32, "stochastic", INNER),
    ):
        model, optimizer = sharded(row, dtype, dims, low_precision=mode)
        alone = Model().to(dtype)
        reference = row.make(alone.named_parameters(), low_precision=mode)
        train(model, optimizer, range(STEPS))
        train(alone, reference, range(STEPS))
        compare(model, optimizer, alone, reference)
        masters = zip(optimizer.master_parameters(), reference.master_parameters(), strict=True)
        assert all(torch.equal(a.full_tensor(), b) for a, b in masters)
        place = folder / f"{row.name}-{dtype}-{mode}-{len(dims)}"
        save(model, optimizer, place)
        other = {} if dims else INNER
        again, fresh = sharded(row, dtype, other, low_precision=mode, lr=0.5)
        load(again, fresh, place)  # placed in another way than it was saved
        train(again, fresh, range(STEPS, 2 * STEPS))
        train(alone, reference, range(STEPS, 2 * STEPS))
        compare(again, fresh, alone, reference)


def whole_tensors(row: Row) -> None:
    """A state dict and masters of one process go into shards, and a step tells autograd that parameters have changed."""
    alone = Model().to(torch.bfloat16)
    reference = row.make(alone.named_parameters(), low_precision="correction8")
    train(alone, reference, range(STEPS))
    model, optimizer = sharded(row, torch.bfloat16, {}, low_precision="correction8")
    optimizer.load_state_dict(reference.state_dict())
    masters = reference.master_parameters()
    for each in (optimizer, reference):  # the split of a master into parameter and correction may be another one
        each.load_master_parameters(masters)
    compare(model, optimizer, alone, reference)
    before = [p._version for p in model.parameters()]
    train(model, optimizer, range(STEPS, STEPS + 1))
    train(alone, reference, range(STEPS, STEPS + 1))
    compare(model, optimizer, alone, reference)
    assert all(p._version > version for p, version in zip(model.parameters(), before, strict=True))


def in_kernels(backend: str) -> None:
    """Kernels find the places of shards too: regular ones, inner ones, and shards that are not contiguous."""
    mesh, generator = init_device_mesh("cpu", (2,)), torch.Generator().manual_seed(0)
    shapes = ((32, 128), (17, 300), (2, 16, 160))  # even, padded and deep, as small as codes allow
    params = [torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes]
    dims = (0, 0, 1)
    shards = [nn.Parameter(distribute_tensor(p, mesh, [Shard(dim)])) for p, dim in zip(params, dims, strict=True)]
    transposed = params[0].t().contiguous().t()
    half = transposed.chunk(2)[dist.get_rank()]
    shards.append(nn.Parameter(DTensor.from_local(half, mesh, [Shard(0)])))
    whole = [nn.Parameter(p.clone()) for p in (*params, params[0])]
    sharded = Solo(enumerated(shards), lr=1e-2, backend=backend)
    alone = Solo(enumerated(whole), lr=1e-2, backend=backend)
    for step in range(2):
        for i, (p, q) in enumerate(zip(shards, whole, strict=True)):
            q.grad = gradient(q, 10 * step + i)
            p.grad = distribute_tensor(q.grad, mesh, p.placements)
        sharded.step()
        alone.step()
    for p, q in zip(shards, whole, strict=True):
        assert not torch.equal(q, params[0]) or q.shape != params[0].shape
        assert torch.equal(p.full_tensor(), q), tuple(q.shape)
        for key, value in sharded.state[p].items():
            mine = value.full_tensor() if isinstance(value, DTensor) else value
            assert torch.equal(mine, alone.state[q][key]), f"{tuple(q.shape)} {key}"


def inputs(backend: str) -> None:
    """What a step is given of a sharded parameter is sharded as it is."""
    mesh = init_device_mesh("cpu", (2,))
    model = Model()
    params = [getattr(model, name).detach() for name in ("even", "padded", "deep")]
    shards = [nn.Parameter(distribute_tensor(p, mesh, [Shard(dim)])) for p, dim in zip(params, (0, 0, 1), strict=True)]
    whole = [nn.Parameter(p.clone()) for p in params]
    sharded, alone = SophiaH(enumerated(shards), backend=backend), SophiaH(enumerated(whole), backend=backend)
    for step in range(4):
        for i, (p, q) in enumerate(zip(shards, whole, strict=True)):
            q.grad = gradient(q, 10 * step + i)
            p.grad = distribute_tensor(q.grad, mesh, p.placements)
        if step % 2:
            given = [gradient(q, 100 * step + i) for i, q in enumerate(whole)]
            alone.give(h_hat=given)
            sharded.give(h_hat=[distribute_tensor(x, mesh, p.placements) for x, p in zip(given, shards, strict=True)])
        sharded.step()
        alone.step()
    for p, q in zip(shards, whole, strict=True):
        assert torch.equal(p.full_tensor(), q), tuple(q.shape)
    for wrong, message in (
        (torch.ones(shards[0].shape), "parameter and input must both be DTensors"),
        (distribute_tensor(torch.ones(shards[0].shape), mesh, [Replicate()]), "its input as (Replicate(),)"),
    ):
        try:
            sharded.give(h_hat={shards[0]: wrong})
        except RuntimeError as error:
            assert "parameter '0', input 'h_hat'" in str(error) and message in str(error), error
        else:
            raise AssertionError(message)


def enumerated(params: list[nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
    return [(str(i), p) for i, p in enumerate(params)]


def refusals() -> None:
    """What cannot be updated is refused on every process, by the parameter's name."""
    mesh = init_device_mesh("cpu", (2,))

    def refused(p: Tensor, grad: Tensor, message: str) -> None:
        p = nn.Parameter(p)
        try:
            optimizer = Solo([("here", p)])
            p.grad = grad
            optimizer.step()
        except RuntimeError as error:
            assert "'here'" in str(error) and message in str(error), error
        else:
            raise AssertionError(message)

    def ones(shape: tuple[int, ...], placement: Any) -> Tensor:
        return DTensor.from_local(torch.ones(shape), mesh, [placement])

    torn = ones((64, 192), Shard(1))  # one and a half blocks
    refused(torn, torn, "sharded as (Shard(dim=1),): this cuts blocks of 128 elements")
    inside = ones((64, 2, 64), Shard(2))
    refused(inside, inside, "cuts blocks of 128 elements")
    partial = ones((64, 128), Partial())
    refused(partial, partial, "partial sum")
    refused(ones((64, 128), Shard(0)), ones((128, 128), Replicate()), "its gradient as (Replicate(),)")
    refused(ones((64, 128), Shard(0)), torch.ones(128, 128), "must both be DTensors")
    odd = ones((64, 3, 64), Shard(1))  # bytes of codes would be cut in another place than blocks
    refused(odd, odd, "cuts blocks of 128 elements")
    optimizer = Solo([{"params": [nn.Parameter(torn)], "storage": "float32"}])  # the way out that the error names
    optimizer.param_groups[0]["params"][0].grad = torn
    optimizer.step()
    scales = Codes(8, 128, ("scale",), scope="row")
    sharding.check_parameter(str, ones((64, 128), Shard(0)), [scales], whole=False)
    try:
        LAMB([nn.Parameter(ones((64, 128), Shard(0)))])
    except RuntimeError as error:
        assert "norm, sum or mean of all its elements" in str(error), error
    else:
        raise AssertionError("a norm of a shard")
    for scope, placement in (("row", Shard(1)), ("tensor", Shard(0))):
        try:
            sharding.check_parameter(str, ones((64, 256), placement), [replace(scales, scope=scope)], whole=False)
        except RuntimeError as error:
            assert f"one scale per {scope} cannot be computed" in str(error), error
        else:
            raise AssertionError(scope)
    alone = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "model"))  # a dimension of one process cuts nothing
    p = nn.Parameter(DTensor.from_local(torch.ones(32, 3, 64), alone, [Shard(0), Shard(2)]))
    p.grad = DTensor.from_local(torch.ones(32, 3, 64), alone, [Shard(0), Shard(2)])
    Solo([p]).step()


def rules(folder: Path) -> None:
    """Conditions ask for whole shapes and names, and a checkpoint goes through both."""
    spec = folder / f"sharded{dist.get_rank()}.yaml"
    spec.write_text(SHARDED, encoding="utf-8")
    row = Row("rules", optimizer_class(spec), "")
    alone = Model()
    reference = row.make(alone.named_parameters())
    model, optimizer = sharded(row, torch.float32, {})
    train(alone, reference, range(STEPS))
    train(model, optimizer, range(STEPS))
    compare(model, optimizer, alone, reference)
    large = {name for name, p in model.named_parameters() if "exp_avg" not in optimizer.state[p]}
    assert large == {"even", "uneven", "wide"}
    save(model, optimizer, folder / "rules")
    again, fresh = sharded(row, torch.float32, INNER, lr=0.5)
    load(again, fresh, folder / "rules")
    train(again, fresh, range(STEPS, 2 * STEPS))
    train(alone, reference, range(STEPS, 2 * STEPS))
    compare(again, fresh, alone, reference)


def main(names: list[str], folder: Path) -> None:
    refusals()
    rules(folder)
    in_kernels("triton")
    in_kernels("cpp")
    inputs("torch")
    inputs("cpp")
    for name in names:
        steps_and_checkpoints(BY_NAME[name], folder)
        whole_tensors(BY_NAME[name])
    print(f"equal on process {dist.get_rank()}", flush=True)
    dist.barrier()


if __name__ == "__main__":
    rank, count = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meeting", rank=rank, world_size=count)
    main(sys.argv[2:], Path(sys.argv[1]))
    os._exit(0)  # gloo's threads abort now and then when an interpreter ends (torch 2.13)
