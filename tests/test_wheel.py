"""The wheel: one name in site-packages, and everything it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tree as it stands."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "build", "dist", "out", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=left_out)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(folder / "tree")]
    subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"optgen"}
    for needed in (
        "optgen/cli/main.py",
        "optgen/generated/solo/__init__.py",
        "optgen/specs/solo.yaml",
        "optgen/specs/solo_2bit.py",
        "optgen/backends/torch/templates/backend.py.jinja",
        "optgen/analysis/models/gpt2.json",
        "optgen/diagnostics/codes.yaml",
        "optgen/py.typed",
    ):
        assert needed in names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "docs"))]


def test_an_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which borrows only the dependencies of this one."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    code = (
        "import optgen, torch; from optgen.generated.solo import Solo\n"
        "assert 'venv' in optgen.__file__, optgen.__file__\n"
        "p = torch.nn.Parameter(torch.ones(64, 128)); p.grad = torch.ones_like(p); Solo([p]).step(); print(float(p[0, 0]) < 1)"
    )
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "True", done.stderr
    made = subprocess.run(
        [python, "-I", "-m", "optgen.cli.main", "build", "--help"], capture_output=True, check=False, cwd=tmp_path
    )
    assert made.returncode == 0
    (tmp_path / "mine.yaml").write_text("name: Mine\nsummary: x\nextends: adamw\n", encoding="utf-8")
    command = [python, "-I", "-m", "optgen.cli.main", "build", "mine.yaml"]
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "generated" / "mine" / "__init__.py").is_file()
