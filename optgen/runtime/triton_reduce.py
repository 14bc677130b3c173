"""Between two sweeps: the parts of a reduction become one number for each row or parameter, in a fixed order."""

import triton
import triton.language as tl

__all__ = ["join_parts"]


@triton.jit
def join_parts(
    segments,  # int64[n, 3]  address of the first part, number of parts, address of the result
    OP: tl.constexpr,  # "max" or "min"
    CHUNK: tl.constexpr,
):
    """One program for each result."""
    row = segments + tl.program_id(0) * 3
    parts = tl.load(row).to(tl.pointer_type(tl.float32))
    count = tl.load(row + 1)
    result = tl.load(row + 2).to(tl.pointer_type(tl.float32))
    empty = float("-inf") if OP == "max" else float("inf")
    joined = tl.full((CHUNK,), empty, tl.float32)
    for start in range(0, count, CHUNK):
        places = start + tl.arange(0, CHUNK)
        part = tl.load(parts + places, mask=places < count, other=empty)
        joined = tl.maximum(joined, part) if OP == "max" else tl.minimum(joined, part)
    tl.store(result, tl.max(joined, 0) if OP == "max" else tl.min(joined, 0))
