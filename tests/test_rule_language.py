"""`rules` in specs: names, conditions, other specs as rules and their arguments, inheritance, Python; and the commands."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from optgen import define, optimizer_class
from optgen.build import build
from optgen.cli.main import main
from optgen.diagnostics import Diagnostics, Source, SpecError
from optgen.ir.formula import FormulaText
from optgen.runtime.rules import Parameter
from optgen.spec.conditions import parse_condition
from optgen.spec.load import load_programs
from optgen.spec.model import Spec
from optgen.spec.show import spec_text
from tests.contract.rows import run, same, values
from tests.rule_specs import MIXED, OWN

HEAD = """
name: Small
summary: Two rules.
hyper: {lr: {default: 1e-2}}
"""


def write(folder: Path, text: str, name: str = "small") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


def read(folder: Path, text: str) -> Spec:
    return load_programs(write(folder, HEAD + textwrap.dedent(text)))[0]


def faults(folder: Path, text: str, head: str = HEAD) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_programs(write(folder, head + textwrap.dedent(text)))
    return [d.message for d in caught.value.diagnostics]


def arguments(spec: Spec) -> dict[str, str]:
    return {hyper.name: hyper.text for hyper in spec.hypers}


# ---- conditions


@pytest.mark.parametrize(
    ("text", "code", "yes", "no"),
    [
        ("ndim >= 2", "p.ndim >= 2", (3, 4), (3,)),
        ("1 <= ndim < 3", "1 <= p.ndim < 3", (3, 4), ()),
        ("numel > 1e2", "p.numel > 100", (11, 10), (10, 10)),
        ("size(rows) < size(cols)", "p.size(-2) < p.size(-1)", (9, 3, 4), (9, 4, 3)),
        ("size(rows) == 1 and size(0) != 4", "p.size(-2) == 1 and p.size(0) != 4", (5,), (4,)),
        ("not (ndim == 2 or ndim == 3)", "not (p.ndim == 2 or p.ndim == 3)", (4,), (4, 4)),
        ("(ndim == 1 or ndim == 2) and numel >= 8", "(p.ndim == 1 or p.ndim == 2) and p.numel >= 8", (8,), (2, 2, 2)),
        ("ndim == 1 or ndim == 2 and numel >= 8", "p.ndim == 1 or p.ndim == 2 and p.numel >= 8", (1,), (2, 2)),
    ],
)
def test_conditions_ask_for_shapes(text: str, code: str, yes: tuple[int, ...], no: tuple[int, ...]) -> None:
    found = Diagnostics()
    condition = parse_condition(FormulaText(Source("x", text), text, (0,)), found)
    assert condition is not None and not len(found)
    for shape, expected in ((yes, True), (no, False)):
        p = Parameter(None, shape)
        assert condition.holds(p) is expected
        assert eval(condition.code, {"p": p}) is expected
    assert condition.code == code


def test_conditions_ask_for_names_and_tags() -> None:
    text = 'named("*.bias", "norm[12]") or tagged("head") and not tagged("tied", "frozen")'
    condition = parse_condition(FormulaText(Source("x", text), text, (0,)), Diagnostics())
    assert condition is not None
    asked = [("a.bias", ()), ("norm2", ("tied",)), ("w", ("head",)), ("norm3", ()), ("A.BIAS", ()), ("w", ("head", "tied"))]
    for given in (condition.holds, lambda p: eval(condition.code, {"p": p})):
        assert [given(Parameter(name, (1,), frozenset(tags))) for name, tags in asked] == [True] * 3 + [False] * 3
    assert condition.asked("tagged") == ("head", "tied", "frozen")


# ---- names and arguments


def test_names_of_rules_and_of_their_kernels(tmp_path: Path) -> None:
    text = """
    rules:
      - when: ndim == 3
        update: p = p - lr*g
      - when: ndim == 2
        name: matrix
        state: {m: {like: p, storage: {use: int8, min_size: 0}}}
        update: |
          m = 0.9*m + g
          p = p - lr*m
      - when: ndim == 1
        use: solo_2bit.py
      - otherwise:
          state: {m: {like: p, storage: {use: int4, min_size: 0}}}
          update: |
            m = 0.5*m + g
            p = p - lr*m
    """
    built = build(write(tmp_path, HEAD + textwrap.dedent(text)))
    assert [rule.name for rule in built.spec.rules] == ["rule_1", "matrix", "solo_2bit", "otherwise"]
    assert [rule.when for rule in built.spec.rules] == ["ndim == 3", "ndim == 2", "ndim == 1", "otherwise"]
    names = [kernel.name for kernel in built.plan.kernels]
    assert names[:3] == ["update_rule_1", "update_matrix", "update_matrix_coded"]
    assert names[-2:] == ["update_otherwise", "update_otherwise_coded"]
    functions = [[f.name for f in kernel.functions] for kernel in built.plan.kernels]
    assert all(name.endswith("_matrix") for name in functions[2])
    assert all(name.endswith("_otherwise") for name in functions[-1])
    assert {"decode_m_matrix", "decode_m_otherwise"} <= {*functions[2], *functions[-1]}


def test_arguments_of_a_used_spec(tmp_path: Path) -> None:
    """`lr` is shared without being asked, for schedulers set no other; the rest gets the rule's name in front."""
    spec = read(tmp_path, "rules: [{when: ndim == 2, update: p = p - lr*g}, {otherwise: adamw}]")
    assert list(arguments(spec)) == ["lr", "adamw_betas", "adamw_eps", "adamw_weight_decay", "adamw_amsgrad"]
    spec = read(tmp_path, "rules: [{when: ndim == 2, update: p = p - lr*g}, {otherwise: adamw, name: rest, hyper: {lr: {default: 3e-4}}}]")  # fmt: skip
    assert list(arguments(spec)) == ["lr", "rest_lr", "rest_betas", "rest_eps", "rest_weight_decay", "rest_amsgrad"]
    assert arguments(spec)["rest_lr"] == "3e-4"
    text = """
    name: Shared
    summary: Betas of its own names.
    hyper: {rate: {default: 1e-2}, decays: {default: [0.8, 0.9], names: [b1, b2]}, big: {default: true}}
    rules:
      - when: ndim == 2 and numel > 4
        update: |
          if big:
            p = p - rate*b1*g
          else:
            p = p - b2*g
      - otherwise: adamw
        hyper: {lr: rate, betas: decays, amsgrad: big}
    """
    path = write(tmp_path, text)
    spec, programs = load_programs(path)
    assert list(arguments(spec)) == ["rate", "decays", "big", "adamw_eps", "adamw_weight_decay"]
    assert "m = ema(m, g, b1)" in spec.rules[1].spec.update_text
    assert programs[0].flags.keys() == programs[1].flags.keys() == {"big", "maximize"}
    params = [nn.Parameter(torch.randn(7)) for _ in range(2)]
    params[1].data.copy_(params[0].data)
    ours = optimizer_class(path)(params[:1], backend="torch")  # type: ignore[call-arg]
    twin = torch.optim.AdamW(params[1:], lr=1e-2, betas=(0.8, 0.9), amsgrad=True)
    for optimizer in (ours, twin):
        run(optimizer, range(5))
    torch.testing.assert_close(params[0], params[1], rtol=1e-6, atol=1e-6)


