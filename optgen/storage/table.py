"""Levels as the spec lists them, on a scale of 1. Values go to the nearest one, a tie to the larger level.

Levels and borders are looked up, so there are at most 16; codebooks with more have a formula.
Where 1 is a level and -1 is not, the scale takes the sign of the block's largest value, so that none shrinks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import Storage
from optgen.storage.codec import BlockScalar, Codec, Formula
from optgen.storage.lookup import decode, search
from optgen.storage.magnitudes import DECODE, nearest_code, unscaled
from optgen.storage.scales import DRAW, absmax, inverse, signed_absmax

__all__ = ["Table"]

SMALLEST_GAP = 1e-6  # of neighbouring levels: a few float32 numbers must lie between them


class Table:
    """Any levels."""

    summary = "up to 16 levels that the spec lists"
    bits = (1, 2, 3, 4)
    options = ("levels",)

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """Levels ascend from -1 or more (0, if unsigned) to 1, and there is a code for each."""
        span, levels = spans.get("levels", spans["codebook"]), storage.levels
        if not levels:
            found.add("missing-key", "the table codebook needs the key 'levels'", span, help="add 'levels: [-1, 0, 1]' or such")
            return
        fault = _fault(levels, storage.bits, unsigned)
        if fault is not None:
            found.add("bad-value", fault[0], span, help=fault[1])

    def levels(self, storage: Storage, unsigned: bool) -> list[float]:  # noqa: ARG002 -- part of the protocol
        """As listed."""
        return list(storage.levels)

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """A search among the borders; stochastic rounding compares with every level."""
        levels, random = storage.levels, storage.rounding == "stochastic"
        turned = levels[0] > -1 and not unsigned
        encode = [inverse(signed=turned), "scaled = max(min(x*inverse, 1.0), -1.0)"]
        if random:
            encode.append("code = 0")
            gaps = [above - below for below, above in pairwise(levels)]
            encode += [f"below = {levels[0]!r}", f"gap = {gaps[0]!r}"]
            for k, x in list(_numbered(levels))[:-1]:
                reached = f"scaled >= {x!r}"
                encode += [f"code = where({reached}, {k}, code)", f"below = where({reached}, {x!r}, below)"]
                encode.append(f"gap = where({reached}, {gaps[k]!r}, gap)")
            encode.append(f"code = where(scaled - below > real({DRAW})*1.52587890625e-05*gap, code + 1, code)")
        else:
            encode.append("code = nearest_code(scaled)")
        middles = [(below + above) / 2 for below, above in pairwise(levels)]
        doc = "The value of largest magnitude, with its sign." if turned else "The largest magnitude of each block."
        formulas = (
            Formula("scale", ("x",), signed_absmax() if turned else absmax(unsigned, published=False), doc),
            unscaled(decode(levels), 2**storage.bits),
            nearest_code(search(middles, "y"), middles),
            DECODE,
            Formula("encode", ("x", "scale", "u") if random else ("x", "scale"), "\n".join(encode), "The code of each value."),
        )
        return Codec((BlockScalar("scale"),), formulas, random)


def _numbered(levels: Sequence[float]) -> enumerate[float]:
    """The levels above the first, with their codes."""
    return enumerate(levels[1:], start=1)


def _fault(levels: Sequence[float], bits: int, unsigned: bool) -> tuple[str, str] | None:
    """What is wrong with the levels, and what to do."""
    lowest = 0 if unsigned else -1
    if not 2 <= len(levels) <= 2**bits:
        return f"{bits}-bit codes have 2 to {2**bits} levels, got {len(levels)}", "list fewer, or take more bits"
    for below, above in pairwise(levels):
        if above - below < SMALLEST_GAP:
            message = f"levels ascend by at least {SMALLEST_GAP:g}, but {above:g} follows {below:g}"
            return message, "list them in ascending order, each once"
    if levels[-1] != 1:
        return f"the largest level is 1, got {levels[-1]:g}", f"divide all levels by {levels[-1]:g}"
    if levels[0] < lowest:
        kind = "an unsigned" if unsigned else "a signed"
        return (
            f"the smallest level of {kind} state is {lowest} or more, got {levels[0]:g}",
            "leave it out, or divide all levels",
        )
    return None
