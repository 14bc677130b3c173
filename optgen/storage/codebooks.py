"""The codebooks by name, and the checks that all of them share. Adding one is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import median

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import State, Storage
from optgen.runtime.layout import Codes
from optgen.storage.codec import Codebook
from optgen.storage.dynamic_exponent import DynamicExponent
from optgen.storage.linear import Linear
from optgen.storage.log import Log

__all__ = ["CODEBOOKS", "check_sizes", "check_storage", "half_gap", "saved_scalars", "state_codes"]

CODEBOOKS: dict[str, Codebook] = {"dynamic_exponent": DynamicExponent(), "linear": Linear(), "log": Log()}
BITS = (2, 3, 4, 8)


def check_sizes(bits: int | None, block: int | None, spans: Mapping[str, Span], found: Diagnostics) -> bool:
    """Report bits and a block that no codebook has; of None nothing is said."""
    before = len(found)
    if bits is not None and bits not in BITS:
        found.add("bad-value", f"codes cannot have {bits} bits", spans["bits"], help="codes have 2, 3, 4 or 8 bits")
    if block is not None and block & (block - 1):
        smaller = 2 ** (block.bit_length() - 1)
        help_text = f"take a power of two, {smaller} or {2 * smaller}"
        found.add("bad-value", f"a block cannot have {block} elements", spans["block"], help=help_text)
    return len(found) == before


def check_storage(storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
    """Report options that cannot be honoured."""
    possible = check_sizes(storage.bits, storage.block, spans, found)
    if storage.quantile is not None and storage.codebook != "log":
        help_text = "remove it, or use 'codebook: log'"
        found.add("bad-value", f"the {storage.codebook} codebook has no quantile", spans["quantile"], help=help_text)
    if possible:
        CODEBOOKS[storage.codebook].check(storage, unsigned, spans, found)


def half_gap(storage: Storage, unsigned: bool) -> float | None:
    """Median of half the distances between neighbouring levels on a scale of 1; None if the levels are not fixed."""
    levels = CODEBOOKS[storage.codebook].levels(storage, unsigned)
    if levels is None:
        return None
    return float(median((high - low) / 2 for low, high in pairwise(levels)))


def state_codes(state: State) -> Codes | None:
    """How a state is laid out as codes; None if it is stored as one float per element."""
    s = state.storage
    if s is None:
        return None
    return Codes(s.bits, s.block, saved_scalars(s, state.unsigned), s.min_size, s.min_ndim)


def saved_scalars(storage: Storage, unsigned: bool) -> tuple[str, ...]:
    """The block scalars that are kept beside the codes, each one float32 per block."""
    codec = CODEBOOKS[storage.codebook].codec(storage, unsigned)
    return tuple(scalar.name for scalar in codec.scalars if scalar.saved)
