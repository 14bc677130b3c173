"""What users are told: every code with a bad spec and the exact text, and what holds for all diagnostics."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from optgen.cli.main import main
from optgen.diagnostics import Diagnostic, SpecError
from optgen.diagnostics.codes import load_codes
from optgen.diagnostics.render import render, render_all
from optgen.spec.check_rounding import rounding_warnings
from optgen.spec.load import load_programs
from tests.conftest import ROOT

BAD = ROOT / "tests" / "bad_specs"
BAD_SPECS = sorted(path for path in BAD.iterdir() if path.suffix in (".yaml", ".py"))
CODES = load_codes()
NOT_EXCERPTS = {"unreadable-file", "formula-too-long"}  # their examples are no excerpts of a spec
DEFAULTS = {"name": "name: Rule", "summary": "summary: A rule.", "update": "update: p = p - g"}


def faults(path: str | Path) -> tuple[Diagnostic, ...]:
    try:
        warnings = rounding_warnings(*load_programs(str(path)))
    except SpecError as error:
        return error.diagnostics
    assert warnings, "the spec has no fault"
    return warnings


def faults_of(text: str, folder: Path) -> tuple[Diagnostic, ...]:
    (folder / "rule.yaml").write_bytes(text.encode())
    return faults(folder / "rule.yaml")


def bad_spec(code: str) -> str:
    """The file of a code, in the folder of them all."""
    return next(path.name for path in BAD_SPECS if path.stem == code)


def check(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["check", *arguments])


@pytest.mark.parametrize("code", CODES)
def test_a_bad_spec_is_explained(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    found = faults(bad_spec(code))
    assert code in {d.code for d in found}
    text = render_all(found) + "\n"
    if "OPTGEN_UPDATE" in os.environ:
        Path(f"{code}.expected").write_text(text, encoding="utf-8")
    assert text == Path(f"{code}.expected").read_text(encoding="utf-8")


def test_every_code_has_an_entry_and_a_pair_and_is_used() -> None:
    used = {code for path in (ROOT / "optgen").rglob("*.py") for code in codes_in(ast.parse(path.read_text(encoding="utf-8")))}
    assert used == set(CODES)
    assert {path.stem for path in BAD_SPECS} == set(CODES)
    assert {path.stem for path in BAD.glob("*.expected")} == set(CODES)


def codes_in(tree: ast.AST) -> set[str]:
    """What stands as a code in a call that records a fault, or first in a tuple that becomes one."""
    arguments: list[ast.expr] = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="add" | "report"), args=args):
                arguments += args
            case ast.Tuple(elts=[first, _, _]):
                arguments.append(first)
            case ast.FunctionDef(args=ast.arguments(defaults=defaults)):
                arguments += defaults
    texts = [node.value for node in arguments if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {text for text in texts if re.fullmatch(r"[a-z]+(-[a-z]+)+", text)}


@pytest.mark.parametrize("code", sorted(CODES.keys() - NOT_EXCERPTS))
def test_examples_keep_their_word(code: str, tmp_path: Path) -> None:
    good = excerpt(CODES[code].good, tmp_path / "good")
    assert not rounding_warnings(*load_programs(str(good)))
    bad = excerpt(CODES[code].bad, tmp_path / "bad")
    assert code in {d.code for d in faults(bad)}


def excerpt(text: str, folder: Path) -> Path:
    """Write an example as a whole spec; `# name.yaml` begins a file of its own, of which the last is meant."""
    folder.mkdir()
    parts = re.split(r"^# (\w+\.(?:yaml|py))\n", text, flags=re.MULTILINE)
    files = {"rule.yaml": text} if len(parts) == 1 else dict(zip(parts[1::2], parts[2::2], strict=True))
    for name, content in files.items():
        missing = [line for key, line in DEFAULTS.items() if not re.search(rf"^{key}:", content, re.MULTILINE)]
        if re.search("^(extends|rules):", content, re.MULTILINE):
            missing = [line for line in missing if not line.startswith("update")]
        lines = [content] if name.endswith(".py") else [*missing, content]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder / name


def test_all_faults_come_in_the_order_of_the_file() -> None:
    for path in BAD_SPECS:
        found = [d for d in faults(path) if d.primary.span.source.path == str(path)]
        assert found == sorted(found, key=lambda d: d.primary.span.start)


def test_texts_read_well() -> None:
    """One sentence, no Python, a span on every fault."""
    for path in BAD_SPECS:
        for d in faults(path):
            assert not d.message.endswith("."), d.message
            assert "\n" not in d.message
            assert not re.search(r"\b(Traceback|None|ast|Symbol|Const|Ref|Kind)\b", d.message), d.message
            assert d.helps or d.notes or d.code in ("default-out-of-range", "wrong-type", "unknown-symbol"), d
            line = d.primary.span.source.line_column(d.primary.span.start)[0]
            assert line <= d.primary.span.source.text.count("\n") + 1


def test_check_prints_a_summary_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    result = check("unknown-key.yaml")
    assert result.exit_code == 1
    assert result.output.endswith("3 errors in unknown-key.yaml\n")
    assert check("storage-sign.yaml").output.endswith("1 error in storage-sign.yaml\n")
    assert check(str(ROOT / "specs" / "adamw.yaml")).exit_code == 0
    both = check("broken-parent.yaml").output
    assert both.endswith("2 errors in broken-parent.yaml and parents/not_yaml.yaml\n")


def test_json_has_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    for code in ("unknown-symbol", "name-clash", "storage-sign"):
        result = check("--json", f"{code}.yaml")
        assert result.exit_code == 1
        rows = json.loads(result.stdout)
        found = faults(f"{code}.yaml")
        assert [row["type"] for row in rows] == [d.code for d in found]
        assert [row["msg"] for row in rows] == [d.message for d in found]
        assert [f"{row['path']}:{row['line']}:{row['column']}" for row in rows] == [d.primary.span.location for d in found]
        assert [row["notes"] + row["helps"] for row in rows] == [[*d.notes, *d.helps] for d in found]
        assert [len(row["related"]) for row in rows] == [len(d.secondary) for d in found]
    assert json.loads(check("--json", str(ROOT / "specs" / "adamw.yaml")).stdout) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("update: p = p - zz", (3, 17)),
        ("hyper: {a: {default: 1, doc: 大きい}} # 🙂\nupdate: p = p - a*zz", (4, 19)),
        ("state: {m: {like: p, doc: 大🙂é, init: zz}}\nupdate: p = p - m", (3, 38)),
        ("update: |\n  p = p - g\n\n  # 大🙂é\n  p = (p -\n     zz)", (8, 6)),
        ("update: |2\n    # deeper\n  p = p - zz", (5, 11)),
        ("update: |-\n  p = p - zz", (4, 11)),
        ("update: |+ # note\n\n\n  p = p - zz\n\n", (6, 11)),
        ("hyper: {a: {default: '#é', choices: ['#é', b]}}\nupdate: |\n  if a == '#é' and zz > 1:\n    p = p - g", (5, 20)),
        ("update: |\r\n  p = p - g\r\n  p = p - zz", (5, 11)),
        ("update: |\r  p = p - g\r  p = p - zz", (5, 11)),
        ("update: |\n  p = p - g\n  p = p - 1 - \\\n    zz", (6, 5)),
        ("update: |\n  if t > 1:\n  \tp = p - zz", (5, 12)),
    ],
)
def test_columns_are_counted_in_characters(text: str, place: tuple[int, int], tmp_path: Path) -> None:
    found = faults_of(f"name: Rule\nsummary: A rule.\n{text}\n", tmp_path)
    spans = [d.primary.span for d in found if d.code == "unknown-symbol"]
    assert [(span.source.line_column(span.start), span.text) for span in spans] == [(place, "zz")]


def test_carets_stand_below_wide_characters(tmp_path: Path) -> None:
    text = render(faults_of("name: Rule\nsummary: A.\nstate: {m: {like: p, doc: 大é, init: zz}}\nupdate: p = m", tmp_path)[0])
    line, caret = text.split("\n")[3:5]
    cells = line[: line.index("zz")].replace("大", "xx")
    assert caret.index("^^") == len(cells)


def test_a_byte_order_mark_moves_no_column(tmp_path: Path) -> None:
    assert faults_of("\ufeffnme: X", tmp_path)[0].primary.span.location.endswith("rule.yaml:1:1")


def test_long_lines_are_cut_around_the_caret(tmp_path: Path) -> None:
    terms = " - ".join(["0.001*g"] * 50)
    found = faults_of(f"name: Rule\nsummary: A.\nupdate: p = p - zz - {terms}\n", tmp_path)
    assert max(map(len, render(found[0]).split("\n"))) < 130
    found = faults_of(f"name: Rule\nsummary: A.\nupdate: p = p - {terms} - zz\n", tmp_path)
    shown = render(found[0]).split("\n")
    assert shown[3][shown[4].index("^^") :].startswith("zz")


def test_one_fault_is_told_once(tmp_path: Path) -> None:
    """What follows from a fault is not reported."""
    head = "name: Rule\nsummary: A rule.\n"
    for text in (
        "hyper: {lr: {default: x}}\nupdate: p = p - lr*g",
        "hyper: {b: {default: [1, x], names: [b1, b2]}}\nupdate: p = p - b1*b2*g",
        "hyper: {Lr: {default: 0.1}}\nupdate: p = p - Lr*g",
        "state: {M: {like: p}}\nupdate: |\n  M = M + g\n  p = p - M",
        "update: |\n  d = gg\n  e = d + 1\n  if d > 1:\n    e = d\n  p = p - e",
        "hyper: {lambda: {default: 1}}\nupdate: p = p - lambda*g",
        "states: {m: {like: p}}\nupdate: |\n  m = m + g\n  p = p - m",
        "update: |\n  if qq > 1:\n    d = g\n  p = p - d",
        "update: |\n  Big = 2*g\n  p = p - Big",
        "update: |\n  d = e = g\n  p = p - d*e",
        "update: |\n  for i in g:\n    d = i\n  p = p - d",
        "update: |\n  d: real = g\n  p = p - d",
        "extends: nowhere\nstate: {m: {storage: {codebook: linear}}}",
    ):
        assert len(faults_of(head + text, tmp_path)) == 1, text


def test_a_mistyped_parent_is_the_only_fault(tmp_path: Path) -> None:
    found = faults_of("name: A\nsummary: x\nextend: adamw\nhyper:\n  amsgrad:\nupdate: |\n  p = p - lr*m\n", tmp_path)
    assert [fault.code for fault in found] == ["unknown-key"]
    assert found[0].helps == ("did you mean 'extends'?",)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (fault,) = faults_of("# nothing yet\n", tmp_path)
    assert "empty" in fault.message


def test_independent_faults_are_told_together(tmp_path: Path) -> None:
    text = """name: rule
