"""Buckets: parameters that share a kernel, flags and dtypes are updated by one launch, however many they are."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from optgen.runtime.backends import interpreting
from optgen.runtime.keys import NO_WORDS
from optgen.runtime.layout import Shard, row_shape

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["TritonKernel", "run"]

TRITON_DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float64: tl.float64,
    torch.int8: tl.int8,
    torch.int16: tl.int16,
}


class TritonKernel(NamedTuple):
    """A kernel's entry, its largest block (0: no codes), its tile in elements and the threads of a program.

    `registers` is the most that a thread may have on an NVIDIA GPU.
    """

    entry: Any
    wide: int
    tile: int
    threads: int
    registers: int

    def options(self, platform: str, warp_size: int) -> dict[str, int]:
        """What the compiler is told for a GPU of this platform, "cuda" or "hip"."""
        limit = {"maxnreg": self.registers} if platform == "cuda" else {}
        return {"num_warps": self.threads // warp_size, **limit}


class _Item(NamedTuple):
    """One parameter of a bucket: its tensors as the kernel takes them, its rows of the tables, where its shard lies."""

    tensors: list[Tensor]
    table: Tensor
    words: Tensor | None
    shard: Shard


def run(kernels: Sequence[TritonKernel], batches: Sequence[Batch]) -> None:
    """Launch every bucket of `batches`."""
    if interpreting():
        from optgen.runtime.interpreter import repair

        repair()
    buckets: dict[tuple[Any, ...], list[_Item]] = {}
    finish: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        flags = tuple(batch.flags.items())
        for i, p in enumerate(batch.params):
            if p.numel() == 0:
                continue
            tensors = _in_order([p, batch.grads[i], *batch.tensors[i]], finish, ordered=batch.words is not None)
            aligned = all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
            dtypes = (p.dtype, batch.grads[i].dtype, batch.tensors[i][0].dtype, batch.table.dtype)
            key = (batch.kernel, flags, dtypes, p.device, aligned)
            words = None if batch.words is None else batch.words[i]
            buckets.setdefault(key, []).append(_Item(tensors, batch.table[i], words, batch.shards[i]))
    for key, items in buckets.items():
        _launch(kernels[key[0]], key, items)
    for target, source in finish:
        target.copy_(source)
    for batch in batches:
        torch.autograd.graph.increment_version(batch.params)


def _in_order(tensors: list[Tensor], finish: list[tuple[Tensor, Tensor]], *, ordered: bool) -> list[Tensor]:
    """The tensors as kernels read them: in logical order and dense. What has other strides is copied there and back.

    Tensors per element may share any dense order: without codes and random bits an element's place does not matter.
    """
    p, grad = tensors[:2]
    coded = ordered or any(tensor.shape != p.shape for tensor in tensors)
    same = all(tensor.stride() == p.stride() for tensor in tensors) if not coded else False
    if (same and _is_dense(p)) or all(tensor.is_contiguous() for tensor in tensors):
        return tensors
    copies: dict[int, Tensor] = {}
    for tensor in tensors:
        if id(tensor) not in copies and not tensor.is_contiguous():
            copies[id(tensor)] = tensor.contiguous()
            if tensor is not grad:
                finish.append((tensor, copies[id(tensor)]))
    return [copies.get(id(tensor), tensor) for tensor in tensors]


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory without gaps, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _launch(kernel: TritonKernel, key: tuple[Any, ...], items: list[_Item]) -> None:
    _, flags, (param, grad, correction, real), device, aligned = key
    rows, tiles = _tables(kernel, items)
    kernel.entry[(len(tiles),)](
        torch.tensor(rows, dtype=torch.int64, device=device),
        torch.stack([item.table for item in items]).contiguous(),
        _keys(items).to(device),
        tiles.to(device),
        **dict(flags),
        PARAM=TRITON_DTYPES[param],
        GRAD=TRITON_DTYPES[grad],
        CORRECTION=TRITON_DTYPES[correction],
        REAL=TRITON_DTYPES[real],
        ALIGNED=aligned,
        TILE=kernel.tile,
        **({"num_warps": 1} if interpreting() else kernel.options(*_platform())),
    )


def _keys(items: list[_Item]) -> Tensor:
    """A row for each parameter: the two words of its random bits as one number, then start, run and gap of its shard."""
    words = torch.stack([NO_WORDS if item.words is None else item.words for item in items]).cpu()
    shards = torch.tensor([item.shard for item in items], dtype=torch.int64, device="cpu")
    return torch.cat([words.contiguous().view(torch.int64), shards], dim=1)


@functools.cache
def _platform() -> tuple[str, int]:
    """The platform, "cuda" or "hip", and the threads of a warp: 32, or 64 on AMD's CDNA."""
    import triton

    target = triton.runtime.driver.active.get_current_target()
    return target.backend, int(target.warp_size)


def _tables(kernel: TritonKernel, items: list[_Item]) -> tuple[list[list[int]], Tensor]:
    """A row of addresses and sizes for each parameter, and the parameter and number of each tile.

    The sizes are: how much of it whole tiles may take without masks, and blocks and row length, or elements.
    """
    rows, counts = [], []
    for item in items:
        addresses = [tensor.data_ptr() for tensor in item.tensors]
        shape = item.tensors[0].shape
        if kernel.wide:
            leading, length = row_shape(shape, kernel.wide)
            blocks = math.prod(leading) * -(-length // kernel.wide)
            whole = blocks if length % kernel.wide == 0 and item.shard.is_regular else 0
            rows.append([*addresses, whole, blocks, length])
            counts.append(-(-blocks * kernel.wide // kernel.tile))
        else:
            rows.append([*addresses, shape.numel() if item.shard.is_regular else 0, shape.numel()])
            counts.append(-(-shape.numel() // kernel.tile))
    repeats = torch.tensor(counts, device="cpu")
    owner = torch.repeat_interleave(torch.arange(len(items), device="cpu"), repeats)
    start = torch.cumsum(repeats, 0) - repeats
    number = torch.arange(len(owner), device="cpu") - start[owner]
    return rows, torch.stack([owner, number], dim=1).to(torch.int32)
