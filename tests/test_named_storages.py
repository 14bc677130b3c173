"""Storages by name: shipped, a spec's own, with options changed, inherited."""

from __future__ import annotations

from pathlib import Path

import pytest

from optgen.diagnostics import SpecError
from optgen.ir.nodes import Floats, State, Storage
from optgen.spec.load import load_program
from optgen.spec.show import spec_text

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


TABLE = "codebook: table, bits: 2, block: 32"


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        (
            "codebook: linear, bits: 4, block: 32, power: 2",
            "the linear codebook has no power; remove it, or use 'codebook: power'",
        ),
        ("codebook: e4m3, block: 32, zero: true", "the e4m3 codebook has no zero; remove it, or use 'codebook: linear' or"),
        ("codebook: e4m3, bits: 4, block: 32", "e4m3 codes cannot have 4 bits; take 8"),
        ("codebook: table, bits: 8, block: 32, levels: [0, 1]", "table codes cannot have 8 bits; take 1, 2, 3 or 4"),
        (
            "codebook: linear, bits: 1, block: 32, zero: true",
            "a signed code of 1 bit with zero has no other level; take 2 bits",
        ),
        ("codebook: power, bits: 4, block: 32, power: 4", "'power' is 2 or 3, got 4; 1 is 'codebook: linear'"),
        ("codebook: linear, bits: 4, block: 32, rounding: unbiased", "'unbiased' rounding is for log levels; write"),
        ("codebook: bfloat16, rounding: unbiased", "'rounding' cannot be 'unbiased'; "),
        (
            "codebook: linear, bits: 4, block: rows",
            "'block' is a whole number, 'row', 'tensor' or 'rank1', got 'rows'; 'block: 128' for",
        ),
        ("codebook: linear, bits: 4, block: 16", "'block' is a whole number from 32 to 2048, got 16"),
        ("codebook: log, bits: 4, block: row", "log levels need a quantile of each block, which a whole row has not; take"),
        (TABLE, "the table codebook needs the key 'levels'; add"),
        (f"{TABLE}, levels: [-1, 0, 0, 1]", "levels ascend by at least 1e-06, but 0 follows 0; list them"),
        (f"{TABLE}, levels: [-1, -0.5, 0, 0.5, 1]", "2-bit codes have 2 to 4 levels, got 5; list fewer"),
        (f"{TABLE}, levels: [-1, 0, 3]", "the largest level is 1, got 3; divide all levels by 3"),
        (f"{TABLE}, levels: [-2, 0, 1]", "the smallest level of a signed state is -1 or more, got -2"),
        (f"{TABLE}, levels: [one, 1]", "a level is a number, got 'one'"),
        (f"{TABLE}, levels: []", "'levels' is a list"),
    ],
)
def test_faults_of_options_are_told(storage: str, told: str, tmp_path: Path) -> None:
    found = faults(CHILD + f"state: {{m: {{storage: {{{storage}}}}}}}", tmp_path)
    assert any(fault.startswith(told) for fault in found), found


def test_options_are_read_and_shown(tmp_path: Path) -> None:
    text = "m: {storage: {codebook: table, bits: 2, block: 32, levels: [-1, 0.25, 1]}}, v: {storage: {codebook: power, bits: 4, block: 64, power: 3, zero: true}}, x: {storage: e4m3}"
    found = states(CHILD + f"state: {{{text}}}", tmp_path)
    assert found["m"].storage == Storage("table", 2, 32, levels=(-1.0, 0.25, 1.0), row=256)
    assert found["v"].storage == Storage("power", 4, 64, power=3, zero=True, row=256)
    assert found["x"].storage == Storage("e4m3", 8, 256)
    shown = spec_text(load_program(str(tmp_path / "child.yaml"))[0])
    again = states(shown, tmp_path, "again")
    assert {name: state.storage for name, state in again.items()} == {name: state.storage for name, state in found.items()}