hyper: {lr: {default: 0.1, mni: 0}}
state: {m: {like: q, init: ab}}
update: |
  m = m + cd*(1 - ef)/0
  if m > 0:
    p = p - gh
  p = p - clamp(1) - where(x, 2)
  p = p - (lerp(g.x)^m[0])
extra: 1
"""
    codes = [d.code for d in faults_of(text, tmp_path)]
    assert codes == [
        *("missing-key", "bad-name", "unknown-key", "bad-value", "unknown-symbol", "unknown-symbol", "unknown-symbol"),
        *("condition-per-element", "unknown-symbol", "wrong-arguments", "wrong-arguments"),
        *("unknown-function", "formula-forbidden", "formula-forbidden", "formula-forbidden", "unknown-key"),
    ]


YAML_SLIPS = {
    "hyper:\n\tlr: {default: 1}": ("2:1", "a tab cannot indent a line"),
    "update: |\n  d = g\n p = p - d": ("3:2", "this line is indented less than the block that it continues"),
    "update:\n  d = g\n  # half\n  p = p - d": ("1:1", "'update' has several lines and no '|'"),
    "update:\n  d = g\n  if t > 1:\n    d = p": ("1:1", "'update' has several lines and no '|'"),
    "hyper:\n  a: {default: 1}\n b: {default: 1}": ("3:2", "this line is indented like none above it"),
    "hyper:\n  a: {default: 1}\n   b: {default: 1}": ("3:4", "this line is indented like none above it"),
    "name: A\n summary: B": ("2:2", "this line is indented like none above it"),
    "state:\n  m: {like: p\n  v: {like: p}": ("2:6", "this '{' is never closed"),
    "state:\n  m: {like: p": ("2:6", "this '{' is never closed"),
    "hyper: {b: {default: [1, 2, names: [a, b]}}": ("1:22", "this '[' is never closed"),
    "hyper: {b: {default: 1}}}": ("1:25", "this '}' closes nothing"),
    "summary: Adam: whose": ("1:14", "a text with ': ' needs quotes"),
    "hyper: {a: {default: 1 min: 0}}": ("1:27", "a second ':' cannot stand in one entry"),
    "name:A\nsummary: B": ("1:5", "a space is missing behind this ':'"),
    "name A\nsummary: B": ("1:1", "this line is no 'key: value'"),
    "summary: 'abc": ("1:10", "this quote is never closed"),
    "summary: 'it's'": ("1:14", "text goes on behind the closing quote"),
    'summary: "a \\lambda"': ("1:13", "this backslash begins no escape"),
    "summary: @you": ("1:10", "a text cannot start with '@'"),
    "update: | p = p - g": ("1:11", "a block begins on the next line"),
}


@pytest.mark.parametrize("text", YAML_SLIPS)
def test_slips_in_yaml_are_told_in_words(text: str, tmp_path: Path) -> None:
    (fault,) = faults_of(text, tmp_path)
    place, message = YAML_SLIPS[text]
    assert (fault.code, fault.message) == ("yaml-syntax", message)
    assert fault.primary.span.location.endswith(f":{place}")


FORMULA_SLIPS = {
    "d = g\n    p = p - d": ("6:5", "indented more than the one above", "alike"),
    "if t > 1:\n      d = g\n    p = p - d": ("7:5", "this line is indented like none above it", "alike"),
    "if t > 1:\n  p = p - g": ("5:3", "nothing is indented under this 'if'", "indent the statements"),
    "p = p - 2*(t g)": ("5:15", "an operator is missing between 't' and 'g'", "x*y"),
    "p = p - (g) (p)": ("5:12", "unknown function 'g'", "x*y"),
    "p = p - 2 (p)": ("5:11", "this is no function", "x*y"),
    "p = p - 2g": ("5:11", "an operator is missing behind this number", "2*x"),
    "p = p - (g": ("5:11", "this '(' is never closed", "close it"),
    "p = p - g)": ("5:12", "this ')' closes nothing", "remove it"),
    "if t > 1\n    p = p - g": ("5:11", "a ':' is missing here", "if t > 1:"),
    "if t = 1:\n    p = p - g": ("5:6", "'=' assigns", "=="),
    "p - g = 1": ("5:3", "only a name can be assigned", "name = formula"),
    "p = p - g^2": ("5:12", "'^' cannot stand", "x**y"),
    "p = p - torch.sqrt(g)": ("5:11", "'.' cannot stand", "write sqrt(x)"),
    "p = p - g.pow(2)": ("5:11", "'.' cannot stand", "x**y"),
    "p = p - p.grad": ("5:11", "'.' cannot stand", "called g"),
    "p = p - betas[1]*b1*g": ("5:11", "an index cannot stand", "write 'b2'"),
    "p = p - lerp(g, p, 0.1)": ("5:11", "unknown function 'lerp'", "ema(x, y, beta)"),
    "p = p - norm(g)": ("5:11", "unknown function 'norm'", "written l2(x)"),
    "p = p - tanh(g)": ("5:11", "unknown function 'tanh'", "'sqrt', 'sum', 'where'"),
}


@pytest.mark.parametrize("text", FORMULA_SLIPS)
def test_slips_in_formulas_are_told_in_words(text: str, tmp_path: Path) -> None:
    head = "name: Rule\nsummary: A rule.\nhyper: {betas: {default: [0.5, 0.5], names: [b1, b2]}}"
    found = faults_of(f"{head}\nupdate: |\n  {text}\n", tmp_path)
    shown = "".join(render(d) + "\n" for d in found if d.code != "unused-hyper")
    place, message, help_text = FORMULA_SLIPS[text]
    assert f"rule.yaml:{place}\n" in shown and message in shown and help_text in shown, shown


def test_slips_in_values_are_told_with_a_way_out(tmp_path: Path) -> None:
    rest = "\nupdate: p = p - g"
    for text, said in (
        ('hyper: {a: {default: "1e-3"}}', "write 1e-3 without quotes"),
        ("hyper: {a: {default: null}}", "write a number; no default is empty"),
        ("hyper: {a: {default: lr}}", "list the words in 'choices'; what follows from others is computed in 'update'"),
        ("hyper: {a: {default: 1, doc: one, two}}", "put a text with a comma in quotes"),
        ("params: {a: {default: 1}}", "did you mean 'hyper'?"),
        (
            "state: {m: {like: p, storage: 8bit}}",
            "write '{codebook: dynamic_exponent, bits: 8, block: 128}', or a name: float32, bfloat16, ",
        ),
        ("state: {m: {like: p, save_as: exp_avg, init: exp_avg}}", "did you mean 'm', which is saved as 'exp_avg'?"),
        ("hyper: {f: {default: true}}\nstate: {m: {like: p, init: 2*f}}", "write where(f, 1, 0)"),
        ("hyper: {f: {default: a, choices: [a, b]}}\nstate: {m: {like: p, when: f}}", "as in 'f == \"a\"'"),
    ):
        shown = render_all(faults_of(f"name: Rule\nsummary: A.\n{text}{rest}", tmp_path))
        assert said in shown, shown


def test_a_missing_spec_is_told_without_an_excerpt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name, help_text in (
        ("adanw", "did you mean 'adamw' or 'adam' or 'nadam'?"),
        ("q.yaml", "name a file, or a spec that 'optgen list' shows"),
    ):
        lines = check(name).output.split("\n")
        assert lines[1:3] == [f" --> {name}", f"  = help: {help_text}"]


def test_what_a_child_gets_wrong(tmp_path: Path) -> None:
    """Faults between a spec and the one it extends are told where they can be mended."""
    head = "name: Rule\nsummary: A rule.\nextends: adamw\n"
    for text, place, said in (
        ("state:\n  x:", "5:3", "'x' is removed here, but what is inherited uses it"),
        ("hyper: {betas: null}", "4:9", "'beta1' is removed here, but what is inherited uses it"),
        ("state:", "4:1", "'m' is removed here, but what is inherited uses it"),
        ("state: {x: }\nupdate: p = p - x", "5:17", "'x' is removed by this spec"),
        ("state: {m: {doc: an average}, exp_avg_sq: {storage: float32}}", "4:31", "did you mean 'v'?"),
        ("hyper: {momentum: null}", "4:9", "write 'momentum: {default: 0.1}'"),
    ):
        found = faults_of(head + text, tmp_path)
        shown = render_all(found)
        assert f"rule.yaml:{place}\n" in shown and said in shown, shown
    shown = render(faults_of(f"{head}state: {{x: }}", tmp_path)[0])
    assert re.search(r"::: .*adamw.yaml:\d+:\d+\n", shown) and "- used here" in shown


def test_colour_only_where_it_is_wanted() -> None:
    command = [sys.executable, "-m", "optgen.cli.main", "check", str(BAD / "unknown-key.yaml")]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert b"\033[" not in done.stderr + done.stdout
    assert on_a_terminal(command, {}).count(b"\033[") > 3
    assert b"\033[" not in on_a_terminal(command, {"NO_COLOR": "1"})


def on_a_terminal(command: list[str], extra: dict[str, str]) -> bytes:
    """What `command` prints to a terminal."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **extra}
    subprocess.run(command, stderr=theirs, stdout=theirs, check=False, cwd=ROOT, env=environment)
    os.close(theirs)
    text = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            chunk = b""
        text += chunk
        if not chunk:
            os.close(ours)
            return text