def test_flags_of_one_name_in_two_rules(tmp_path: Path) -> None:
    """A hyperparameter of two used specs gives each a condition of its own."""
    text = """
    rules:
      - when: ndim == 2
        use: sgd
        hyper: {weight_decay: {default: 0.1}}
      - when: ndim == 1
        use: sgd
        name: vectors
        hyper: {momentum: {default: 0.9}}
      - otherwise: adamw
    """
    built = build(write(tmp_path, HEAD + textwrap.dedent(text)))
    conditions = built.plan.flags
    for rule in built.plan.rules:
        assert all(conditions[name] == condition for name, condition in rule.program.flags.items())
    cls = optimizer_class(tmp_path / "small.yaml")
    params = [nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(()))]
    optimizer: Any = cls(params, vectors_nesterov=True)  # type: ignore[call-arg]
    run(optimizer, range(2))
    assert [set(optimizer.state[p]) - {"step"} for p in params] == [set(), {"momentum_buffer"}, {"exp_avg", "exp_avg_sq"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{when: ndim > 1, update: p = p - g}]", "hyperparameter 'lr' has no effect"),
        ("rules: []", "'rules' is a list, '[a, b]', got a list"),
        ("rules: adamw", "'rules' is a list, '[a, b]', got 'adamw'"),
        ("rules: [{otherwise: adamw, hyper: {betas: lr}}]", "'lr' and the 'betas' of the used spec are not of one kind"),
        ("rules: [{otherwise: small.yaml}]", "a spec cannot use itself"),
        ("rules: [{otherwise: lion, name: coded}]", "'coded' cannot be the name of a rule"),
        ("rules: [{otherwise: lion, name: a_very_long_name_of_a_rule}]", "'a_very_long_name_of_a_rule' cannot be the name of a rule"),
        ("rules: [{otherwise: [lion]}]", "'use' is the name of a spec"),
        ("rules: [{when: ndim > 1, state: {m: {like: p}}, update: p = p - lr*g}]", "state 'm' is never assigned in 'update'"),
        ("rules: [{when: ndim > 1, update: p = p - lr*momentum*g}]", "unknown symbol 'momentum'"),
        ("rules: [{when: ndim > 1, update: p = p - lr*g}]\nupdate: p = p - lr*g", "a spec with rules has no 'update' of its own"),
    ],
)  # fmt: skip
def test_faults(text: str, message: str, tmp_path: Path) -> None:
    assert message in faults(tmp_path, text)


