"""The passes: before and after, as their docstrings promise, and the verifier between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from optgen.ir.nodes import Assign, Op, Program, Ref
from optgen.ir.text import statements
from optgen.ir.verify import IRError, verify
from optgen.passes import PASSES, run_passes
from optgen.passes.pipeline import trace
from optgen.spec.load import load_program, load_programs
from tests.conftest import SHIPPED

HEAD = """name: Rule
summary: A rule.
hyper: {lr: {default: 0.1}, mu: {default: 0.9, min: 0, below: 1}, eps: {default: 1e-8}, flag: {default: false}}
state: {m: {like: p}, v: {like: p, sign: unsigned}}
update: |
"""
KEEP = "  m = m + flag_part\n"


def program(tmp_path: Path, update: str) -> Program:
    """The program of an update; what it does not use is used in a last line."""
    path = tmp_path / "rule.yaml"
    used = "  if flag:\n    m = m*mu + eps*v*lr\n  v = v + m\n  p = p - v\n"
    path.write_text(HEAD + "".join(f"  {line}\n" for line in update.split("\n")) + used, encoding="utf-8")
    return load_program(str(path))[1]


def lines(program: Program, after: str, part: str = "body") -> list[str]:
    """The statements after a pass, less the change of sign for `maximize` and the closing lines."""
    made = run_passes(program, after)
    return [line for line in statements(getattr(made, part)) if line not in ("if maximize:", "  g = -g")]


CASES = [
    ("expand-words", "p = ema(m, g, mu)", ["p = mu * m + (1 - mu) * g"]),
    ("expand-words", "p = clamp(g, -lr, lr)", ["p = min(max(g, -lr), lr)"]),
    ("select-branches", "if t == 1:\n  m = g\nelse:\n  m = mu*m + g", ["t_is_1 = t == 1", "m = where(t_is_1, g, mu * m + g)"]),
    ("select-branches", "if t > 5:\n  m = g", ["t_above_5 = t > 5", "m = where(t_above_5, g, m)"]),
    ("fold-constants", "p = g**(2*0.5 + 1)*(3 - 1)", ["p = g ** 2 * 2"]),
    ("expand-powers", "p = g**2 + g**3 + g**0.5 + g**-1", ["p = square(g) + square(g) * g + sqrt(g) + 1.0 / g"]),
    ("expand-powers", "p = (g - m)**2", ["g_minus_m = g - m", "p = square(g_minus_m)"]),
    ("expand-powers", "p = g**mu", ["p = exp(mu * log(g))"]),
    ("fold-scalar-factors", "p = p - lr*(m/(1 - mu**t))/(g + eps)", ["p = p - lr / (1 - mu ** t) * m / (g + eps)"]),
    ("fold-scalar-factors", "p = sqrt(g**2/(1 - mu**t)) + eps", ["p = sqrt(1 / (1 - mu ** t)) * sqrt(square(g)) + eps"]),
    ("fold-scalar-factors", "p = sqrt(lr*g**2) + sqrt(m*mu)", ["p = sqrt(lr * square(g)) + sqrt(m * mu)"]),
    ("fold-scalar-factors", "p = g/mu*2*m/lr", ["p = g * (1 / mu * 2 / lr) * m"]),
    (
        "fold-scalar-factors",
        "p = rms(p)*g*rms(m)/max(1, rms(g))",
        ["p = sqrt(all_mean(square(p))) * sqrt(all_mean(square(m))) / max(1, sqrt(all_mean(square(g)))) * g"],
    ),
    (  # what may be zero, or nearly, divides each element: its inverse could be infinite, and zero times that is NaN
        "fold-scalar-factors",
        "a = sum(g, over=cols)\np = g*a/max(a, eps)/max(a, 0)/sum(m)",
        ["a = cols_sum(g)", "p = g * a / max(a, eps) / max(a, 0) / all_sum(m)"],
    ),
    ("hoist-scalars", "p = p*(1 - lr*mu)", ["p = p * one_minus_lr_mu"]),
    (
        "number-conditions",
        "up = mean(g, over=cols) > lr\nm = where(up, g, m)",
        ["cols_mean_g = cols_mean(g)", "up = where(cols_mean_g > lr, 1.0, 0.0)", "m = where(up != 0.0, g, m)"],
    ),
    ("share-subexpressions", "m = sqrt(g)*g\nv = sqrt(g)", ["sqrt_g = sqrt(g)", "m = sqrt_g * g", "v = sqrt_g"]),
    ("share-subexpressions", "v = sqrt(m)\nm = g\nv = v + sqrt(m)", ["v = sqrt(m)", "m = g", "v = v + sqrt(m)"]),
]


@pytest.mark.parametrize(("after", "update", "expected"), CASES)
def test_pass(after: str, update: str, expected: list[str], tmp_path: Path) -> None:
    assert lines(program(tmp_path, update), after)[: len(expected)] == expected


def test_hoisted_scalars_are_shared_and_named(tmp_path: Path) -> None:
    made = program(tmp_path, "p = p*(1 - lr*mu)\nm = m*(1 - lr*mu)/(1 - mu**t)")
    host = lines(made, "hoist-scalars", "host")
    assert "one_minus_lr_mu = 1 - lr * mu" in host
    assert any(line.startswith("one_minus_lr_mu_over_bias_correction_mu = ") for line in host)


def test_dead_locals_go(tmp_path: Path) -> None:
    made = run_passes(program(tmp_path, "p = p*(1 - lr*mu)"))
    read = {node for s in (*made.host, *made.body) for node in str(s.value).split("'")}
    for statement in made.host:
        assert statement.target in read


def test_every_pass_of_every_shipped_spec_keeps_the_law() -> None:
    for path in SHIPPED.values():
        for made in load_programs(str(path))[1]:
            assert [name for name, _ in trace(made)] == [p.name for p in PASSES]


def test_the_verifier_names_the_pass_that_broke_the_law(tmp_path: Path) -> None:
    made = run_passes(program(tmp_path, "p = p - lr*g"))
    bad = [
        Assign("p", Ref("nobody")),
        Assign("p", Op("pow", (Ref("p"), Ref("lr")))),
        Assign("p", Op("mul", (Ref("p"), Op("mul", (Ref("lr"), Ref("mu")))))),
        Assign("stranger", Ref("p")),
    ]
    for statement in bad:
        with pytest.raises(IRError, match="after pass 'my-pass'"):
            verify(replace(made, body=(*made.body, statement)), "my-pass", "hoisted")
