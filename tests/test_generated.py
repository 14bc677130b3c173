"""What stands in generated/: fresh, deterministic, clean, and quick to build and import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from optgen.build import build
from optgen.output import check_package
from tests.conftest import ROOT, SHIPPED

SPECS = sorted(SHIPPED)
SUFFIXES = (".py", ".cpp")


@pytest.mark.parametrize("name", SPECS)
def test_generated_is_fresh(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert not check_package(ROOT / "generated", name, build(f"specs/{SHIPPED[name].name}").files)


def test_nothing_is_left_over() -> None:
    packages = sorted(path.parent.name for path in (ROOT / "generated").glob("*/__init__.py"))
    assert packages == SPECS


def build_with_hash_seed(seed: str, folder: str) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-m", "optgen.cli.main", "build", "--all", "--out", folder]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)


def test_two_builds_are_byte_identical(tmp_path) -> None:
    folders = [tmp_path / seed for seed in ("1", "2")]
    for folder in folders:
        build_with_hash_seed(folder.name, str(folder))
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.suffix in SUFFIXES} for f in folders]
    assert files[0] == files[1]
    assert len(files[0]) == 5 * len(SPECS) + 1


def test_generated_code_is_clean() -> None:
    """The project's own rules, less those that a generator cannot keep: long lines of documentation, builtin names."""
    rules = ["--select", "E,F,I,B,UP,W", "--ignore", "E501"]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "110", *rules, "generated"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_generated_code_has_no_marks_of_the_machine() -> None:
    for path in (p for p in (ROOT / "generated").glob("*/*") if p.suffix in SUFFIXES):
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert "specs/" in text.split("\n")[0]


def test_building_does_not_import_torch() -> None:
    code = "import sys; from optgen.build import build; build('specs/solo.yaml'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_importing_a_class_does_not_import_the_compiler_or_triton() -> None:
    code = (
        "import sys, optgen.generated.solo\n"
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('triton', 'yaml', 'jinja2', 'rich')"
        " or m.startswith(('optgen.spec', 'optgen.plan', 'optgen.backends', 'optgen.ir'))]\n"
        "sys.exit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
