"""Specs in Python: the same Spec and the same diagnostics as from YAML, with the places where values were written."""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optgen import define
from optgen.build import build
from optgen.cli.main import main
from optgen.diagnostics import Diagnostics, SpecError
from optgen.ir.nodes import Program
from optgen.spec.fields import is_boolean, is_number
from optgen.spec.inherit import read_root
from optgen.spec.load import load_program, load_programs
from optgen.spec.yaml_nodes import Mapping, Node, Sequence, is_empty
from tests.conftest import SHIPPED
from tests.damaged_specs import damaged
from tests.fuzzing import try_spec

YAML = {name: path for name, path in SHIPPED.items() if path.suffix == ".yaml"}
HEAD = "from optgen import define\n"


def plain(node: Node) -> Any:
    """What a Python spec says where YAML has this node."""
    if isinstance(node, Mapping):
        return {key.text: plain(value) for key, value in node.entries}
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    if is_empty(node):
        return None
    if is_boolean(node):
        return node.text == "true"
    return ast.literal_eval(node.text) if is_number(node) else node.text


def keys_of(name: str) -> dict[str, Any]:
    root = read_root(str(SHIPPED[name]), Diagnostics())
    assert root is not None
    keys: dict[str, Any] = plain(root)
    return keys


def same_rule(program: Program) -> Program:
    """Without the spelling of the defaults, which is 1e-3 in the one and 0.001 in the other."""
    return replace(program, hypers=tuple(replace(hyper, text="") for hyper in program.hypers))


@pytest.mark.parametrize("name", YAML)
def test_the_same_keys_give_the_same_program(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    arguments = ", ".join(f"{key}={value!r}" for key, value in keys_of(name).items())
    path.write_text(f"{HEAD}define({arguments})\n", encoding="utf-8")
    programs = [load_programs(str(spec))[1] for spec in (path, SHIPPED[name])]
    assert list(map(same_rule, programs[0])) == list(map(same_rule, programs[1]))


def found(text: str, folder: Path, name: str = "rule.py") -> list[str]:
    """The faults of a Python spec, each with its place and the text that is underlined."""
    path = folder / name
    path.write_bytes(text.encode())
    with pytest.raises(SpecError) as caught:
        load_program(str(path))
    spans = [(d, d.primary.span) for d in caught.value.diagnostics]
    return [f"{span.location.removeprefix(f'{folder}/')} {d.code} {span.text}" for d, span in spans]


def test_faults_stand_where_values_were_written(tmp_path: Path) -> None:
    text = HEAD + (
        "rate = -1.0\n"
        "define(\n"
        '    name="Rule",\n'
        '    summary="é", hyper={"lr": {"default": rate, "min": 0}, "betas": {"default": [0.9, 1.5], "names": ["b1", "b2"], "below": 1}},\n'
        '    state=dict(m={"like": "p", "when": "momentun"}),\n'
        '    update="p = p - lr*b1*b2*m",\n'
        ")\n"
    )
    assert found(text, tmp_path) == [
        "rule.py:5:43 default-out-of-range rate",
        "rule.py:5:87 default-out-of-range 1.5",
        "rule.py:6:41 unknown-symbol momentun",
    ]


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_formulas_in_triple_quotes_have_their_places(line_break: str, tmp_path: Path) -> None:
    text = HEAD + (
        "def rule(name):\n"
        '    return define(name=name, summary="x", hyper={"lr": {"default": 0.1}}, update="""\n'
        "        d = lr*g\n"
        "\n"
        "        p = p - d  # é\n"
        "        q = dd\n"
        '    """)\n'
        'rule("Rule")\n'
    )
    places = found(text.replace("\n", line_break), tmp_path)
    assert places == ["rule.py:7:13 unknown-symbol dd"]


def test_a_computed_formula_is_shown_as_a_text_of_its_own(tmp_path: Path) -> None:
    text = HEAD + 'define(name="Rule", summary="x",\n  update="\\n".join(["d = g", "p = p - dd"]))\n'
    assert found(text, tmp_path) == ["rule.py:3 (computed):2:9 unknown-symbol dd"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ('update="p = p - g", sumary="x", summary="y"', "unknown-key sumary"),
        ('summary="x", update=["p = p - g"]', "wrong-type ["),
        ('summary="x", update=7', "formula-forbidden 7"),
        ('summary="x", update="p = p - g", hyper={"lr": {"default": "0.1"}}', 'wrong-type "0.1"'),
        ('summary="x", update="p = p - g", hyper={"lr": {"default": float("nan")}}', 'wrong-type float("nan")'),
        ('summary="x", update="p = p - g", hyper={1: {"default": 2}}', "wrong-type 1"),
        ('summary="x", update="p = p - g", hyper={"lr": {"default": 1j}}', "wrong-type 1j"),
        ('summary="x", update="p = p - g", hyper={"a": {"default": 1}, "a": {"default": 1}}', 'duplicate-key "a"'),
        ('summary="x", update="p = p - g", hyper={"a": {"default": 1}, **{"lr": 3}}', 'missing-key {"a"'),
        ('summary="x", update=""', 'wrong-type ""'),
        ('summary="x", update="p = p - g", state={"m": {"like": "p", "when": """a\nb"""}}', "formula-style"),
        ('summary="x", update="p = p - g", state=nest(30)', "yaml-too-deep nest(30)"),
        ('summary="x", update="p = p - g", state=loop', "yaml-too-deep loop"),
        ('summary="x", update="p = p - g", state={"m": {"like": "p", "when": many}}', "yaml-too-deep many"),
        ('summary="\\ud800", update="p = p - g"', 'bad-value "\\ud800"'),
    ],
)
def test_values_of_all_kinds_are_checked(keys: str, told: str, tmp_path: Path) -> None:
    helpers = (
        "loop = {}\nloop['m'] = loop\nmany = [[1] * 1000] * 1000\ndef nest(n):\n    return {'m': nest(n - 1)} if n else {}\n"
    )
    faults = found(f"{HEAD}{helpers}define(name='Rule', {keys})\n", tmp_path)
    assert any(told in fault for fault in faults), faults


