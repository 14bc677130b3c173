"""Tables of functions of one number, for kernels that look values up: made from the torch form of the same function.

A function of small integers is its list of values. A step function of floats, an integer that grows by one at each of its
borders, is looked up in cells: the numbers from `low` to 1 whose bit patterns agree but for the lowest `shift` bits share a
cell, and no cell has more than one border. With `size` the bit pattern of |y|, at least `low`, the entry of its cell makes

    f(y) = (entry + size) >> shift               of a function without a sign,
    f(y) = (entry + (size - low)) >> shift       of one with a sign, for y >= 0,
    f(y) = (entry + ~(size - low)) >> shift      of one with a sign, for y < 0,

because the entry holds the value of the cell's first number above `shift` bits that run over, or under, at the border.
`low` is a multiple of the cells' whole width, so that size - low are the lower bits of size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["StepTable", "ValueTable", "tabulated"]


class ValueTable(NamedTuple):
    """The values of `function`, of int32 tensors, at 0 to `entries` - 1; that is a power of two."""

    function: Callable[[Tensor], Tensor]
    entries: int


class StepTable(NamedTuple):
    """The cells of `function`, of float32 tensors; `entries`, a power of two, of either sign, from -1 to 1."""

    function: Callable[[Tensor], Tensor]
    shift: int
    low: int
    entries: int
    signed: bool


@functools.lru_cache(maxsize=256)
def tabulated(tables: tuple[ValueTable | StepTable, ...], device: torch.device) -> Tensor:
    """All tables, one behind another: int32 (entries,)."""
    parts = [_values(table) if isinstance(table, ValueTable) else _steps(table) for table in tables]
    return torch.cat(parts).to(device)


def _values(table: ValueTable) -> Tensor:
    values = table.function(torch.arange(table.entries, dtype=torch.int32, device="cpu"))
    return values.to(torch.float32).view(torch.int32) if values.is_floating_point() else values.to(torch.int32)


def _steps(table: StepTable) -> Tensor:
    positive = _half(table, negative=False)
    if not table.signed:
        return positive
    return torch.cat([_half(table, negative=True).flip(0) - table.low, positive + table.low])


def _half(table: StepTable, *, negative: bool) -> Tensor:
    """The entries for the numbers of one sign."""
    width = 1 << table.shift

    def value(size: Tensor) -> Tensor:
        y = size.to(torch.int32).view(torch.float32).clamp(max=1.0)
        return table.function(-y if negative else y).to(torch.int64)

    one = torch.tensor(1.0).view(torch.int32).item()
    used = min(table.entries, (int(one) - table.low >> table.shift) + 1)
    start = table.low + width * torch.arange(used, dtype=torch.int64, device="cpu")
    first, last = value(start), value(start + width - 1)
    if not torch.all((last - first == 0) | (last - first == (-1 if negative else 1))):
        raise AssertionError(f"a cell of the table of {table.function.__name__} has two borders")
    below, above = start, start + width - 1  # of the border: value(above) is last
    for _ in range(table.shift):
        middle = (below + above) // 2
        reached = value(middle) == last
        below, above = torch.where(reached, below, middle), torch.where(reached, middle, above)
    room = torch.where(first == last, width if negative else 0, above - start if negative else width - (above - start))
    entries = (first << table.shift) + room + (start if negative else -start)
    return torch.nn.functional.pad(entries, (0, table.entries - used)).to(torch.int32)
