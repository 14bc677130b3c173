"""Any storage on any rule with any parameters: each cell is a spec of its own, held to the float64 reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optgen.build import build
from optgen.reference.compare import Case, compare
from optgen.reference.tolerances import TOLERANCES
from optgen.spec.load import load_program
from optgen.verify import imported
from tests.conftest import ROOT

RULES = ("sgd", "adamw", "stable_adam16", "lion", "adagrad", "rmsprop", "adamax", "nadam", "agd")
STORAGES = {
    "float32": "float32",
    "bfloat16": "{codebook: bfloat16, rounding: stochastic}",
    "float16": "float16",
    "8 bits": "{codebook: dynamic_exponent, bits: 8, block: 256}",
    "4 bits": "{codebook: dynamic_exponent, bits: 4, block: 128}",
    "3 bits": "{codebook: linear, bits: 3, block: 64, rounding: stochastic}",
    "2 bits": "{codebook: dynamic_exponent, bits: 2, block: 32}",
    "log": "{codebook: log, bits: 3, block: 128, rounding: unbiased}",
    "companded": "{codebook: companded, bits: 8, block: row}",
    "e4m3": "{codebook: e4m3, block: tensor, rounding: stochastic}",
}
FOR_SIGNED = {"log": STORAGES["4 bits"]}  # log levels have no sign
PARAMETERS = (
    Case("float32", ((16, 256), (9, 263), (33,)), torch.float32, 3),
    Case("bfloat16", ((16, 256), (9, 263), (33,)), torch.bfloat16, 3, {"low_precision": "stochastic"}),
    Case("bfloat16 with corrections", ((16, 256), (9, 263), (33,)), torch.bfloat16, 3, {"low_precision": "correction16"}),
)
# SGD with its state. Not RMSprop with momentum, whose first step is 10 for every element: float32 noise decides then
# which is the largest. AGD's difference of two corrected means is that noise where the gradient stays the same.
HYPERS = {"sgd": {"momentum": 0.9}, "agd": {"amsgrad": True, "delta": 0.1}}


def spec(rule: str, storage: str, folder: Path) -> Path:
    """A spec of `rule` with every state stored like this."""
    states = [state for state in load_program(str(ROOT / "specs" / f"{rule}.yaml"))[1].states if not state.scalar]
    chosen = {s.name: STORAGES[storage] if s.unsigned else FOR_SIGNED.get(storage, STORAGES[storage]) for s in states}
    lines = ["name: Cell", "summary: A cell of the matrix.", f"extends: {rule}", "state:"]
    path = folder / "cell.yaml"
    path.write_text("\n".join([*lines, *(f"  {name}: {{storage: {how}}}" for name, how in chosen.items())]), encoding="utf-8")
    return path


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("rule", RULES)
def test_every_cell_equals_the_reference(rule: str, storage: str, tmp_path: Path) -> None:
    built = build(str(spec(rule, storage, tmp_path)))
    with imported(built) as optimizer_class:
        for case in PARAMETERS:
            given = {**HYPERS.get(rule, {}), **case.hypers}
            cell = Case(case.name, case.shapes, case.dtype, case.steps, given)
            difference = compare(optimizer_class, built.program, cell, backend="torch")
            assert difference.passes(TOLERANCES[str(case.dtype).removeprefix("torch.")]), (case.name, difference)
