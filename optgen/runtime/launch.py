"""Buckets: parameters that share a kernel, flags and dtypes are updated by one launch, however many they are."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from optgen.runtime.backends import interpreting
from optgen.runtime.keys import NO_WORDS
from optgen.runtime.layout import Shard, row_shape

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["Reduction", "Scratch", "Sweep", "TritonKernel", "run"]

TRITON_DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float64: tl.float64,
    torch.int8: tl.int8,
    torch.int16: tl.int16,
}


class Reduction(NamedTuple):
    """What is done behind a sweep: the parts in one slot of a parameter's tensors become one number in another."""

    op: str  # "max" or "min"
    parts: int
    result: int


class Scratch(NamedTuple):
    """A float32 tensor between sweeps: a number for each block, row or the tensor; in the end it may be copied to a slot.

    It is used only where `flag`, if there is one, is as `holds` says.
    """

    layout: str
    block: int
    copy_to: int | None
    flag: str | None = None
    holds: bool = True

    def is_used(self, flags: Mapping[str, Any]) -> bool:
        """Whether the sweeps use it under these flags."""
        return self.flag is None or flags[self.flag] == self.holds

    def size(self, rows: int, length: int) -> int:
        """Its elements, for a parameter of so many rows."""
        return {"block": rows * -(-length // self.block), "row": rows, "tensor": 1}[self.layout]


class Sweep(NamedTuple):
    """One pass over the elements."""

    entry: Any
    reductions: tuple[Reduction, ...] = ()


class TritonKernel(NamedTuple):
    """A kernel's sweeps, its largest block (0: no codes), the least elements of a row, its tile, the threads of a program.

    `registers` is the most that a thread may have on an NVIDIA GPU; `scratch` follows the tensors in each parameter's slots.
    """

    sweeps: tuple[Sweep, ...]
    wide: int
    row: int
    tile: int
    threads: int
    registers: int
    scratch: tuple[Scratch, ...] = ()

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

    @property
    def is_regular(self) -> bool:
        """Whether a whole tile finds its random bits by fours of elements, or needs none."""
        return self.words is None or self.shard.is_regular


def run(kernels: Sequence[TritonKernel], batches: Sequence[Batch]) -> None:
    """Launch every bucket of `batches`."""
    if interpreting():
        with contextlib.suppress(ImportError):  # a vendored copy does without
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
    scratch = [_scratch(kernel, item) for item in items]
    rows, tiles = _tables(kernel, items, scratch)
    tables = (
        torch.tensor(rows, dtype=torch.int64, device=device),
        torch.stack([item.table for item in items]).contiguous(),
        _keys(items).to(device),
        tiles.to(device),
    )
    constants = {
        "PARAM": TRITON_DTYPES[param],
        "GRAD": TRITON_DTYPES[grad],
        "CORRECTION": TRITON_DTYPES[correction],
        "REAL": TRITON_DTYPES[real],
        "ALIGNED": aligned,
        "TILE": kernel.tile,
    }
    options = {"num_warps": 1} if interpreting() else kernel.options(*_platform(device))
    with _on(device):
        for sweep in kernel.sweeps:
            entry, taken = sweep.entry, {flag: value for flag, value in flags if flag in sweep.entry.arg_names}
            entry[(len(tiles),)](*tables, **taken, **constants, **options)
            for reduction in sweep.reductions:
                if kernel.scratch[reduction.parts - len(items[0].tensors)].is_used(dict(flags)):
                    _join(kernel, reduction, items, rows)
    for i, kept in enumerate(kernel.scratch):
        if kept.copy_to is not None and kept.is_used(dict(flags)):
            targets = [item.tensors[kept.copy_to] for item in items]
            sources = [tensors[i].view_as(target) for tensors, target in zip(scratch, targets, strict=True)]
            torch._foreach_copy_(targets, sources)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make a GPU the current one, on which Triton launches: it sees addresses in a table, and no tensor of it."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)


def _scratch(kernel: TritonKernel, item: _Item) -> list[Tensor]:
    """What lies between the sweeps of one parameter."""
    if not kernel.scratch:
        return []
    device = item.tensors[0].device
    rows, length = _rows(kernel, item)
    return [torch.empty(kept.size(rows, length), dtype=torch.float32, device=device) for kept in kernel.scratch]


def _rows(kernel: TritonKernel, item: _Item) -> tuple[int, int]:
    """Rows, and elements in a row."""
    leading, length = row_shape(item.tensors[0].shape, kernel.row)
    return math.prod(leading), length


def _join(kernel: TritonKernel, reduction: Reduction, items: list[_Item], slots: list[list[int]]) -> None:
    """Reduce the parts of every parameter of a bucket in one launch."""
    from optgen.runtime.triton_reduce import join_parts

    first = len(items[0].tensors)
    parts, result = kernel.scratch[reduction.parts - first], kernel.scratch[reduction.result - first]
    rows = []
    for item, addresses in zip(items, slots, strict=True):
        shape = _rows(kernel, item)
        count = result.size(*shape)
        rows.append([addresses[reduction.parts], parts.size(*shape) // count, addresses[reduction.result], count])
    table = torch.tensor(rows, dtype=torch.int64, device=items[0].tensors[0].device)
    join_parts[(max(row[3] for row in rows), len(rows))](table, OP=reduction.op, CHUNK=1024)


def _keys(items: list[_Item]) -> Tensor:
    """A row for each parameter: the two words of its random bits as one number, then start, run and gap of its shard."""
    words = torch.stack([NO_WORDS if item.words is None else item.words for item in items]).cpu()
    shards = torch.tensor([item.shard for item in items], dtype=torch.int64, device="cpu")
    return torch.cat([words.contiguous().view(torch.int64), shards], dim=1)


@functools.cache
def _platform(device: torch.device) -> tuple[str, int]:
    """The platform, "cuda" or "hip", and the threads of a warp: 32, or 64 on AMD's CDNA."""
    import triton

    with _on(device):
        target = triton.runtime.driver.active.get_current_target()
    return target.backend, int(target.warp_size)


def _tables(kernel: TritonKernel, items: list[_Item], scratch: list[list[Tensor]]) -> tuple[list[list[int]], Tensor]:
    """A row of addresses and sizes for each parameter, and the parameter and number of each tile.

    The sizes are: how much of it whole tiles may take without masks, and blocks and row length, or elements.
    """
    rows, counts = [], []
    for item, between in zip(items, scratch, strict=True):
        addresses = [tensor.data_ptr() for tensor in (*item.tensors, *between)]
        if kernel.wide:
            lines, length = _rows(kernel, item)
            blocks = lines * -(-length // kernel.wide)
            whole = blocks if length % kernel.wide == 0 and item.is_regular else 0
            rows.append([*addresses, whole, blocks, length])
            counts.append(-(-blocks * kernel.wide // kernel.tile))
        else:
            size = item.tensors[0].numel()
            rows.append([*addresses, size if item.is_regular else 0, size])
            counts.append(-(-size // kernel.tile))
    repeats = torch.tensor(counts, device="cpu")
    owner = torch.repeat_interleave(torch.arange(len(items), device="cpu"), repeats)
    start = torch.cumsum(repeats, 0) - repeats
    number = torch.arange(len(owner), device="cpu") - start[owner]
    return rows, torch.stack([owner, number], dim=1).to(torch.int32)
