"""Buckets: parameters that share a kernel, flags and dtypes are updated by one launch, however many they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from optgen.runtime.keys import NO_WORDS
from optgen.runtime.layout import Shard, row_shape

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["Bucket", "Item", "Scratch", "copy_back", "key_table", "make_scratch", "rows_of", "run_buckets"]


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


class Item(NamedTuple):
    """One parameter of a bucket: its tensors as the kernel takes them, its rows of the tables, where its shard lies."""

    tensors: list[Tensor]
    table: Tensor
    words: Tensor | None
    shard: Shard

    @property
    def is_regular(self) -> bool:
        """Whether a whole tile finds its random bits by fours of elements, or needs none."""
        return self.words is None or self.shard.is_regular


class Bucket(NamedTuple):
    """Parameters of one launch: `dtypes` are those of parameters, gradients, corrections and of the arithmetic."""

    kernel: int
    flags: dict[str, Any]
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype, torch.dtype]
    device: torch.device
    aligned: bool
    items: list[Item]


def run_buckets(batches: Sequence[Batch], launch: Callable[[list[Bucket]], None], *, by_alignment: bool) -> None:
    """Let `launch` update every bucket of `batches`.

    Tensors that are not 16-byte aligned make buckets of their own where `by_alignment` says so.
    """
    finish: list[tuple[Tensor, Tensor]] = []
    launch(_make_buckets(batches, finish, by_alignment=by_alignment))
    for target, made in finish:
        target.copy_(made)
    for batch in batches:
        torch.autograd.graph.increment_version(batch.params)


def _make_buckets(batches: Sequence[Batch], finish: list[tuple[Tensor, Tensor]], *, by_alignment: bool) -> list[Bucket]:
    """The buckets of `batches`; what must be copied back after the launches is added to `finish`, as (target, source)."""
    buckets: dict[tuple[Any, ...], Bucket] = {}
    for batch in batches:
        flags = tuple(batch.flags.items())
        for i, p in enumerate(batch.params):
            if p.numel() == 0:
                continue
            tensors = _in_order([p, batch.grads[i], *batch.tensors[i]], finish, ordered=batch.words is not None)
            aligned = not by_alignment or all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
            dtypes = (p.dtype, batch.grads[i].dtype, batch.tensors[i][0].dtype, batch.table.dtype)
            key = (batch.kernel, flags, dtypes, p.device, aligned)
            if key not in buckets:
                buckets[key] = Bucket(batch.kernel, batch.flags, dtypes, p.device, aligned, [])
            words = None if batch.words is None else batch.words[i]
            buckets[key].items.append(Item(tensors, batch.table[i], words, batch.shards[i]))
    return list(buckets.values())


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


def make_scratch(scratch: Sequence[Scratch], item: Item, least: int) -> list[Tensor]:
    """What lies between the sweeps of one parameter, whose rows have at least so many elements."""
    rows, length = rows_of(item, least)
    device = item.tensors[0].device
    return [torch.empty(kept.size(rows, length), dtype=torch.float32, device=device) for kept in scratch]


def rows_of(item: Item, least: int) -> tuple[int, int]:
    """Rows, and elements in a row, if a row is to have at least so many."""
    leading, length = row_shape(item.tensors[0].shape, least)
    return math.prod(leading), length


def key_table(items: list[Item]) -> Tensor:
    """A row for each parameter: the two words of its random bits as one number, then start, run and gap of its shard."""
    words = torch.stack([NO_WORDS if item.words is None else item.words for item in items]).cpu()
    shards = torch.tensor([item.shard for item in items], dtype=torch.int64, device="cpu")
    return torch.cat([words.contiguous().view(torch.int64), shards], dim=1)


def copy_back(kept: Sequence[Scratch], flags: Mapping[str, Any], items: list[Item], scratch: list[list[Tensor]]) -> None:
    """Copy what sweeps could not write in place to where it belongs."""
    for i, one in enumerate(kept):
        if one.copy_to is not None and one.is_used(flags):
            targets = [item.tensors[one.copy_to] for item in items]
            sources = [tensors[i].view_as(target) for tensors, target in zip(scratch, targets, strict=True)]
            torch._foreach_copy_(targets, sources)
