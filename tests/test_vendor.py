"""`optgen build --vendor`: one file a class, which does what the package does where optgen is not installed."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner

from optgen.build import build
from optgen.cli.main import main
from optgen.vendor import vendor
from optgen.vendor.modules import read_module
from optgen.vendor.references import references
from tests.conftest import ROOT, SHIPPED, interpreted

OWN = {"torch", "triton"}
WIDE = """
    name: Wide
    summary: AdamW with wide scales, which need several sweeps.
    extends: adamw
    state:
      m: {storage: {codebook: dynamic_exponent, bits: 8, block: row}}
      v: {storage: {codebook: e4m3, block: tensor}}
"""


def write(name: str, folder: Path) -> str:
    """A shipped class as a file; its text."""
    text = vendor(build(str(SHIPPED[name])))
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return text


def test_all_are_whole_and_clean(tmp_path: Path) -> None:
    for name in SHIPPED:
        tree = ast.parse(write(name, tmp_path))
        foreign = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "."]
                foreign |= {name.split(".")[0] for name in names}
        # of optgen the interpreter's repairs, where they can be had
        assert foreign - OWN - set(sys.stdlib_module_names) == {"optgen"}, name
        own = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and "optgen" in (n.module or "")]
        assert own == ["optgen.runtime.interpreter"], name
        classes = {n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
        assert classes.isdisjoint({"Lion", "Adam", "SGD"}) or name in ("lion", "adam", "sgd"), name
    for command in (["check", "--select", "E9,F,I"], ["format", "--check"]):
        options = ["--isolated", "--line-length", "110", "--target-version", "py311", str(tmp_path)]
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def trained(folder: Path, module: str, cls: str, backend: str, blocked: str) -> str:
    script = str(ROOT / "tests" / "vendored_process.py")
    return interpreted(script, str(folder), module, cls, backend, blocked).strip()


@pytest.mark.parametrize(("name", "cls"), [("sgd", "SGD"), ("solo", "Solo"), ("lion_8bit", "Lion8bit")])
def test_it_computes_the_same_bits_without_optgen(name: str, cls: str, tmp_path: Path) -> None:
    write(name, tmp_path)
    for backend, blocked in (("torch", "optgen,triton"), ("triton", "optgen"), ("cpp", "optgen,triton")):
        expected = trained(ROOT, f"optgen.generated.{name}", cls, backend, "")
        assert trained(tmp_path, name, cls, backend, blocked) == expected


def test_kernels_of_several_sweeps(tmp_path: Path) -> None:
    path = tmp_path / "wide_spec.yaml"
    path.write_text(textwrap.dedent(WIDE), encoding="utf-8")
    built = build(str(path))
    (tmp_path / "wide.py").write_text(vendor(built), encoding="utf-8")
    assert CliRunner().invoke(main, ["build", str(path), "--out", str(tmp_path)]).exit_code == 0
    expected = trained(tmp_path, "wide_spec", "Wide", "triton", "")
    assert trained(tmp_path, "wide", "Wide", "triton", "optgen") == expected


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["build", *arguments, "--vendor"])
        return result.exit_code, result.output

    assert run("solo") == (0, f"{SHIPPED['solo'].parent.parent / 'optgen' / 'specs' / 'solo.yaml'} -> solo.py\n")
    assert run("solo")[1].endswith("solo.py (unchanged)\n")
    assert run("solo", "--check") == (0, "solo.py: fresh\n")
    text = Path("solo.py").read_text(encoding="utf-8")
    Path("solo.py").write_text(text.replace("b1 * m", "b1 + m"), encoding="utf-8")
    status, printed = run("solo", "--check")
    assert status == 1
    assert "b1 + m" in printed
    assert "stale, run: optgen build" in printed
    Path("adamw.py").write_text("mine = 1\n", encoding="utf-8")
    assert run("adamw")[1] == "error: adamw.py was not written by optgen: move it away, or choose another folder with --out\n"
    assert Path("adamw.py").read_text(encoding="utf-8") == "mine = 1\n"
    assert run("lion", "sgd", "--out", "deep/er")[0] == 0
    assert {path.name for path in Path("deep/er").iterdir()} == {"lion.py", "sgd.py"}
    assert run(str(SHIPPED["solo_2bit"]), "--out", str(SHIPPED["solo_2bit"].parent))[0] == 2


def test_names_of_functions_and_classes_are_not_global_ones() -> None:
    text = """
        def outer(a, *b, c: T = D, **d):
            e = [f for f in G if f in a]
            def inner(h): return h, e, outer, I
            class J:
                k: L = 0
                m = k
                def n(self): return k
            try: pass
            except O as p: return p
            with Q() as r: r.s
            lambda t, u=V: (t, w)
            match a:
                case X(y): return y
            return {z: aa for z, (aa, bb) in cc.dd.items()}
    """
    statement = ast.parse(textwrap.dedent(text)).body[0]
    found = {(r.name, r.attribute) for r in references(statement)}
    names = {"T", "D", "G", "outer", "I", "L", "k", "O", "Q", "V", "w", "X"}
    assert found == {*((name, None) for name in names), ("cc", "dd")}


def test_a_module_that_does_more_than_define_is_refused() -> None:
    with pytest.raises(AssertionError, match="defines and imports only"):
        read_module("optgen.runtime.x", "print(1)\n")


SENTENCE = 'A path C:\\\\new\\\\x, \'\'\' and \\"\\"\\"quotes\\"\\"\\".'


def test_a_summary_of_odd_signs(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(f'name: Odd\nsummary: "{SENTENCE}"\nextends: sgd\n', encoding="utf-8")
    tree = ast.parse(vendor(build(str(path))))
    assert (ast.get_docstring(tree) or "").startswith('Odd: A path C:\\new\\x, \'\'\' and """quotes""".\n')


@pytest.mark.parametrize("name", ["Sequence", "Hyper", "ValueError"])
def test_a_class_with_a_name_of_the_runtime(name: str, tmp_path: Path) -> None:
    path = tmp_path / "clash.yaml"
    path.write_text(f"name: {name}\nsummary: x\nextends: sgd\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["build", str(path), "--vendor", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("*.py"))
