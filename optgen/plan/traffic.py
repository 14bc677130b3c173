"""Bytes that a kernel moves: each tensor once read and once written, per element of a large parameter with whole blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optgen.ir.infer import refs
from optgen.ir.nodes import VECTORS, Domain, Guard, Store
from optgen.plan.nodes import Buffer, Kernel, Layout, Sweep

__all__ = ["buffer_bytes", "is_made", "kernel_bytes", "sweep_bytes", "used_buffers"]


def kernel_bytes(kernel: Kernel, *, param: int, grad: int, flags: Mapping[str, bool] | None = None) -> float:
    """Bytes read and written per element; `param` and `grad` are the bytes of one element of each.

    Buffers under a flag count if `flags` has it so; flags that are not given are off. `is_corrected` is one of them: of
    a parameter with corrections of its own dtype.
    """
    return sum(sweep_bytes(sweep, param=param, grad=grad, flags=flags) for sweep in kernel.sweeps)


def sweep_bytes(sweep: Sweep, *, param: int, grad: int, flags: Mapping[str, bool] | None = None) -> float:
    """Bytes that a sweep reads and writes per element; those of one over vectors are next to nothing."""
    if sweep.over != Domain.ELEMENT:
        return 0
    flags = flags or {}
    if not is_made(sweep, flags):
        return 0
    present = [b for b in used_buffers(sweep, flags) if b.guard is None or _holds(b.guard, flags)]
    return sum(buffer_bytes(buffer, param=param, grad=grad) for buffer in present)


def is_made(sweep: Sweep, flags: Mapping[str, bool]) -> bool:
    """Whether a step makes a sweep under these flags; those that are not given are off."""
    return sweep.when is None or _holds(sweep.when, flags)


def _holds(guard: Guard, flags: Mapping[str, bool]) -> bool:
    return flags.get(guard.flag, False) == guard.holds


def used_buffers(sweep: Sweep, flags: Mapping[str, bool]) -> list[Buffer]:
    """The buffers that are read and written under these flags: compilers leave out a load of what nothing reads."""
    needed, written = set[str](), set[str]()
    for statement in reversed(sweep.body):
        if not all(_holds(guard, flags) for guard in statement.guards):
            continue
        if isinstance(statement, Store):
            written.add(statement.buffer)
        elif statement.target in needed:
            needed.remove(statement.target)
        else:
            continue
        needed |= set(refs(statement.value))
    needed |= {"correction"} if "param" in needed else set()
    written |= {"correction"} if "param" in written else set()
    return [replace(b, read=b.read and b.name in needed, written=b.written and b.name in written) for b in sweep.buffers]


def buffer_bytes(buffer: Buffer, *, param: int, grad: int) -> float:
    """Bytes of one buffer per element and sweep; one number for each row, column or matrix, or for the tensor, is nothing."""
    ways = int(buffer.read) + int(buffer.written)
    is_small = buffer.state is not None and buffer.state.domain in VECTORS
    if is_small or buffer.layout in (Layout.ROW, Layout.TENSOR, Layout.ROWS, Layout.COLS, Layout.MATRICES):
        return 0
    if buffer.layout == Layout.ELEMENT:
        real = 8 if param == 8 else 4
        sizes = {"param": param, "grad": grad, "real": real, "correction": param, "bfloat16": 2, "float16": 2}
        return ways * sizes[buffer.dtype]
    if buffer.layout in (Layout.BLOCK, Layout.STRIPS):
        return (ways if buffer.key else 2) * 4 / buffer.block  # parts of a reduction are read by what joins them
    assert buffer.state is not None and buffer.state.storage is not None
    return ways * buffer.state.storage.bits / 8