def test_what_a_program_raises_is_told_at_its_line(tmp_path: Path) -> None:
    (tmp_path / "_deep.py").write_text("def fail():\n    raise KeyError('x' * 1000)\n", encoding="utf-8")
    assert found("import _deep\n\n_deep.fail()\n", tmp_path) == ["rule.py:3:1 python-failed _deep.fail()"]
    assert found("raise SystemExit\n", tmp_path) == ["rule.py:1:1 python-failed raise SystemExit"]
    assert found(f"{HEAD}define('Rule')\n", tmp_path) == ["rule.py:2:1 python-failed define('Rule')"]
    assert found("def f(): f()\nf()\n", tmp_path) == ["rule.py:1:1 python-failed def f(): f()"]
    assert found("(" * 300, tmp_path)[0].startswith("rule.py:1:")
    assert found("x = 1\n", tmp_path) == ["rule.py:1:1 python-definition x"]


def test_a_program_that_raises_what_cannot_be_printed(tmp_path: Path) -> None:
    text = "class Mute(Exception):\n    def __str__(self):\n        raise OSError\nraise Mute\n"
    assert found(text, tmp_path) == ["rule.py:4:1 python-failed raise Mute"]


def test_a_program_that_moves_away(tmp_path: Path) -> None:
    here = Path.cwd()
    text = f"import os\nos.chdir({str(tmp_path)!r})\n{HEAD}define(name='Rule', summary='x', extends='sgd', hyper={{'lr': {{'default': 'x'}}}})\n"
    assert found(text, tmp_path) == ["rule.py:4:74 wrong-type 'x'"]
    assert Path.cwd() == here


