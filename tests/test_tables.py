"""Tables of functions: the cells of step functions, their entries, and what a kernel makes of them; which values have a sign."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from optgen.backends.triton.tables import MOST_ENTRIES, Cells, cells
from optgen.build import build
from optgen.ir.nodes import Function, Steps, Storage, Values
from optgen.ir.signs import Signs
from optgen.reference.evaluate import call
from optgen.runtime.tables import StepTable, ValueTable, tabulated
from optgen.storage.codebooks import CODEBOOKS
from optgen.storage.codec import build_functions
from tests.conftest import SHIPPED
from tests.every_codebook import BLOCK, fixed_levels

CPU = torch.device("cpu")
ALL = [*fixed_levels(), (Storage("log", 2, BLOCK), True)]
NAMES = [f"{s.codebook}-{s.bits}-{s.power}-{s.zero}-{len(s.levels)}-{unsigned}" for s, unsigned in ALL]


class Tabled:
    """A function of a codec, as the torch backend has it: of tensors."""

    def __init__(self, function: Function, every: dict[str, Function]) -> None:
        self.function, self.every = function, every
        self.__name__ = function.name

    def __call__(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.array(call(self.function, [x.numpy()], self.every)))


def step_at(entries: np.ndarray, y: np.ndarray, grid: Cells, signed: bool) -> np.ndarray:
    """What the kernel computes."""
    size = np.maximum((np.abs(y) if signed else np.maximum(y, np.float32(0))).view(np.int32), grid.low)
    sign = np.where(y.view(np.int32) < 0, -1, 0).astype(np.int32) if signed else np.zeros_like(size)
    if not signed:
        return (entries[(size >> grid.shift) - (grid.low >> grid.shift)] + size) >> grid.shift
    place = (size & ((grid.count << grid.shift) - 1)) ^ sign
    return (entries[(place >> grid.shift) + grid.count] + place) >> grid.shift


def near(borders: np.ndarray) -> np.ndarray:
    """The floats next to each border, within (-1, 1)."""
    around = [borders]
    for _ in range(4):
        around = [np.nextafter(around[0], np.float32(-2)), *around, np.nextafter(around[-1], np.float32(2))]
    found = np.concatenate(around)
    return found[np.abs(found) <= 1]


@pytest.mark.parametrize(("storage", "unsigned"), ALL, ids=NAMES)
def test_tables_have_the_values_of_their_functions(storage: Storage, unsigned: bool) -> None:
    """Exactly: at every integer, next to every border, and at many other floats."""
    generator = np.random.default_rng(0)
    for rounding in ("nearest", "stochastic"):
        functions = build_functions(CODEBOOKS[storage.codebook].codec(replace(storage, rounding=rounding), unsigned), "x")
        every = {function.name: function for function in functions}
        for function in functions:
            tabled = Tabled(function, every)
            if isinstance(function.table, Values):
                count = function.table.count
                entries = tabulated((ValueTable(tabled, count),), CPU)
                expected = tabled(torch.arange(count, dtype=torch.int32))
                assert torch.equal(entries.view(torch.float32) if expected.is_floating_point() else entries, expected)
            elif isinstance(function.table, Steps) and (grid := cells(function.table)):
                signed = function.table.borders[0] < 0
                entries = tabulated((StepTable(tabled, grid.shift, grid.low, grid.count, signed),), CPU).numpy()
                borders = np.array(function.table.borders, np.float32)
                y = np.concatenate([near(borders), np.float32([0, 1, 1e-30, 1e-45, 0.5]), generator.random(4000, np.float32)])
                y = np.concatenate([y, 2 ** (-40 * generator.random(4000, np.float32))])
                y = np.concatenate([y, -y]) if signed or function.name == "nearest_code_x" else np.abs(y)
                assert np.array_equal(step_at(entries, y, grid, signed), tabled(torch.from_numpy(y)).numpy())


def test_which_codebooks_are_looked_up() -> None:
    """A border at zero, or too many of them, leaves the formula."""
    assert cells(Steps((-0.5, 0.5))) == Cells(23, 124 << 23, 4)
    assert cells(Steps((-0.5, 0.0, 0.5))) is None
    dense = tuple(float(x) for x in np.linspace(0.5, 1, 2 * MOST_ENTRIES))
    assert cells(Steps(dense)) is None
    functions = {
        bits: build_functions(CODEBOOKS["dynamic_exponent"].codec(Storage("dynamic_exponent", bits, BLOCK), False), "x")
        for bits in (4, 8)
    }
    found = {bits: next(f for f in built if f.name == "nearest_code_x").table for bits, built in functions.items()}
    assert all(isinstance(table, Steps) and cells(table) for table in found.values())


def test_a_cell_with_two_borders_is_refused() -> None:
    with pytest.raises(AssertionError, match="two borders"):
        tabulated((StepTable(lambda y: (y * 100).to(torch.int32), 23, 120 << 23, 8, False),), CPU)


@pytest.mark.parametrize(
    ("name", "positive", "any_sign"),
    [
        ("adamw", {"eps", "lr", "t", "x", "v", "one_minus_beta2"}, {"p", "g", "m", "one_minus_lr_weight_decay"}),
        ("solo", {"v"}, {"p", "g", "m"}),
        ("adamax", {"u"}, {"p", "g", "m"}),
        ("lion", {"lr"}, {"p", "g", "m", "u"}),
    ],
)
def test_which_names_are_never_negative(name: str, positive: set[str], any_sign: set[str]) -> None:
    found = Signs(build(str(SHIPPED[name])).plan.rules[0].program)
    assert not any_sign & found.nonnegative
    assert positive <= found.nonnegative
    assert found.shares <= found.nonnegative


def test_a_division_by_what_may_be_negative_stays_one(tmp_path: Path) -> None:
    head = "name: Odd\nsummary: Odd.\nhyper: {lr: {default: 0.1}, eps: {default: 1e-8, min: 0}}\nupdate: |\n"
    for divisor, is_known in (("sqrt(g*g)", True), ("abs(g)", True), ("g", False), ("max(g, 0)", True), ("min(g, 0)", False)):
        path = tmp_path / "odd.yaml"
        path.write_text(f"{head}  p = p - lr*g/({divisor} + eps)\n", encoding="utf-8")
        assert ("divide(" in build(str(path)).files["triton_backend.py"]) == is_known, divisor
