"""Formula text that codebooks share: the scale of a block and its inverse."""

__all__ = ["DRAW", "SMALLEST", "absmax", "inverse", "signed_absmax"]

SMALLEST = "1.1754943508222875e-38"  # the smallest normal float32
DRAW = "min(max(u, 2), 65533)"  # of 65536: a level stays one although it comes back from its scale with a rounding error
PUBLISHED_FLOOR = "1e-12"  # the floor of the published low-bit optimizers


def absmax(unsigned: bool, published: bool) -> str:
    """The largest magnitude; zero for a block of zeros unless the published floor is asked for."""
    largest = "block_max(x)" if unsigned else "block_max(abs(x))"
    return f"largest = {largest}\nscale = max(largest, {PUBLISHED_FLOOR if published else '0.0'})"


def signed_absmax() -> str:
    """The value of largest magnitude with its sign, so that it is always the level +1 and never shrinks."""
    return "largest = block_max(x)\nsmallest = block_min(x)\nscale = where(largest >= -smallest, largest, smallest)"


def inverse(*, signed: bool) -> str:
    """1/scale, finite for every scale."""
    if signed:
        return f"inverse = reciprocal(where(abs(scale) < {SMALLEST}, {SMALLEST}, scale))"
    return f"inverse = reciprocal(max(scale, {SMALLEST}))"
