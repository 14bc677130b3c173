"""Buckets: parameters that share a kernel, flags and dtypes are updated by one launch, however many they are."""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, repeat
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from optgen.runtime.joint import Joint, Part
from optgen.runtime.layout import WHOLE, frame, row_shape

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["Bucket", "Scratch", "addresses_of", "copy_back", "left_of", "make_scratch", "rows_of", "run_buckets"]


class Scratch(NamedTuple):
    """A tensor between sweeps: a number for each block, row or the tensor; in the end it may be copied to a slot.

    In kernels that know rows and columns it may be one for each column of a strip of rows, of the "rows", "cols" or
    "matrices"; `block` is then the rows of a strip, and `over` says what the sweep is over that leaves parts.

    It is used only where `flag`, if there is one, is as `holds` says. Numbers are float32, or those of the arithmetic.
    """

    layout: str
    block: int
    copy_to: int | None
    flag: str | None = None
    holds: bool = True
    real: bool = False  # whether numbers have the dtype of the arithmetic
    shared: bool = False  # whether kernels of other parameters read what it is copied to
    over: str = "element"

    def size_in(self, shape: Sequence[int]) -> int:
        """Its elements, for a parameter of this shape whose rows and columns are known."""
        if self.layout in ("block", "strips"):
            matrices, rows, cols = frame(shape, self.over)
            return matrices * (rows * -(-cols // self.block) if self.layout == "block" else -(-rows // self.block) * cols)
        count, rows, cols = frame(shape, "element")
        return count * {"rows": rows, "row": rows, "cols": cols}.get(self.layout, 1) if self.layout != "tensor" else 1

    def parts_of(self, result: Scratch, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """How these parts become `result`: a stack of so many, parts of each, how far apart parts lie, elements of each."""
        matrices, rows, cols = frame(shape, self.over)
        if self.layout == "strips":
            stack, each, apart = matrices, -(-rows // self.block), cols
        else:
            stack, apart = result.size_in(shape), 1
            each = self.size_in(shape) // stack
        return stack, each, apart, matrices * rows * cols // (stack * apart)

    def is_used(self, flags: Mapping[str, Any]) -> bool:
        """Whether the sweeps use it under these flags."""
        return self.flag is None or flags[self.flag] == self.holds

    def size(self, rows: int, length: int) -> int:
        """Its elements, for a parameter of so many rows."""
        if self.layout == "block":
            return rows * -(-length // self.block)
        return rows if self.layout == "row" else 1


class Bucket(NamedTuple):
    """Parameters of one launch: `dtypes` are those of parameters, gradients, corrections and of the arithmetic.

    `columns` are lists of tensors, one for each argument of the kernel, `addresses` int64 (n, arguments), and `sources` the
    batches that the parameters come from, in order, each with their places in it.
    """

    kernel: int
    flags: dict[str, Any]
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype, torch.dtype]
    device: torch.device
    aligned: bool
    columns: list[list[Tensor]]
    addresses: Tensor
    sources: list[tuple[Batch, list[int]]]

    @property
    def shapes(self) -> tuple[torch.Size, ...]:
        """The shape of each parameter."""
        return tuple([p.shape for p in self.columns[0]])

    @property
    def groups(self) -> list[int]:
        """The place of each parameter's group."""
        return [batch.group for batch, at in self.sources for _ in at]

    def regular(self) -> list[bool]:
        """Whether a whole tile of a parameter finds its random bits by fours of elements, or needs none."""
        return [batch.words is None or batch.shards[i].is_regular for batch, at in self.sources for i in at]

    def scalar_table(self) -> Tensor:
        """The host scalars of each parameter, (n, columns) in the dtype of the arithmetic."""
        return _joined([_take(batch.table, at) for batch, at in self.sources])

    def key_table(self) -> Tensor:
        """The two words of each parameter's random bits as one number, then start, run and gap of its shard: int64 (n, 4)."""
        return _joined([_keys(batch, at) for batch, at in self.sources])


def _keys(batch: Batch, at: list[int]) -> Tensor:
    places = [batch.shards[i] for i in at]
    if all(map(is_, places, repeat(WHOLE))):
        if batch.words is None:
            return _no_keys(len(at))
        shards = _no_keys(len(at))[:, 1:]
    else:
        shards = torch.tensor(places, dtype=torch.int64, device="cpu")
    words = torch.zeros(len(at), 2, dtype=torch.int32, device="cpu") if batch.words is None else _take(batch.words, at).cpu()
    return torch.cat([words.contiguous().view(torch.int64), shards], dim=1)


@functools.lru_cache(maxsize=64)
def _no_keys(count: int) -> Tensor:
    """Those of so many whole parameters that nothing random happens to."""
    return torch.tensor([(0, *WHOLE)] * count, dtype=torch.int64, device="cpu")


def _joined(parts: list[Tensor]) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()


def _take(table: Tensor, at: list[int]) -> Tensor:
    """The rows `at`, ascending; all of them as they are."""
    return table if len(at) == len(table) else table[at]


def run_buckets(
    batches: Sequence[Batch], launch: Callable[[list[Bucket]], None], *, by_alignment: bool, grids: Collection[int] = ()
) -> None:
    """Let `launch` update every bucket of `batches`.

    Tensors that are not 16-byte aligned make buckets of their own where `by_alignment` says so. `grids` are the places of the
    kernels that know rows and columns.
    """
    finish: list[tuple[Tensor, Tensor]] = []
    launch(_make_buckets(batches, finish, by_alignment=by_alignment, grids=grids))
    for target, made in finish:
        target.copy_(made)
    for batch in batches:
        torch.autograd.graph.increment_version(batch.columns[0])


def _make_buckets(
    batches: Sequence[Batch], finish: list[tuple[Tensor, Tensor]], *, by_alignment: bool, grids: Collection[int]
) -> list[Bucket]:
    """The buckets of `batches`; what must be copied back after the launches is added to `finish`, as (target, source)."""
    parts: dict[tuple[Any, ...], list[Bucket]] = {}
    for batch in batches:
        columns = _in_order(batch.columns, finish, ordered=batch.words is not None or batch.kernel in grids)
        addresses = addresses_of(columns)
        aligned = (addresses % 16 == 0).all(dim=1).tolist() if by_alignment else [True] * len(addresses)
        for (grad, correction, is_aligned), at in _alike(columns, aligned).items():
            dtypes, device = (columns[0][0].dtype, grad, correction, batch.table.dtype), columns[0][0].device
            taken = columns if len(at) == len(aligned) else [[column[i] for i in at] for column in columns]
            part = Bucket(batch.kernel, batch.flags, dtypes, device, is_aligned, taken, _take(addresses, at), [(batch, at)])
            parts.setdefault((batch.kernel, *batch.flags.values(), dtypes, device, is_aligned), []).append(part)
    return [_merged(alike) for alike in parts.values()]


def _merged(parts: list[Bucket]) -> Bucket:
    """One bucket of several of the same kind."""
    if len(parts) == 1:
        return parts[0]
    columns = [list(chain.from_iterable(column)) for column in zip(*(part.columns for part in parts), strict=True)]
    sources = [source for part in parts for source in part.sources]
    return parts[0]._replace(columns=columns, addresses=torch.cat([part.addresses for part in parts]), sources=sources)


def _alike(columns: list[list[Tensor]], aligned: list[bool]) -> dict[tuple[torch.dtype, torch.dtype, bool], list[int]]:
    """The places of the parameters that have elements, by dtypes of gradient and correction, and alignment."""
    kinds = list(zip([grad.dtype for grad in columns[1]], [kept.dtype for kept in columns[2]], aligned, strict=True))
    sizes = list(map(Tensor.numel, columns[0]))
    if len(set(kinds)) == 1 and all(sizes):
        return {kinds[0]: list(range(len(kinds)))}
    places: dict[tuple[torch.dtype, torch.dtype, bool], list[int]] = {}
    for i, kind in enumerate(kinds):
        if sizes[i]:
            places.setdefault(kind, []).append(i)
    return places


def addresses_of(columns: Sequence[list[Tensor]]) -> Tensor:
    """The addresses of each row's tensors: int64 (rows, columns)."""
    table = array("q", map(Tensor.data_ptr, chain.from_iterable(columns)))
    return torch.frombuffer(table, dtype=torch.int64).view(len(columns), -1).t()


def _in_order(columns: list[list[Tensor]], finish: list[tuple[Tensor, Tensor]], *, ordered: bool) -> list[list[Tensor]]:
    """The tensors as kernels read them: in logical order and dense. What has other strides is copied there and back."""
    params = columns[0]
    distinct = [params, *[column for column in columns if column is not params]]
    if all(map(Tensor.is_contiguous, chain.from_iterable(distinct))):
        return columns
    rows = [_row_in_order([*row], finish, ordered=ordered) for row in zip(*columns, strict=True)]
    return [list(column) for column in zip(*rows, strict=True)]


def _row_in_order(tensors: list[Tensor], finish: list[tuple[Tensor, Tensor]], *, ordered: bool) -> list[Tensor]:
    """Those of one parameter.

    Tensors per element may share any dense order: without codes, random bits, rows and columns an element's place does not
    matter.
    """
    if all(map(Tensor.is_contiguous, tensors)):
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


def make_scratch(scratch: Sequence[Scratch], bucket: Bucket, least: int, *, grid: bool = False) -> list[list[Tensor]]:
    """What lies between the sweeps, a list for each, of each parameter one; their rows have at least so many elements."""
    if not scratch:
        return []
    sizes = _sizes(tuple(scratch), bucket.shapes, least, grid=grid)
    dtypes = [bucket.dtypes[3] if kept.real else torch.float32 for kept in scratch]
    return [
        [torch.empty(size, dtype=dtype, device=bucket.device) for size in each]
        for each, dtype in zip(sizes, dtypes, strict=True)
    ]


@functools.lru_cache(maxsize=256)
def _sizes(scratch: tuple[Scratch, ...], shapes: tuple[torch.Size, ...], least: int, *, grid: bool) -> list[list[int]]:
    """The elements of each scratch tensor of each parameter. Kept, because they seldom change."""

    def size(kept: Scratch, shape: torch.Size) -> int:
        return kept.size_in(shape) if grid else kept.size(*rows_of(shape, least))

    return [[size(kept, shape) for shape in shapes] for kept in scratch]


@functools.lru_cache(maxsize=4096)
def rows_of(shape: torch.Size, least: int) -> tuple[int, int]:
    """Rows, and elements in a row, of a parameter if a row is to have at least so many."""
    leading, length = row_shape(shape, least)
    return math.prod(leading), length


def left_of(joint: Sequence[Joint], phase: int, bucket: Bucket, scratch: list[list[Tensor]]) -> list[Part]:
    """What the parameters of a bucket have left behind a phase for reductions of several."""
    places = [(each, each.slot - len(bucket.columns)) for each in joint if each.phase == phase]
    return [
        each.part(*found)
        for each, place in places
        if each.takes(bucket.flags)
        for found in zip(bucket.groups, scratch[place], bucket.shapes, strict=True)
    ]


def copy_back(kept: Sequence[Scratch], bucket: Bucket, scratch: list[list[Tensor]]) -> None:
    """Copy what sweeps could not write in place to where it belongs."""
    for one, made in zip(kept, scratch, strict=True):
        if one.copy_to is not None and one.is_used(bucket.flags):
            targets = bucket.columns[one.copy_to]
            torch._foreach_copy_(targets, [tensor.view_as(target) for tensor, target in zip(made, targets, strict=True)])
