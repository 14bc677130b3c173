"""Where the blocks of a parameter lie, from its global shape alone. Needs nothing but the standard library.

Elements are taken in logical order. Trailing dimensions are merged until a row has at least one block; each row is
padded to whole blocks, so that no block straddles two rows and a shard of leading dimensions is a shard of codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["WHOLE", "Codes", "Shard", "frame", "lines_shape", "matrices", "row_shape", "vector_shape", "view_shape"]


class Shard(NamedTuple):
    """Where the elements of a shard lie: its element i is element `start + i + i // run * gap` of the whole parameter."""

    start: int = 0
    run: int = 1
    gap: int = 0

    @property
    def is_regular(self) -> bool:
        """Whether four elements from a multiple of four are four such elements of the whole parameter too."""
        return self.start % 4 == 0 and self.gap == 0


WHOLE = Shard()


def row_shape(shape: Sequence[int], least: int) -> tuple[tuple[int, ...], int]:
    """Leading dimensions and row length of a parameter of this shape, if a row is to have at least so many elements."""
    split, length = len(shape), 1
    while split > 0 and length < least:
        split -= 1
        length *= shape[split]
    return tuple(shape[:split]), length


def matrices(shape: Sequence[int]) -> tuple[int, int, int]:
    """A parameter of two or more dimensions as a stack of matrices: how many, their rows and their columns."""
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def frame(shape: Sequence[int], over: str) -> tuple[int, int, int]:
    """The matrices, rows and columns that a pass sees of a parameter of this shape.

    One over the "element"s sees them as they are. One over each "row", "col" or "matrix" sees a matrix of such, whose rows are
    the matrices of the parameter.
    """
    count, rows, cols = matrices(shape)
    return {"element": (count, rows, cols), "row": (1, count, rows), "col": (1, count, cols), "matrix": (1, 1, count)}[over]


def view_shape(shape: Sequence[int], cut: str, size: int) -> tuple[int, ...]:
    """A parameter of this shape as a rule sees it that cuts it.

    Matrices are cut into such of so many "rows", or each row into a matrix whose rows have so many "cols"; of a "matrix" the first
    dimension is the rows, and all others are columns.
    """
    if cut == "matrix":
        return shape[0], math.prod(shape[1:])
    if cut == "cols":
        return (*shape[:-1], shape[-1] // size, size)
    return (*shape[:-2], shape[-2] // size, size, shape[-1])


def vector_shape(shape: str, of: Sequence[int]) -> tuple[int, ...]:
    """The shape "[..., rows, 1]", "[..., 1, cols]" or "[..., 1, 1]" for a parameter of this shape."""
    return (*of[:-2], of[-2] if "rows" in shape else 1, of[-1] if "cols" in shape else 1)


def lines_shape(shape: str, of: Sequence[int]) -> tuple[int, int]:
    """Such a tensor as a pass over its numbers sees it, and as its codes lie: a line for each matrix, or one of all matrices."""
    return frame(of, {"[..., rows, 1]": "row", "[..., 1, cols]": "col", "[..., 1, 1]": "matrix"}[shape])[1:]


@dataclass(frozen=True)
class Codes:
    """How a state is kept as codes: `bits` per element, blocks of `block`, the names of the saved scalars.

    A scalar is one for each "block", "row" or the whole "tensor", as `scope` says, or ("rank1") of an element the smaller one
    of those of its row and its column. Rows have at least `row` elements, if
    there are as many: the largest block of an optimizer's states, so that all of them have the same rows. A parameter is
    stored so if it has at least `min_ndim` dimensions, `min_size` elements and one whole block. For a rule that knows rows and
    columns (`grid`) the last dimension must have so many elements as a row. What is said of elements holds for the numbers of a
    state of another `shape`, "[..., rows, 1]" or its kind, and for their lines what is said of rows.
    """

    bits: int
    block: int
    scalars: tuple[str, ...]
    min_size: int = 4096
    min_ndim: int = 2
    scope: str = "block"
    row: int = 0  # or the block, if that is larger
    grid: bool = False
    shape: str = ""

    def elements(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what is coded, of a parameter of this shape."""
        return lines_shape(self.shape, shape) if self.shape else tuple(shape)

    def applies_to(self, shape: Sequence[int]) -> bool:
        """Whether a parameter of this global shape is stored as codes."""
        if len(shape) < self.min_ndim:
            return False
        elements = self.elements(shape)
        return math.prod(elements) >= max(self.min_size, self.block) and not self._is_narrow(elements)

    def _is_narrow(self, elements: Sequence[int]) -> bool:
        return self.grid and elements[-1] < self.least_row

    def reason(self, shape: Sequence[int]) -> str:
        """Why a parameter of this shape is stored as codes or not."""
        if len(shape) < self.min_ndim:
            return f"{len(shape)} dimensions < {self.min_ndim}"
        elements, (what, line) = self.elements(shape), ("numbers", "lines") if self.shape else ("elements", "rows")
        size = math.prod(elements)
        if size < max(self.min_size, self.block):
            return f"{size} {what} < {max(self.min_size, self.block)}"
        if self._is_narrow(elements):
            return f"{line} of {elements[-1]} {what} < {self.least_row}"
        return f"{len(shape)} dimensions, {size} {what}"

    @property
    def least_row(self) -> int:
        """How many elements a row has at least, if there are as many."""
        return max(self.row, self.block)

    def row_shape(self, shape: Sequence[int]) -> tuple[tuple[int, ...], int]:
        """Leading dimensions and row length of a parameter of this shape."""
        return row_shape(self.elements(shape), self.least_row)

    def blocks_per_row(self, shape: Sequence[int]) -> int:
        """Blocks of one row, the last one padded."""
        return -(-self.row_shape(shape)[1] // self.block)

    def codes_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the uint8 tensor of packed codes: (leading dimensions..., bytes per row)."""
        return (*self.row_shape(shape)[0], self.blocks_per_row(shape) * self.block * self.bits // 8)

    def scalars_shape(self, shape: Sequence[int], name: str = "") -> tuple[int, ...]:
        """Shape of a float32 tensor of scalars: (leading dimensions..., blocks per row), (leading..., 1) or (1,).

        Of the scope "rank1" the scales of rows are shaped (leading..., rows, 1), those of columns (leading..., 1, columns).
        """
        if self.scope == "tensor":
            return (1,)
        if self.scope == "rank1":
            return vector_shape("[..., 1, cols]" if name == "col_scale" else "[..., rows, 1]", shape)
        return (*self.row_shape(shape)[0], self.blocks_per_row(shape) if self.scope == "block" else 1)

    def nbytes(self, shape: Sequence[int]) -> int:
        """Bytes of codes and scalars."""
        return math.prod(self.codes_shape(shape)) + 4 * sum(math.prod(self.scalars_shape(shape, x)) for x in self.scalars)
