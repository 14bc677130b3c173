"""Launches C++ kernels: one call for a bucket, however many parameters it has."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from optgen.runtime.buckets import Bucket, Scratch, addresses_of, copy_back, left_of, make_scratch, rows_of, run_buckets
from optgen.runtime.cpp_compile import library
from optgen.runtime.joint import Joint, Phases, last_phase, run_phases
from optgen.runtime.layout import frame

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["CppKernel", "Scratch", "run_cpp"]

CPP_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
    torch.int8: "int8_t",
    torch.int16: "int16_t",
}
TILES_PER_THREAD = 8  # less work than this is not worth another thread


class CppKernel(NamedTuple):
    """A kernel's entry, its largest block (0: no codes), the least elements of a row, its tile, what lies between sweeps."""

    name: str
    wide: int
    row: int
    tile: int
    scratch: tuple[Scratch, ...] = ()
    joint: tuple[Joint, ...] = ()  # its reductions of several parameters
    grid: bool = False  # whether it knows rows and columns


class _Arguments(ctypes.Structure):
    """`Bucket` of tiles.hpp."""

    _fields_ = (
        ("tensors", ctypes.c_void_p),
        ("scalars", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("tiles", ctypes.c_int64),
        ("threads", ctypes.c_int32),
    )


def run_cpp(source: str, kernels: Sequence[CppKernel], flags: Sequence[str], batches: Sequence[Batch]) -> None:
    """Update every bucket of `batches` by the kernels of a source file, which has these compile-time flags.

    Raises:
        CompilerError: if the source cannot be compiled; nothing has changed then.
    """

    def launch(buckets: list[Bucket]) -> None:
        libraries = [library(source, _definitions(bucket, flags)) for bucket in buckets]
        run_phases(_steps(kernels[each.kernel], compiled, each) for compiled, each in zip(libraries, buckets, strict=True))

    grids = [place for place, kernel in enumerate(kernels) if kernel.grid]
    run_buckets(batches, launch, by_alignment=False, grids=grids)


def _definitions(bucket: Bucket, flags: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The macros that a bucket's kernels are compiled with."""
    types = zip(("PARAM", "GRAD", "CORRECTION", "REAL"), (CPP_TYPES[dtype] for dtype in bucket.dtypes), strict=True)
    chosen = [(f"FLAG_{flag}", str(int(bucket.flags.get(flag, False)))) for flag in flags]
    return (*types, ("LOW_PRECISION", str(bucket.flags["low_precision"])), *chosen)


def _steps(kernel: CppKernel, compiled: ctypes.CDLL, bucket: Bucket) -> Phases:
    """Call the function of each phase."""
    scratch = make_scratch(kernel.scratch, bucket, kernel.row, grid=kernel.grid)
    extents, tiles = _extents(kernel, bucket.shapes)
    between = [addresses_of(scratch)] if scratch else []
    tensors = torch.cat([bucket.addresses, *between, extents], dim=1)
    scalars = bucket.scalar_table()
    keys = bucket.key_table()
    threads = max(1, min(torch.get_num_threads(), tiles // TILES_PER_THREAD))
    arguments = _Arguments(tensors.data_ptr(), scalars.data_ptr(), keys.data_ptr(), len(tensors), tiles, threads)
    for phase in range(1, last_phase([kernel.joint]) + 1):
        getattr(compiled, f"{kernel.name}_phase_{phase}")(ctypes.byref(arguments))
        yield left_of(kernel.joint, phase, bucket, scratch)
    getattr(compiled, kernel.name)(ctypes.byref(arguments))
    if any(kept.shared for kept in kernel.scratch):
        yield []  # all others have read what is written now
    copy_back(kernel.scratch, bucket, scratch)


@functools.lru_cache(maxsize=64)
def _extents(kernel: CppKernel, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, int]:
    """Of each parameter rows, elements in a row and the number of its first tile, int64 (n, 3); and the number of tiles.

    For a kernel that knows rows and columns it is matrices, rows and columns.
    """
    if kernel.grid:
        sizes = [frame(shape, "element") for shape in shapes]
        return torch.tensor(sizes, dtype=torch.int64, device="cpu"), sum(map(math.prod, sizes)) // kernel.tile
    extents, tiles = [], 0
    for shape in shapes:
        rows, length = rows_of(shape, kernel.row) if kernel.wide else (1, shape.numel())
        extents.append((rows, length, tiles))
        padded = -(-length // kernel.wide) * kernel.wide if kernel.wide else length
        tiles += -(-rows * padded // kernel.tile)
    return torch.tensor(extents, dtype=torch.int64, device="cpu"), tiles