def test_names_that_clash(tmp_path: Path) -> None:
    head = "name: Small\nsummary: x\nhyper: {lr: {default: 1}, adamw_eps: {default: 1}}\n"
    rules = "rules: [{when: ndim > 1, update: p = p - lr*adamw_eps*g}, {otherwise: adamw}]"
    assert faults(tmp_path, rules, head) == ["the argument 'adamw_eps', for 'eps' of 'adamw', is declared already"]
    write(
        tmp_path,
        "name: Other\nsummary: x\nhyper: {eps: {default: 1}}\nupdate: |\n  other_eps = eps*g\n  p = p - other_eps",
        "other",
    )
    rules = "rules: [{when: ndim > 1, update: p = p - lr*g}, {otherwise: other}]"
    assert faults(tmp_path, rules) == ["'eps' of 'other' cannot be called 'other_eps', which has another meaning there"]


def test_arguments_of_two_used_specs_that_clash(tmp_path: Path) -> None:
    for name, hyper in (("one", "b_x"), ("two", "x")):
        write(tmp_path, f"name: Used\nsummary: x\nhyper: {{{hyper}: {{default: 1}}}}\nupdate: p = p - {hyper}*g", name)
    rules = """
    rules:
      - {when: ndim == 2, use: one, name: a}
      - {when: ndim == 1, use: two, name: a_b}
      - {otherwise: , update: p = p - lr*g}
    """
    assert faults(tmp_path, rules) == ["the argument 'a_b_x', for 'x' of 'two', is declared already"]


def test_a_spec_with_rules_is_no_rule(tmp_path: Path) -> None:
    write(tmp_path, MIXED, "mixed")
    message = "'mixed.yaml' has rules itself, and only one rule can be used"
    assert faults(tmp_path, "rules: [{when: ndim > 1, update: p = p - lr*g}, {otherwise: mixed}]") == [message]
    write(tmp_path, "extends: small\nname: Child\nsummary: x\n", "child")  # which uses its own parent
    rules = "rules: [{when: ndim > 1, update: p = p - lr*g}, {otherwise: child}]"
    assert faults(tmp_path, rules) == ["a spec cannot extend itself"]


# ---- inheritance


def test_a_child_changes_rules_by_name(tmp_path: Path) -> None:
    write(tmp_path, MIXED, "mixed")
    text = """
    name: Child
    summary: Its momentum in 8 bits, its AdamW in 4, another decay.
    extends: mixed
    hyper: {weight_decay: {default: 0.2}}
    rules:
      - name: adamw
        use: adamw_4bit
        hyper: {betas: {default: [0.5, 0.6]}}
      - name: matrix
        state: {m: {storage: int8}}
    """
    spec, programs = load_programs(write(tmp_path, text, "child"))
    assert [(rule.name, rule.uses) for rule in spec.rules] == [("matrix", ""), ("adamw", "adamw_4bit")]
    assert spec.rules[0].when == 'ndim >= 2 and not tagged("embedding", "head")'
    assert [[s.storage and s.storage.bits for s in program.states] for program in programs] == [[8], [4, 4, 4]]
    assert arguments(spec)["weight_decay"] == "0.2"
    assert arguments(spec)["adamw_betas"] == "(0.5, 0.6)"
    assert "adamw_weight_decay" not in arguments(spec)  # still shared


def test_a_child_with_conditions_replaces_the_rules(tmp_path: Path) -> None:
    write(tmp_path, MIXED, "mixed")
    text = """
    name: Child
    summary: Lion for all.
    extends: mixed
    hyper: {momentum: , weight_decay: }
    rules:
      - otherwise: lion
    """
    spec, _ = load_programs(write(tmp_path, text, "child"))
    assert [rule.name for rule in spec.rules] == ["lion"]
    text = "name: Child\nsummary: x\nextends: mixed\nrules: [{name: matrices, update: p = p - lr*g}]"
    assert faults(tmp_path, text, "") == ["no rule that is inherited is called 'matrices'"]
    text = "name: Child\nsummary: x\nextends: mixed\nrules: [{update: p = p - lr*g}]"
    assert faults(tmp_path, text, "") == ["this rule has no condition, and no name of a rule to change"]
    text = "name: Child\nsummary: x\nextends: mixed\nupdate: p = p - lr*g"
    assert "a spec with rules has no 'update' of its own" in faults(tmp_path, text, "")
    text = "name: Child\nsummary: x\nextends: mixed\nhyper: {momentum: , weight_decay: }\nrules:\nupdate: p = p - lr*g"
    assert load_programs(write(tmp_path, text, "child"))[0].rules == ()


