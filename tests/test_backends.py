"""Every backend against the float64 reference, through `optgen verify`, for shipped specs and for mixes of storages."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

from optgen.build import build
from optgen.reference.cases import hyper_cases, late_cases, shape_cases
from optgen.reference.compare import compare
from optgen.reference.disguise import fitted
from optgen.verify import Outcome, imported
from tests.conftest import SHIPPED, interpreted

SPECS = sorted(SHIPPED)
# A compilation takes 10 to 90 seconds; OPTGEN_ALL=1 compiles every spec. Those of rules alone and their flags are in
# tests/contract/test_compile.py, reductions over rows in tests/test_rows.py.
COMPILED = ("nadam", "novograd", "stable_adam16", "adamw_8bit", "adamw_4bit", "solo_3bit")
# How parameters of other dtypes are read and written is the runtime's, the same for all of a kind: what they keep, and of what.
KINDS = (
    "sgd",
    "adamw",
    "lion",
    "novograd",
    "adafactor",
    "stable_adam16",
    "adamw_4bit_factor",
    "adamw_4bit_rank1",
    "adamw_8bit",
    "solo_3bit",
)


def verify(spec: str, *options: str) -> list[dict[str, Any]]:
    """The rows of `optgen verify`."""
    command = ("-m", "optgen.cli.main", "verify", spec, "--json", *options)
    return json.loads(interpreted(*command, status=(0, 1)))  # type: ignore[no-any-return]


def check(rows: list[dict[str, Any]], backends: set[str]) -> None:
    failed = [row for row in rows if not row.get("passed")]
    assert not failed, json.dumps(failed, indent=1)
    assert {row["backend"] for row in rows} == backends


def equal_the_reference(name: str, backend: str, steps: int) -> None:
    """Every shape and every side of each condition of a shipped spec, without other dtypes."""
    built = build(str(SHIPPED[name]))
    with imported(built) as optimizer_class:
        for rule, program in zip(built.spec.parts, built.programs, strict=True):
            for case in [*shape_cases(program, steps), *hyper_cases(program, steps), *late_cases(program, steps)]:
                taken = fitted(case, built.spec, rule)
                assert taken is not None
                difference = compare(optimizer_class, program, taken, backend=backend)
                assert Outcome(backend, taken, difference, 0.0).passed, (taken, difference)


@pytest.mark.parametrize("name", SPECS)
def test_torch_equals_the_reference(name: str) -> None:
    check(verify(str(SHIPPED[name]), "--backend", "torch"), {"torch"})


@pytest.mark.parametrize("name", SPECS)
def test_triton_equals_the_reference(name: str) -> None:
    """Every dtype of one optimizer of each kind; their codecs alone are those of all (and tests/test_codebooks.py has more)."""
    if name in KINDS or "OPTGEN_ALL" in os.environ:
        check(verify(str(SHIPPED[name]), "--backend", "triton"), {"triton"})
    else:
        interpreted("-c", f"from tests.test_backends import *; equal_the_reference({name!r}, 'triton', 2)")


@pytest.mark.parametrize("name", SPECS if "OPTGEN_ALL" in os.environ else COMPILED)
def test_compiled_torch_equals_the_reference(name: str) -> None:
    check(verify(str(SHIPPED[name]), "--backend", "compiled", "--quick"), {"compiled"})


MIXES = {
    "three_and_eight_bits": (
        "{codebook: dynamic_exponent, bits: 3, block: 64, rounding: stochastic}",
        "{codebook: log, bits: 8, block: 256, quantile: 0.05, rounding: stochastic}",
    ),
    "linear": (
        "{codebook: linear, bits: 2, block: 128, rounding: stochastic}",
        "{codebook: linear, bits: 4, block: 32}",
    ),
    "published_solo": (
        "{codebook: dynamic_exponent, bits: 4, block: 128, published: true}",
        "{codebook: log, bits: 3, block: 128, rounding: stochastic, published: true}",
    ),
    "one_state_only": ("float32", "{codebook: dynamic_exponent, bits: 2, block: 512, rounding: stochastic, min_ndim: 1}"),
    "rows_and_tensor": (
        "{codebook: dynamic_exponent, bits: 4, block: row}",
        "{codebook: e4m3, block: tensor, rounding: stochastic}",
    ),
    "published_rows": (
        "{codebook: dynamic_exponent, bits: 4, block: row, published: true}",
        "{codebook: log, bits: 3, block: 128, rounding: stochastic, published: true}",
    ),
    "rows_and_blocks": (
        "{codebook: companded, bits: 8, block: row}",
        "{codebook: log, bits: 4, block: 512, rounding: stochastic}",
    ),
    "two_conditions": (
        "{codebook: linear, bits: 8, block: 64, min_size: 100}",
        "{codebook: log, bits: 4, block: 64, min_size: 6000, quantile: 0.3}",
    ),
}


@pytest.mark.parametrize("name", MIXES)
def test_any_mix_of_storages_equals_the_reference(name: str, tmp_path: Path) -> None:
    m, v = MIXES[name]
    text = f"""
        name: Mixed
        summary: AdamW with other storages.
        extends: adamw
        hyper: {{amsgrad: }}
        state:
          m: {{storage: {m}}}
          v: {{storage: {v}}}
          x:
        update: |
          p = p*(1 - lr*weight_decay)
          m = ema(m, g, beta1)
          v = ema(v, g**2, beta2)
          p = p - lr*(m/(1 - beta1**t))/(sqrt(v/(1 - beta2**t)) + eps)
        """
    path = tmp_path / f"{name}.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    rows = verify(str(path), "--backend", "torch", "--backend", "triton", "--backend", "cpp", "--quick")
    check(rows, {"torch", "triton", "cpp"})
    assert sum(row["codes"] > 0 for row in rows) >= 6


def test_a_rule_that_never_reads_the_parameter() -> None:
    rows = verify(
        "examples/specs/average_solo.yaml", "--backend", "torch", "--backend", "triton", "--backend", "cpp", "--quick"
    )
    check(rows, {"torch", "triton", "cpp"})


def test_a_wide_state_that_hangs_on_a_flag(tmp_path: Path) -> None:
    """Where the flag is off, its sweeps have nothing to reduce."""
    path = tmp_path / "flagged.yaml"
    text = """
        name: Flagged
        summary: SGD whose momentum has a scale for each row.
        extends: sgd
        state:
          b: {storage: {codebook: linear, bits: 8, block: row}}
        """
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    rows = verify(str(path), "--backend", "torch", "--backend", "triton", "--backend", "cpp")
    check(rows, {"torch", "triton", "cpp"})
    assert {row["codes"] > 0 for row in rows} == {False, True}
