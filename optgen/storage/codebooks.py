"""The codebooks by name, and the checks that all of them share. Adding one is a file and a line here."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median

from optgen.diagnostics import Diagnostics, Span
from optgen.ir.nodes import VECTORS, State, Storage
from optgen.runtime.layout import Codes
from optgen.storage.codec import Codebook, Codec
from optgen.storage.companded import Companded
from optgen.storage.dynamic_exponent import DynamicExponent
from optgen.storage.float8 import Float8
from optgen.storage.linear import Linear
from optgen.storage.log import Log
from optgen.storage.power import Power
from optgen.storage.table import Table

__all__ = [
    "CODEBOOKS",
    "RANK1",
    "check_sizes",
    "check_storage",
    "codec_of",
    "half_gap",
    "levels_in_words",
    "saved_scalars",
    "state_codes",
]

CODEBOOKS: dict[str, Codebook] = {
    "dynamic_exponent": DynamicExponent(),
    "linear": Linear(),
    "log": Log(),
    "power": Power(),
    "companded": Companded(),
    "e4m3": Float8(3, 7, 126, "floats of 8 bits: sign, 4 bits of exponent, 3 of mantissa"),
    "e5m2": Float8(2, 15, 123, "floats of 8 bits: sign, 5 bits of exponent, 2 of mantissa"),
    "table": Table(),
}
BITS = (1, 2, 3, 4, 8)
OPTIONS = tuple(sorted({option for codebook in CODEBOOKS.values() for option in codebook.options}))


def check_sizes(bits: int | None, block: int | None, spans: Mapping[str, Span], found: Diagnostics) -> bool:
    """Report bits and a block that no codebook has; of None nothing is said."""
    before = len(found)
    if bits is not None and bits not in BITS:
        found.add("bad-value", f"codes cannot have {bits} bits", spans["bits"], help=f"codes have {in_words(BITS)} bits")
    if block is not None and block & (block - 1):
        smaller = 2 ** (block.bit_length() - 1)
        help_text = f"take a power of two, {smaller} or {2 * smaller}"
        found.add("bad-value", f"a block cannot have {block} elements", spans["block"], help=help_text)
    return len(found) == before


def check_storage(storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
    """Report options that cannot be honoured."""
    codebook, name = CODEBOOKS[storage.codebook], storage.codebook
    possible = check_sizes(storage.bits, storage.block, spans, found)
    if possible and storage.bits not in codebook.bits:
        help_text = f"take {in_words(codebook.bits)}"
        found.add("bad-value", f"{name} codes cannot have {storage.bits} bits", spans["bits"], help=help_text)
        possible = False
    for option in OPTIONS:
        if option in spans and option not in codebook.options:
            others = " or ".join(f"'codebook: {other}'" for other, known in CODEBOOKS.items() if option in known.options)
            found.add("bad-value", f"the {name} codebook has no {option}", spans[option], help=f"remove it, or use {others}")
            possible = False
    if storage.rounding == "unbiased" and name != "log":
        help_text = "write 'rounding: stochastic', which is unbiased in this codebook"
        found.add("bad-value", "'unbiased' rounding is for log levels", spans["rounding"], help=help_text)
        possible = False
    if possible:
        codebook.check(storage, unsigned, spans, found)


def in_words(numbers: Sequence[int]) -> str:
    """`1, 2 or 3`."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


@functools.cache
def codec_of(storage: Storage, unsigned: bool) -> Codec:
    """The lowered form of a storage, made once: its tables take a while, and every read and write of the reference asks."""
    return CODEBOOKS[storage.codebook].codec(storage, unsigned)


@functools.cache
def half_gap(storage: Storage, unsigned: bool) -> float | None:
    """Median of half the distances between neighbouring levels on a scale of 1; None if the levels are not fixed."""
    levels = CODEBOOKS[storage.codebook].levels(storage, unsigned)
    if levels is None:
        return None
    return float(median((high - low) / 2 for low, high in pairwise(levels)))


def levels_in_words(storage: Storage, unsigned: bool) -> str:
    """What the codes of a storage stand for: two storages with the same words decode alike."""
    words = ["unsigned" if unsigned else "signed", storage.codebook]
    words += [str(storage.power or 2)] if storage.codebook == "power" else []
    words += [repr(level) for level in storage.levels]
    return " ".join([*words, "with zero"] if storage.zero else words)


RANK1 = ("row_scale", "col_scale")


def state_codes(state: State) -> Codes | None:
    """How a state is laid out as codes; None if it is stored as one float per element."""
    s = state.storage
    if s is None:
        return None
    shape = state.shape if state.domain in VECTORS else ""
    return Codes(s.bits, s.block, saved_scalars(s, state.unsigned), s.min_size, s.min_ndim, s.scope, s.row, s.grid, shape)


def saved_scalars(storage: Storage, unsigned: bool) -> tuple[str, ...]:
    """The scalars that are kept beside the codes, each one float32 per block, row or tensor; of "rank1", per row and column."""
    if storage.scope == "rank1":
        return RANK1
    codec = codec_of(storage, unsigned)
    return tuple(scalar.name for scalar in codec.scalars if scalar.saved)
