"""Between two sweeps: the parts of a reduction become one number for each row or parameter, in a fixed order."""

import triton
import triton.language as tl

__all__ = ["join_parts"]


@triton.jit
def join_parts(
    parameters,  # int64[n, 4]  of each: address of its first part, parts of a result, address of its first result, results
    OP: tl.constexpr,  # "max" or "min"
    CHUNK: tl.constexpr,
):
    """One program for each result of each parameter."""
    place, slot = tl.program_id(0), parameters + tl.program_id(1) * 4
    count = tl.load(slot + 1)
    if place < tl.load(slot + 3):
        parts = tl.load(slot).to(tl.pointer_type(tl.float32)) + place * count
        result = tl.load(slot + 2).to(tl.pointer_type(tl.float32)) + place
        empty = float("-inf") if OP == "max" else float("inf")
        joined = tl.full((CHUNK,), empty, tl.float32)
        for start in range(0, count, CHUNK):
            places = start + tl.arange(0, CHUNK)
            part = tl.load(parts + places, mask=places < count, other=empty)
            joined = tl.maximum(joined, part) if OP == "max" else tl.minimum(joined, part)
        tl.store(result, tl.max(joined, 0) if OP == "max" else tl.min(joined, 0))
