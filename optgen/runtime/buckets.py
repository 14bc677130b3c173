"""Buckets: parameters that share a kernel, flags and dtypes are updated by one launch, however many they are."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from optgen.runtime.batches import take_rows
from optgen.runtime.layout import Shard, row_shape

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["Bucket", "Item", "Scratch", "copy_back", "make_scratch", "rows_of", "run_buckets"]


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
    """One parameter of a bucket: its tensors as the kernel takes them, where its shard lies, whether it is rounded at random."""

    tensors: list[Tensor]
    shard: Shard
    random: bool

    @property
    def is_regular(self) -> bool:
        """Whether a whole tile finds its random bits by fours of elements, or needs none."""
        return not self.random or self.shard.is_regular


class Bucket(NamedTuple):
    """Parameters of one launch: `dtypes` are those of parameters, gradients, corrections and of the arithmetic.

    `rows` are the batches that its parameters come from, in order, each with their places in it.
    """

    kernel: int
    flags: dict[str, Any]
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype, torch.dtype]
    device: torch.device
    aligned: bool
    items: list[Item]
    rows: list[tuple[Batch, list[int]]]

    def scalar_table(self) -> Tensor:
        """The host scalars of each parameter, (n, columns) in the dtype of the arithmetic."""
        return _joined([take_rows(batch.table, at) for batch, at in self.rows])

    def key_table(self) -> Tensor:
        """The two words of each parameter's random bits as one number, then start, run and gap of its shard: int64 (n, 4)."""
        words = [
            torch.zeros(len(at), 1, dtype=torch.int64, device="cpu")
            if batch.words is None
            else take_rows(batch.words, at).cpu().contiguous().view(torch.int64)
            for batch, at in self.rows
        ]
        shards = torch.tensor([item.shard for item in self.items], dtype=torch.int64, device="cpu")
        return torch.cat([_joined(words), shards], dim=1)


def _joined(parts: list[Tensor]) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()


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
        alike: dict[tuple[Any, ...], list[int]] = {}  # places in the batch, of each bucket
        random, found = batch.words is not None, []
        for i, p in enumerate(batch.params):
            tensors = _in_order([p, batch.grads[i], *batch.tensors[i]], finish, ordered=random)
            found.append(tensors)
            if p.numel() == 0:
                continue
            aligned = not by_alignment or all(tensor.data_ptr() % 16 == 0 for tensor in tensors)
            alike.setdefault((tensors[1].dtype, tensors[2].dtype, aligned), []).append(i)
        for (grad, correction, aligned), at in alike.items():
            dtypes, device = (batch.params[0].dtype, grad, correction, batch.table.dtype), batch.params[0].device
            key = (batch.kernel, tuple(batch.flags.items()), dtypes, device, aligned)
            if key not in buckets:
                buckets[key] = Bucket(batch.kernel, batch.flags, dtypes, device, aligned, [], [])
            buckets[key].items.extend([Item(found[i], batch.shards[i], random) for i in at])
            buckets[key].rows.append((batch, at))
    return list(buckets.values())


def _in_order(tensors: list[Tensor], finish: list[tuple[Tensor, Tensor]], *, ordered: bool) -> list[Tensor]:
    """The tensors as kernels read them: in logical order and dense. What has other strides is copied there and back.

    Tensors per element may share any dense order: without codes and random bits an element's place does not matter.
    """
    if all([tensor.is_contiguous() for tensor in tensors]):  # noqa: C419 -- a list is faster than a generator
        return tensors
    p, grad = tensors[:2]
    coded = ordered or any(tensor.shape != p.shape for tensor in tensors)
    same = all(tensor.stride() == p.stride() for tensor in tensors) if not coded else False
    if same and _is_dense(p):
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
    if not scratch:
        return []
    rows, length = rows_of(item, least)
    device = item.tensors[0].device
    return [torch.empty(kept.size(rows, length), dtype=torch.float32, device=device) for kept in scratch]


def rows_of(item: Item, least: int) -> tuple[int, int]:
    """Rows, and elements in a row, if a row is to have at least so many."""
    return _rows_of(item.tensors[0].shape, least)


@functools.lru_cache(maxsize=4096)
def _rows_of(shape: torch.Size, least: int) -> tuple[int, int]:
    leading, length = row_shape(shape, least)
    return math.prod(leading), length


def copy_back(kept: Sequence[Scratch], flags: Mapping[str, Any], items: list[Item], scratch: list[list[Tensor]]) -> None:
    """Copy what sweeps could not write in place to where it belongs."""
    for i, one in enumerate(kept):
        if one.copy_to is not None and one.is_used(flags):
            targets = [item.tensors[one.copy_to] for item in items]
            sources = [tensors[i].view_as(target) for tensors, target in zip(scratch, targets, strict=True)]
            torch._foreach_copy_(targets, sources)