def test_an_inherited_rule_finds_its_spec_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "parents").mkdir()
    write(tmp_path / "parents", "name: Near\nsummary: x\nextends: lion\nhyper: {lr: {default: 0.7}}", "near")
    write(tmp_path / "parents", HEAD + "rules: [{when: ndim > 1, update: p = p - lr*g}, {otherwise: near}]", "base")
    path = write(tmp_path, "name: Child\nsummary: x\nextends: parents/base", "child")
    assert [rule.uses for rule in load_programs(path)[0].rules] == ["", "near"]


def test_another_storage_for_the_rules_that_have_the_state(tmp_path: Path) -> None:
    cls = optimizer_class(write(tmp_path, OWN), storage={"m": "int4"})
    coded = {rule.name: [state.codes.bits for state in rule.states if state.codes] for rule in cls.description.rules}
    assert coded == {"rule_1": [], "wide": [4], "otherwise": [4]}


# ---- Python, and what is shown


def test_a_spec_in_python(tmp_path: Path) -> None:
    matrix = {"when": "ndim >= 2", "state": {"m": {"like": "p"}}, "update": "m = 0.9*m + g\np = p - lr*m"}
    keys = {"name": "Small", "summary": "Two rules.", "hyper": {"lr": {"default": 0.01}}}
    by_python = optimizer_class(
        define(**keys, rules=[matrix, {"otherwise": "lion", "hyper": {"betas": {"default": [0.5, 0.6]}}}])
    )
    text = """
    rules:
      - when: ndim >= 2
        state: {m: {like: p}}
        update: |
          m = 0.9*m + g
          p = p - lr*m
      - otherwise: lion
        hyper: {betas: {default: [0.5, 0.6]}}
    """
    by_yaml = optimizer_class(write(tmp_path, HEAD + textwrap.dedent(text)))
    results = []
    for cls in (by_python, by_yaml):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape)) for shape in ((3, 4), (5,))]
        run(cls(params), range(3))  # type: ignore[call-arg]
        results.append(values(params))
    assert same(*results)
    bare = define(
        **keys, rules=[{"when": "ndim >= 2", "update": "p = p - lr*g"}, {"otherwise": None, "update": "p = p + lr*g"}]
    )
    assert [rule.when for rule in load_programs(bare)[0].rules] == ["ndim >= 2", "otherwise"]


@pytest.mark.parametrize("text", [MIXED, OWN], ids=["mixed", "own"])
def test_the_shown_spec_means_the_same(text: str, tmp_path: Path) -> None:
    spec, programs = load_programs(write(tmp_path, text))
    again, same_programs = load_programs(write(tmp_path, spec_text(spec), "again"))
    assert again.hypers == spec.hypers
    assert [(r.name, r.when, r.uses, r.shared) for r in again.rules] == [(r.name, r.when, r.uses, r.shared) for r in spec.rules]
    assert same_programs == programs


def command(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, MIXED, "mixed")
    write(tmp_path, OWN, "own")
    assert "mixed.yaml: ok" in command("check", "mixed.yaml", "own.yaml")
    shown = command("show", "mixed.yaml", "--stage", "ir")
    assert 'rule matrix, ndim >= 2 and not tagged("embedding", "head")' in shown and "rule adamw, otherwise" in shown
    assert shown.index("program Mixed") < shown.index("program AdamW")
    planned = command("show", "own.yaml", "--stage", "plan")
    assert [line.strip() for line in planned.split("\n") if line.startswith("  rule")] == [
        "rule rule_1",
        "rule wide",
        "rule otherwise",
    ]
    (row,) = [row for row in json.loads(command("list", ".", "--json")) if row["spec"] == "mixed"]
    assert row["states"] == "matrix: m float32; adamw: m float32, v float32"
    found = json.loads(command("diff", "mixed.yaml", "own.yaml", "--json"))
    assert {state["name"] for state in found["states"]} >= {"matrix.momentum_buffer", "adamw.exp_avg", "wide.m"}
    assert found["moved_by_matrices"][0] == 2 + 2 + 2 + 8 and found["moved_by_vectors"][0] == 2 + 2 + 2 + 16
    shapes = {"a.weight": [4, 64], "a.bias": [64], "b.weight": [8, 4]}
    (tmp_path / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
    counted = json.loads(command("memory", "own.yaml", "--model", "shapes.json", "--json"))
    assert [s["parts"]["codes"] for s in counted["shapes"]] == [4 * 64, 0, 0]
    assert [s["parts"]["floats"] for s in counted["shapes"]] == [0, 0, 2 * 8 * 4]
    write(tmp_path, MIXED.split("  - otherwise")[0], "some")
    result = CliRunner().invoke(main, ["memory", "some.yaml", "--model", "shapes.json"])
    assert "Mixed: no rule updates 'a.bias' of shape (64,)" in result.output
