"""Run by tests/test_buckets.py in a process where Triton interprets: counts launches, prints what it saw as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from optgen.generated.adamw import AdamW
from optgen.generated.adamw import triton_backend as adamw_triton
from optgen.generated.adamw_8bit import AdamW8bit
from optgen.generated.adamw_8bit import triton_backend as adamw_8bit_triton
from optgen.generated.solo import Solo
from optgen.generated.solo import triton_backend as solo_triton
from optgen.runtime import launch
from optgen.runtime.triton_reduce import join_parts


def count_launches() -> list[tuple[str, int]]:
    """Replace the entry of every kernel by one that also notes its name and grid."""
    seen: list[tuple[str, int]] = []

    class Counting:
        def __init__(self, entry: Any) -> None:
            self.entry = entry
            self.arg_names = entry.arg_names

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def run(*args: Any, **options: Any) -> None:
                seen.append((self.entry.fn.__name__, grid[0]))
                self.entry[grid](*args, **options)

            return run

    for module in (adamw_triton, adamw_8bit_triton, solo_triton):
        module.KERNELS = tuple(
            kernel._replace(sweeps=tuple(sweep._replace(entry=Counting(sweep.entry)) for sweep in kernel.sweeps))
            for kernel in module.KERNELS
        )
    return seen


def make(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(len(shapes))
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(dtype)
    return params


def same_as_torch(cls: Any, groups: list[dict[str, Any]], **options: Any) -> float:
    """The largest difference of two steps between the triton and the torch backend."""
    results = []
    for backend in ("triton", "torch"):
        copies = [{**g, "params": [torch.nn.Parameter(p.detach().clone()) for p in g["params"]]} for g in groups]
        for group, copy in zip(groups, copies, strict=True):
            for p, q in zip(group["params"], copy["params"], strict=True):
                q.grad = None if p.grad is None else p.grad.clone()
        optimizer = cls(copies, backend=backend, **options)
        optimizer.step()
        optimizer.step()
        results.append([q.detach().double() for g in copies for q in g["params"]])
    return max(float((a - b).abs().max()) for a, b in zip(*results, strict=True) if a.numel())


def main() -> None:
    seen = count_launches()
    found: dict[str, Any] = {}
    small = make([(3,), (17, 2), (), (0, 5), (1025,), (64, 128)] * 6)
    groups = [{"params": small[:20], "lr": 1e-2}, {"params": small[20:], "lr": 1e-3, "weight_decay": 0.1}]
    found["adamw difference"] = same_as_torch(AdamW, groups)
    found["adamw launches of two steps"] = len(seen)

    seen.clear()
    mixed = make([(5,), (64, 64)]) + make([(5,), (64, 64)], torch.bfloat16) + make([(7,)], torch.float64)
    groups = [{"params": mixed[:3]}, {"params": mixed[3:], "amsgrad": True}]
    found["mixed difference"] = same_as_torch(AdamW, groups)
    found["mixed launches of two steps"] = len(seen)

    seen.clear()
    coded = make([(64, 128), (33, 130), (5,), (4, 4), (8, 1024)])
    coded[1].grad = None
    found["solo difference"] = same_as_torch(Solo, [{"params": coded}], lr=1e-2)
    found["solo launches of two steps"] = [name for name, _ in seen]

    for amsgrad in (False, True):  # a tile is 8 blocks of 256, or 4
        seen.clear()
        tails = make([(37, 256), (40, 256), (16, 300)])
        found[f"tails difference, {amsgrad}"] = same_as_torch(AdamW8bit, [{"params": tails, "amsgrad": amsgrad}])
        found[f"tails launches, {amsgrad}"] = seen[:2]

    seen.clear()
    storage = torch.randn(2 * 64 * 128 + 3)
    shifted = torch.nn.Parameter(storage[3 : 3 + 64 * 128].view(64, 128))  # not aligned to 16 bytes
    aligned = torch.nn.Parameter(torch.randn(64, 128))
    for p in (shifted, aligned):
        p.grad = torch.ones(64, 128)
    canary = storage[3 + 64 * 128 :].clone()
    optimizer = Solo([shifted, aligned], backend="triton")
    version = aligned._version
    optimizer.step()
    found["unaligned launches"] = len(seen)
    found["canary"] = bool(torch.equal(canary, storage[3 + 64 * 128 :]))
    found["version counter"] = aligned._version > version

    found["strided difference"] = same_as_torch(AdamW, [{"params": strided()}])
    found["strided coded difference"] = same_as_torch(Solo, [{"params": strided()}])
    found["buckets module"] = launch.__name__
    found["joined"] = joined()
    print(json.dumps(found))


def joined() -> bool:
    """Parts become one number for each result, however many there are."""
    generator = torch.Generator().manual_seed(0)
    for op, reduce in (
        ("max", torch.amax),
        ("min", torch.amin),
        ("sum", in_float64(torch.sum)),
        ("mean", in_float64(torch.mean)),
    ):
        sizes = ((1, 1), (3, 1024), (2, 1025), (1, 3000), (5, 7))  # results, and parts of each
        parts = [torch.randn(size, generator=generator) for size in sizes]
        results = [torch.zeros(len(part)) for part in parts]
        rows = [[p.data_ptr(), p.shape[1], r.data_ptr(), len(r), p.shape[1]] for p, r in zip(parts, results, strict=True)]
        join_parts[(5, len(rows))](torch.tensor(rows), OP=op, REAL=tl.float32, CHUNK=1024)
        if not all(torch.equal(r, reduce(p, dim=1)) for p, r in zip(parts, results, strict=True)):
            return False
    return True


def in_float64(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A reduction of float32 that is exact until it is rounded."""
    return lambda part, dim: reduce(part.double(), dim=dim).float()


def strided() -> list[torch.nn.Parameter]:
    """Transposed, channels_last and sliced parameters, with gradients of other strides."""
    params = [
        torch.nn.Parameter(torch.randn(128, 64).t()),
        torch.nn.Parameter(torch.randn(16, 8, 6, 6).to(memory_format=torch.channels_last)),
        torch.nn.Parameter(torch.randn(70, 140)[::2, ::2]),
        torch.nn.Parameter(torch.randn(64, 128)),
    ]
    for p in params[:3]:
        p.grad = torch.randn(p.shape)
    params[3].grad = torch.randn(1, 1).expand(64, 128)
    return params


if __name__ == "__main__":
    main()
