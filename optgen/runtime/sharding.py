"""Parameters that are sharded over processes (DTensor, as FSDP2 makes them): their shards, states like them, their places.

What a parameter keeps as codes depends on its global shape, and blocks never straddle two rows, so a shard of leading
dimensions is the same shard of codes and block scalars. A shard inside a row is one too where each process has whole blocks.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from optgen.runtime.layout import WHOLE, Codes, Shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement

__all__ = ["check_parameter", "check_placement", "fitted", "is_sharded", "local", "place", "wrapped", "zeros"]


def is_sharded(tensor: Any) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor; a program that has none never imports their module."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: the tensor itself, or its shard."""
    return tensor.to_local().detach() if is_sharded(tensor) else tensor


def place(p: Tensor) -> Shard:
    """Where the elements of this process's shard lie in the whole parameter."""
    if not is_sharded(p):
        return WHOLE
    return _place(p.shape, p.device_mesh, p.placements)


@functools.lru_cache(maxsize=4096)
def _place(sizes: torch.Size, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> Shard:
    shape, offsets = _shard(sizes, mesh, placements)
    strides = [math.prod(sizes[dim + 1 :]) for dim in range(len(sizes))]
    start = sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
    inner = [dim for dim in range(1, len(sizes)) if shape[dim] != sizes[dim]]
    if not inner or 0 in shape:
        return Shard(start)
    dim = inner[0]
    return Shard(start, shape[dim] * strides[dim], (sizes[dim] - shape[dim]) * strides[dim])


def check_parameter(owner: Callable[[], str], p: Tensor, stored: Iterable[Codes], *, whole: bool) -> None:
    """Refuse a sharded parameter that cannot be updated, the same on every process.

    Args:
        owner: names the parameter in the error.
        p: the parameter.
        stored: how those of its states are kept that are kept as codes.
        whole: whether the rule reduces over all elements.

    Raises:
        RuntimeError: for placements that no shard of a state can have, for shards that cut a block, and for any where the
            rule reduces over all elements.
    """
    if not is_sharded(p):
        return
    if any(placement.is_partial() for placement in p.placements):
        raise RuntimeError(f"{owner()}: a parameter cannot be updated while it is a partial sum ({p.placements})")
    cut = list(_sharded_dims(p))
    inner = {dim for dim, _ in cut if dim > 0}
    if len(inner) > 1:
        raise RuntimeError(f"{owner()}: sharded along dimensions {sorted(inner)}; beside the first, one can be")
    if whole and cut:
        message = "the rule takes a norm, sum or mean of all its elements, which no process has"
        raise RuntimeError(f"{owner()}: sharded as {p.placements}; {message}; replicate this parameter")
    for codes in stored:
        _check_codes(owner, p, codes, cut)


def check_placement(owner: Callable[[], str], p: Tensor, other: Tensor, what: str) -> None:
    """Refuse a gradient, or an input, that is placed unlike its parameter.

    Raises:
        RuntimeError: with both placements.
    """
    if is_sharded(other) != is_sharded(p):
        raise RuntimeError(f"{owner()}: parameter and {what} must both be DTensors, or neither")
    if is_sharded(p) and is_sharded(other) and (other.placements != p.placements or other.device_mesh != p.device_mesh):
        placed = f"placed as {p.placements}, its {what} as {other.placements}"
        raise RuntimeError(f"{owner()}: {placed}; redistribute the {what}")


def _check_codes(owner: Callable[[], str], p: DTensor, codes: Codes, cut: Sequence[tuple[int, int]]) -> None:
    """Refuse shards for which codes and scalars cannot be cut alike."""
    first = len(codes.row_shape(p.shape)[0])  # of the dimensions that are merged into rows
    inside = [(dim, ways) for dim, ways in cut if dim >= first]
    if cut if codes.scope in ("tensor", "rank1") else inside and codes.scope == "row":
        where = "rows" if codes.scope == "row" else "parameters"
        message = f"one scale per {codes.scope} cannot be computed where {where} are sharded"
        raise RuntimeError(f"{owner()}: sharded as {p.placements}; {message}; store the state in blocks, or in float32")
    if not inside:
        return
    (dim, ways), unit = inside[0], math.prod(p.shape[first + 1 :])
    lengths = [size * unit for size in _chunks(p.shape[dim], ways)]
    blocks = [-(-length // codes.block) for length in lengths]
    whole = all(length % codes.block == 0 for length in lengths[:-1]) and lengths[-1] >= codes.least_row
    parts = [_chunks(shape[-1], ways) for shape in (codes.codes_shape(p.shape), codes.scalars_shape(p.shape))]
    if len(inside) == 1 and dim == first and whole and parts == [[n * codes.block * codes.bits // 8 for n in blocks], blocks]:
        return
    raise RuntimeError(
        f"{owner()} has shape {tuple(p.shape)}, sharded as {p.placements}: this cuts blocks of {codes.block} elements; shard a "
        f"dimension before {first}, or one that leaves each process the same multiple of {codes.block} elements of a row, or "
        "keep the states of its group in float32 (storage='float32')"
    )


def zeros(shape: Sequence[int], dtype: torch.dtype, p: Tensor) -> Tensor:
    """Zeros of this global shape beside `p`: placed as `p` is."""
    if not is_sharded(p):
        return torch.zeros(tuple(shape), dtype=dtype, device=p.device)
    from torch.distributed import tensor

    placements = [place if p.device_mesh.size(i) > 1 else tensor.Replicate() for i, place in enumerate(p.placements)]
    made: Tensor = tensor.zeros(*shape, dtype=dtype, device_mesh=p.device_mesh, placements=placements)
    return made


def fitted(value: Tensor, like: Tensor) -> Tensor:
    """`value`, whole or sharded in any way, as this process's part of `like`, which has the same global shape."""
    if not is_sharded(like):
        return value.full_tensor() if is_sharded(value) else value
    if is_sharded(value):
        same = value.device_mesh == like.device_mesh and value.placements == like.placements
        return (value if same else value.redistribute(like.device_mesh, like.placements)).to_local()
    shape, offsets = _shard(like.shape, like.device_mesh, like.placements)
    for dim, (size, offset) in enumerate(zip(shape, offsets, strict=True)):
        value = value.narrow(dim, min(offset, value.shape[dim]), size)
    return value


def wrapped(part: Tensor, p: Tensor) -> Tensor:
    """This process's part of a tensor of the shape of `p`, as a tensor that is placed as `p` is."""
    if not is_sharded(p):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(part, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride())


def _shard(shape: Sequence[int], mesh: DeviceMesh, placements: Sequence[Placement]) -> tuple[Sequence[int], Sequence[int]]:
    """Shape and offsets of this process's part of a tensor of this global shape."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    found: tuple[Sequence[int], Sequence[int]] = compute_local_shape_and_global_offset(torch.Size(shape), mesh, placements)
    return found


def _sharded_dims(p: DTensor) -> Iterator[tuple[int, int]]:
    """Each dimension of `p` that is cut, and into how many parts."""
    for mesh_dim, placement in enumerate(p.placements):
        dim = getattr(placement, "dim", None)  # of a Shard, and of the strided kind that nested meshes make
        if dim is not None and p.device_mesh.size(mesh_dim) > 1:
            yield dim, p.device_mesh.size(mesh_dim)


def _chunks(size: int, ways: int) -> list[int]:
    """The sizes of the parts of a dimension, as torch.chunk cuts it; empty parts are left out."""
    most = -(-size // ways)
    return [min(most, size - start) for start in range(0, size, max(most, 1))]
