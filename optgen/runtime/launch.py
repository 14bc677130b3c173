"""Launches Triton kernels: two launches at most for each sweep of a bucket, however many parameters it has."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from torch.nn.functional import pad

from optgen.runtime.backends import interpreting
from optgen.runtime.buckets import Bucket, Scratch, addresses_of, copy_back, left_of, make_scratch, rows_of, run_buckets
from optgen.runtime.joint import Joint, Phases, run_phases
from optgen.runtime.layout import frame
from optgen.runtime.low_precision import CORRECTED
from optgen.runtime.tables import StepTable, ValueTable, tabulated

if TYPE_CHECKING:
    from optgen.runtime.batches import Batch

__all__ = ["Reduction", "Scratch", "StepTable", "Sweep", "TritonKernel", "ValueTable", "run"]

TRITON_DTYPES = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float64: tl.float64,
    torch.int8: tl.int8,
    torch.int16: tl.int16,
}


VECTOR = 1024  # elements of a tile of a sweep over rows or columns
JOINED = 128  # columns of a program that joins strips
TAIL = 4  # a tile with masks is so much smaller
MOST_REGISTERS = 248  # of a thread; at 255, all there are, ptxas spills a few
ALL_REGISTERS = 65536  # of a processor


class Reduction(NamedTuple):
    """What is done behind a sweep: the parts in one slot of a parameter's tensors become one number in another."""

    op: str  # "max", "min", "sum" or "mean"
    parts: int
    result: int


class Sweep(NamedTuple):
    """One pass over the "element"s, or over each "row", "col" or "matrix"; where `flag`, if there is one, is as `holds` says."""

    entry: Any
    reductions: tuple[Reduction, ...] = ()
    over: str = "element"
    flag: str | None = None
    holds: bool = True

    def is_made(self, flags: Mapping[str, Any]) -> bool:
        """Whether a step makes it under these flags."""
        return self.flag is None or flags[self.flag] == self.holds


class Launch(NamedTuple):
    """Tiles of one size that are launched together, int32 (tiles, 2), and what the compiler is told of them."""

    tiles: Tensor
    constants: dict[str, int]


