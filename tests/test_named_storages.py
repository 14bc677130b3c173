"""Storages by name: shipped, a spec's own, with options changed, inherited."""

from __future__ import annotations

from pathlib import Path

import pytest

from optgen.diagnostics import SpecError
from optgen.ir.nodes import Floats, State, Storage
from optgen.spec.lower import load_program

CHILD = "name: Child\nsummary: x\nextends: adamw\n"


def states(text: str, folder: Path, name: str = "child") -> dict[str, State]:
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return {state.name: state for state in load_program(str(folder / f"{name}.yaml"))[1].states}


def faults(text: str, folder: Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        states(text, folder)
    return [f"{d.message}; {' '.join(d.helps)}" for d in caught.value.diagnostics]


def test_a_name_is_what_it_stands_for(tmp_path: Path) -> None:
    found = states(CHILD + "state: {m: {storage: int4}, v: {storage: log2}, x: {storage: bfloat16_stochastic}}", tmp_path)
    assert found["m"].storage == Storage("dynamic_exponent", 4, 128)
    assert found["v"].storage == Storage("log", 2, 128, "stochastic", 0.1)
    assert found["x"].floats == Floats("bfloat16", "stochastic")


def test_options_can_be_changed(tmp_path: Path) -> None:
    found = states(CHILD + "state: {m: {storage: {use: int4, block: 64, rounding: stochastic}}}", tmp_path)
    assert found["m"].storage == Storage("dynamic_exponent", 4, 64, "stochastic")


def test_own_names_are_inherited_and_replaced(tmp_path: Path) -> None:
    own = "storages: {fine: {codebook: linear, bits: 8, block: 32}, int4: {codebook: linear, bits: 4, block: 32}}\n"
    found = states(CHILD + own + "state: {m: {storage: fine}, v: {storage: int4}}", tmp_path)
    assert found["m"].storage == Storage("linear", 8, 32)
    assert found["v"].storage == Storage("linear", 4, 32)
    changed = "name: Grandchild\nsummary: x\nextends: child\nstorages: {fine: {bits: 2}}\nstate: {x: {storage: fine}}"
    found = states(changed, tmp_path, "grandchild")
    assert found["m"].storage == found["x"].storage == Storage("linear", 2, 32)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("state: {m: {storage: int5}}", "'storage' cannot be 'int5'; write"),
        ("state: {m: {storage: {use: int44}}}", "there is no storage 'int44'; did you mean 'int4'"),
        ("state: {m: {storage: {use: [int4]}}}", "'use' is the name of a storage; expected one of"),
        ("state: {m: {storage: {use: bfloat16, bits: 8}}}", "bfloat16 values have no 'bits'; remove it"),
        ("storages: {fine: int8}\nstate: {m: {storage: fine}}", "the storage 'fine' is a mapping"),
        ("storages: [int8]", "'storages' is a mapping"),
        ("storages: {fine: {codebook: linear}}\nstate: {m: {storage: fine}}", "the storage of 'm' needs the key 'bits'"),
        ("state: {m: {storage: {use: uint4, codebook: log}}}", "the log codebook needs an unsigned state"),
    ],
)
def test_faults_are_told(text: str, told: str, tmp_path: Path) -> None:
    found = faults(CHILD + text, tmp_path)
    assert any(fault.startswith(told) for fault in found), found