def test_modules_beside_a_spec_are_its_own(tmp_path: Path) -> None:
    for name, rate in (("one", 0.1), ("two", 0.2)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "_common.py").write_text(f"RATE = {rate}\n", encoding="utf-8")
        text = f"{HEAD}from _common import RATE\ndefine(name='Rule', summary='x', extends='sgd', hyper={{'lr': {{'default': RATE}}}})\n"
        (folder / "rule.py").write_text(text, encoding="utf-8")
        program = load_program(str(folder / "rule.py"))[1]
        assert program.hypers[0].default == rate
    assert "_common" not in sys.modules


def test_arrays_are_lists(tmp_path: Path) -> None:
    path = tmp_path / "rule.py"
    text = (
        "import numpy as np\n"
        + HEAD
        + (
            "define(name='Rule', summary='x', extends='lion', hyper={'lr': {'default': np.float32(0.5)}},\n"
            "  state={'m': {'storage': {'codebook': 'table', 'bits': 2, 'block': 64, 'levels': np.linspace(-1, 1, 4)}}})\n"
        )
    )
    path.write_text(text, encoding="utf-8")
    program = load_program(str(path))[1]
    assert program.hypers[0].default == 0.5
    assert program.states[0].storage is not None
    assert program.states[0].storage.levels[0] == -1


def test_what_it_prints_is_not_the_commands_output(tmp_path: Path) -> None:
    path = tmp_path / "rule.py"
    path.write_text(f"{HEAD}print('noise')\ndefine(name='Rule', summary='x', extends='sgd')\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["check", "--json", str(path)])
    assert json.loads(result.stdout) == []


def test_yaml_and_python_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: A\nsummary: x\nextends: solo_2bit\n", encoding="utf-8")
    (tmp_path / "b.py").write_text(f"{HEAD}define(name='B', summary='x', extends='a')\n", encoding="utf-8")
    (tmp_path / "c.yaml").write_text("name: C\nsummary: x\nextends: b.py\n", encoding="utf-8")
    solo, child = (load_program(str(path))[1] for path in (SHIPPED["solo_2bit"], tmp_path / "c.yaml"))
    assert replace(child, name=solo.name) == solo


def test_programs_that_lie_about_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "adamw.py"):
        Path(name).write_text("raise SystemExit('run')\n", encoding="utf-8")
    Path("child.yaml").write_text("name: Child\nsummary: x\nextends: train\n", encoding="utf-8")
    run = CliRunner().invoke
    assert "unreadable-file" in run(main, ["check", "train"]).output
    assert "there is no spec 'train' to extend" in run(main, ["check", "child.yaml"]).output
    assert run(main, ["check", "adamw"]).exit_code == 0
    assert "train" not in run(main, ["list", "."]).output
    assert "this raised SystemExit: run" in run(main, ["check", "train.py"]).output


def test_a_definition_of_a_session_can_be_built() -> None:
    definition = define(name="Mine", summary="Mine.", extends="lion", state={"m": {"storage": "int4"}})
    assert "class Mine" in build(definition).files["__init__.py"]
    with pytest.raises(SpecError) as caught:
        build(define(name="Mine", summary="Mine.", extends="lion", state={"m": {"storage": "int5"}}))
    (fault,) = caught.value.diagnostics
    assert fault.primary.span.location.startswith(f"{__file__}:")
    assert fault.primary.span.text == '"int5"'


def test_without_a_file_the_place_is_bare() -> None:
    space: dict[str, Any] = {"define": define}
    exec(compile('made = define(name="Mine", summary="x", update="p = p - gg")', "<cell>", "exec"), space)
    with pytest.raises(SpecError) as caught:
        load_program(space["made"])
    (fault,) = caught.value.diagnostics
    assert fault.primary.span.text == "gg"
    assert fault.primary.span.location == "<cell>:1 (computed):1:9"


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), name=st.sampled_from(["adamw", "solo", "nadam"]))
def test_damaged_programs(seed: int, name: str, tmp_path: Path) -> None:
    arguments = ",\n".join(f"{key}={value!r}" for key, value in keys_of(name).items())
    path = tmp_path / "rule.py"
    path.write_bytes(damaged(f"{HEAD}define({arguments})\n", seed))
    try_spec(path)
