"""Bytes that a kernel moves: each tensor once read and once written, per element of a parameter with whole blocks."""

from __future__ import annotations

from collections.abc import Mapping

from optgen.plan.nodes import Buffer, Kernel, Layout

__all__ = ["buffer_bytes", "kernel_bytes"]


def kernel_bytes(kernel: Kernel, *, param: int, grad: int, flags: Mapping[str, bool] | None = None) -> float:
    """Bytes read and written per element; `param` and `grad` are the bytes of one element of each.

    Buffers under a flag count if `flags` has it so; flags that are not given are off. `is_corrected` is one of them: of
    a parameter with corrections of its own dtype.
    """
    flags = flags or {}
    present = [b for b in kernel.buffers if b.guard is None or flags.get(b.guard.flag, False) == b.guard.holds]
    return sum(buffer_bytes(buffer, param=param, grad=grad) for buffer in present)


def buffer_bytes(buffer: Buffer, *, param: int, grad: int) -> float:
    """Bytes of one buffer per element and step."""
    ways = int(buffer.read) + int(buffer.written)
    if buffer.layout == Layout.ELEMENT:
        real = 8 if param == 8 else 4
        sizes = {"param": param, "grad": grad, "real": real, "correction": param, "bfloat16": 2, "float16": 2}
        return ways * sizes[buffer.dtype]
    assert buffer.state is not None and buffer.state.storage is not None
    storage = buffer.state.storage
    return ways * (storage.bits / 8 if buffer.layout == Layout.CODE else 4 / storage.block)
