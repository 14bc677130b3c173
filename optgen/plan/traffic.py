"""Bytes that a kernel moves: each tensor once read and once written, per element of a large parameter with whole blocks."""

from __future__ import annotations

from collections.abc import Mapping

from optgen.ir.nodes import Domain
from optgen.plan.nodes import Buffer, Kernel, Layout

__all__ = ["buffer_bytes", "kernel_bytes"]


def kernel_bytes(kernel: Kernel, *, param: int, grad: int, flags: Mapping[str, bool] | None = None) -> float:
    """Bytes read and written per element; `param` and `grad` are the bytes of one element of each.

    Buffers under a flag count if `flags` has it so; flags that are not given are off. `is_corrected` is one of them: of
    a parameter with corrections of its own dtype.
    """
    flags = flags or {}
    moved = [buffer for sweep in kernel.sweeps if sweep.over == Domain.ELEMENT for buffer in sweep.buffers]
    present = [b for b in moved if b.guard is None or flags.get(b.guard.flag, False) == b.guard.holds]
    return sum(buffer_bytes(buffer, param=param, grad=grad) for buffer in present)


def buffer_bytes(buffer: Buffer, *, param: int, grad: int) -> float:
    """Bytes of one buffer per element and sweep; one number for each row, column or matrix, or for the tensor, is nothing."""
    ways = int(buffer.read) + int(buffer.written)
    if buffer.layout in (Layout.ROW, Layout.TENSOR, Layout.ROWS, Layout.COLS, Layout.MATRICES):
        return 0
    if buffer.layout == Layout.ELEMENT:
        real = 8 if param == 8 else 4
        sizes = {"param": param, "grad": grad, "real": real, "correction": param, "bfloat16": 2, "float16": 2}
        return ways * sizes[buffer.dtype]
    if buffer.layout in (Layout.BLOCK, Layout.STRIPS):
        return (ways if buffer.key else 2) * 4 / buffer.block  # parts of a reduction are read by what joins them
    assert buffer.state is not None and buffer.state.storage is not None
    return ways * buffer.state.storage.bits / 8