class TritonKernel(NamedTuple):
    """A kernel's sweeps, its largest block (0: no codes), the least elements of a row, its tile, the threads of a program.

    The bulk, tiles that lie whole inside a parameter of whole blocks, is launched by itself: without masks and offsets a thread
    takes half of the registers, and twice as many run at a time. A coded kernel takes half a tile where `extras`, flags, or a
    correction give each element one more value.

    `registers` is the most that a thread may have on an NVIDIA GPU where arithmetic is float32; `scratch` follows the tensors in each
    parameter's slots; `tables` are what its functions look up; `joint` are its reductions of several parameters. `width` is that of
    a tile of a kernel that knows rows and columns.
    """

    sweeps: tuple[Sweep, ...]
    wide: int
    row: int
    tile: int
    threads: int
    registers: int
    scratch: tuple[Scratch, ...] = ()
    tables: tuple[ValueTable | StepTable, ...] = ()
    extras: tuple[str, ...] = ()
    width: int = 0
    joint: tuple[Joint, ...] = ()

    @property
    def phases(self) -> list[tuple[Sweep, ...]]:
        """The sweeps between the points at which parameters wait for one another."""
        phase = {joint.slot: joint.phase for joint in self.joint}
        places = enumerate(self.sweeps, 1)
        ends = {phase[r.result]: end for end, sweep in places for r in sweep.reductions if r.result in phase}
        return [self.sweeps[start:end] for start, end in pairwise((0, *ends.values(), len(self.sweeps)))]

    def tile_of(self, flags: Mapping[str, Any], *, bulk: bool = True) -> int:
        """Elements of a tile under these flags, `low_precision` one of them; fewer where it has masks."""
        has_more = self.wide and (flags["low_precision"] in CORRECTED or any(flags[flag] for flag in self.extras))
        share = (2 if has_more else 1) * (1 if bulk else TAIL)
        return max(self.tile // share, self.wide)

    def grid_sizes(self, over: str) -> dict[str, int]:
        """The elements and the width of a tile that knows rows and columns; that of a sweep over vectors is one row."""
        return {"TILE": self.tile, "WIDTH": self.width} if over == "element" else {"TILE": VECTOR, "WIDTH": VECTOR}

    def options(self, platform: str, warp_size: int, tile: int, *, bulk: bool, double: bool) -> dict[str, int]:
        """What the compiler is told for a GPU of this platform, "cuda" or "hip", and for tiles of this size; `double`: of float64.

        A tile with masks that a large block makes larger than a quarter has more threads, which then need no more registers.
        """
        more = (TAIL if self.wide else 2) if self.width else max(1, tile * TAIL // self.tile)
        threads = self.threads if bulk else self.threads * more
        registers = min(MOST_REGISTERS if double else self.registers, ALL_REGISTERS // threads)
        return {"num_warps": threads // warp_size, **({"maxnreg": registers} if platform == "cuda" else {})}


def run(kernels: Sequence[TritonKernel], batches: Sequence[Batch]) -> None:
    """Launch every bucket of `batches`."""
    if interpreting():
        with contextlib.suppress(ImportError):  # a vendored copy does without
            from optgen.runtime.interpreter import repair

            repair()

    def launch(buckets: list[Bucket]) -> None:
        run_phases(_steps(kernels[bucket.kernel], bucket) for bucket in buckets)

    grids = [place for place, kernel in enumerate(kernels) if kernel.width]
    run_buckets(batches, launch, by_alignment=True, grids=grids)


def _steps(kernel: TritonKernel, bucket: Bucket) -> Phases:
    """Launch the sweeps of each phase."""
    (param, grad, correction, real), device = bucket.dtypes, bucket.device
    scratch = make_scratch(kernel.scratch, bucket, kernel.row, grid=kernel.width > 0)
    extents, launches = _launches(kernel, bucket)
    between = [addresses_of(scratch)] if scratch else []
    rows = torch.cat([bucket.addresses, *between, extents], dim=1)
    tables = _on_device([rows, bucket.scalar_table(), bucket.key_table()], device)
    looked_up = [tabulated(kernel.tables, device)] if kernel.tables else []
    constants = {
        "PARAM": TRITON_DTYPES[param],
        "GRAD": TRITON_DTYPES[grad],
        "CORRECTION": TRITON_DTYPES[correction],
        "REAL": TRITON_DTYPES[real],
        "ALIGNED": bucket.aligned,
    }

    for phase, sweeps in enumerate(kernel.phases, 1):
        with _on(device):
            for sweep in (sweep for sweep in sweeps if sweep.is_made(bucket.flags)):
                taken = {flag: value for flag, value in bucket.flags.items() if flag in sweep.entry.arg_names}
                for tiles, chosen in launches[sweep.over]:
                    sweep.entry[(len(tiles),)](*tables, tiles, *looked_up, **taken, **constants, **chosen)
                for reduction in sweep.reductions:
                    if kernel.scratch[reduction.parts - len(bucket.columns)].is_used(bucket.flags):
                        _join(kernel, reduction, bucket, rows)
        if phase < len(kernel.phases):
            yield left_of(kernel.joint, phase, bucket, scratch)
    if any(kept.shared for kept in kernel.scratch):
        yield []  # all others have read what is written now
    copy_back(kernel.scratch, bucket, scratch)


def _launches(kernel: TritonKernel, bucket: Bucket) -> tuple[Tensor, dict[str, list[Launch]]]:
    """The sizes of each parameter, as kernels read them, and what is launched for sweeps over the same."""
    device, double = bucket.device, bucket.dtypes[3] == torch.float64

    def options(size: int, *, bulk: bool) -> dict[str, int]:
        if interpreting():
            return {"num_warps": 1}
        return kernel.options(*_platform(device), size, bulk=bulk, double=double)

    if kernel.width:
        overs = dict.fromkeys(sweep.over for sweep in kernel.sweeps)
        cut = {over: _cut_grid(kernel, over, bucket.shapes, tuple(bucket.regular()), device) for over in overs}
        sizes = [(*frame(shape, "element"), 1) for shape in bucket.shapes]
        extents = torch.tensor(sizes, dtype=torch.int64, device="cpu")
    else:
        tile_sizes = kernel.tile_of(bucket.flags), kernel.tile_of(bucket.flags, bulk=False)
        extents, parts = _cut(kernel, tile_sizes, bucket.shapes, tuple(bucket.regular()), device)
        cut = {"element": [(tiles, {"TILE": size}, is_bulk) for tiles, size, is_bulk in parts]}
    return extents, {
        over: [Launch(tiles, {**sizes, "BULK": bulk, **options(sizes["TILE"], bulk=bulk)}) for tiles, sizes, bulk in parts]
        for over, parts in cut.items()
    }


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Make a GPU the current one, on which Triton launches: it sees addresses in a table, and no tensor of it."""
    return contextlib.nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)


def _join(kernel: TritonKernel, reduction: Reduction, bucket: Bucket, slots: Tensor) -> None:
    """Reduce the parts of every parameter of a bucket in one launch."""
    from optgen.runtime.triton_grid import join_strips
    from optgen.runtime.triton_reduce import join_parts

    first = len(bucket.columns)
    parts, result = kernel.scratch[reduction.parts - first], kernel.scratch[reduction.result - first]
    real = TRITON_DTYPES[bucket.dtypes[3]] if parts.real else tl.float32
    rows, most, is_strip = [], 0, parts.layout == "strips"
    for shape, addresses in zip(bucket.shapes, slots.tolist(), strict=True):
        if kernel.width:
            count, each, apart, elements = parts.parts_of(result, shape)
        else:
            extent = rows_of(shape, kernel.row)
            count, apart, elements = result.size(*extent), 1, math.prod(extent)
            each = parts.size(*extent) // count
        rows.append([addresses[reduction.parts], each, addresses[reduction.result], count, elements, apart][: 5 + is_strip])
        most = max(most, count * -(-apart // JOINED))
    table = torch.tensor(rows, dtype=torch.int64, device=bucket.device)
    if is_strip:
        join_strips[(most, len(rows))](table, OP=reduction.op, REAL=real, WIDTH=JOINED)
    else:
        join_parts[(most, len(rows))](table, OP=reduction.op, REAL=real, CHUNK=1024)


@functools.cache
def _platform(device: torch.device) -> tuple[str, int]:
    """The platform, "cuda" or "hip", and the threads of a warp: 32, or 64 on AMD's CDNA."""
    import triton

    with _on(device):
        target = triton.runtime.driver.active.get_current_target()
    return target.backend, int(target.warp_size)


@functools.lru_cache(maxsize=64)
def _cut(
    kernel: TritonKernel,
    tile_sizes: tuple[int, int],
    shapes: tuple[torch.Size, ...],
    regular: tuple[bool, ...],
    device: torch.device,
) -> tuple[Tensor, list[tuple[Tensor, int, bool]]]:
    """Parameters as tiles. Kept, because it seldom changes.

    Returns:
        The sizes of each parameter, int64: blocks and the length of rows, (n, 2), or elements, (n, 1).
        What is launched, the bulk and the rest, if there are any: tiles, the elements of one, and whether they are the bulk.
    """
    size, small = tile_sizes
    extents: list[tuple[int, ...]] = []
    bulk, rest = [], []
    for shape, is_regular in zip(shapes, regular, strict=True):
        if kernel.wide:
            lines, length = rows_of(shape, kernel.row)
            blocks = lines * -(-length // kernel.wide)
            extents.append((blocks, length))
            elements, is_whole = blocks * kernel.wide, is_regular and (lines == 1 or length % kernel.wide == 0)
        else:
            elements, is_whole = shape.numel(), is_regular
            extents.append((elements,))
        whole = shape.numel() // size if is_whole else 0
        bulk.append(range(whole))
        rest.append(range(whole * size // small, -(-elements // small)))
    parts = (bulk, size, True), (rest, small, False)
    launched = [(_tiles(ranges, device), each, is_bulk) for ranges, each, is_bulk in parts if any(map(len, ranges))]
    return torch.tensor(extents, dtype=torch.int64, device="cpu"), launched


@functools.lru_cache(maxsize=256)
def _cut_grid(
    kernel: TritonKernel, over: str, shapes: tuple[torch.Size, ...], regular: tuple[bool, ...], device: torch.device
) -> list[tuple[Tensor, dict[str, int], bool]]:
    """Parameters as tiles of rows and columns, for sweeps over elements or over vectors; these are one row high.

    A tile of the bulk is whole, and so are those in its row.
    """
    sizes = kernel.grid_sizes(over)
    height, width = sizes["TILE"] // sizes["WIDTH"], sizes["WIDTH"]
    bulk, rest = [], []
    for shape, is_regular in zip(shapes, regular, strict=True):
        count, rows, length = frame(shape, over)
        across, strips = -(-length // width), -(-rows // height)
        numbers = torch.arange(count * strips * across, device="cpu")
        whole = (numbers // across % strips < rows // height) & (is_regular and over == "element" and length % width == 0)
        bulk.append(numbers[whole])
        rest.append(numbers[~whole])
    return [(_tiles(each, device), sizes, each is bulk) for each in (bulk, rest) if any(map(len, each))]


def _on_device(tables: list[Tensor], device: torch.device) -> list[Tensor]:
    """Tables of the host on the device, in one copy that the host does not wait for."""
    if device.type == "cpu":
        return tables
    return _unpacked(_packed(tables).pin_memory().to(device, non_blocking=True), tables)


def _packed(tables: list[Tensor]) -> Tensor:
    """The bytes of all tables, each from a multiple of 16."""
    parts = [table.contiguous().view(torch.uint8).flatten() for table in tables]
    return torch.cat([pad(part, (0, -part.numel() % 16)) for part in parts])


def _unpacked(packed: Tensor, tables: list[Tensor]) -> list[Tensor]:
    """Tables like these, of the bytes of `_packed`."""
    found, start = [], 0
    for table in tables:
        part = packed[start : start + table.nbytes]
        found.append(part.view(table.dtype).view(table.shape))
        start += table.nbytes + -table.nbytes % 16
    return found


def _tiles(numbers: Sequence[range | Tensor], device: torch.device) -> Tensor:
    """The parameter of each tile, and which of its tiles it is, int32 (tiles, 2), from the numbers of each parameter's tiles."""
    owner = torch.arange(len(numbers), device="cpu").repeat_interleave(
        torch.tensor([len(each) for each in numbers], device="cpu")
    )
    ranges = [torch.arange(each.start, each.stop, device="cpu") if isinstance(each, range) else each for each in numbers]
    number = torch.cat(ranges)
    return torch.stack([owner, number], dim=1).to(torch.int32).to(device)
