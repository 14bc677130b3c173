"""The house rules: lint, types, layers, sizes. A habit that needs a second command is not a habit."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Each layer may import itself and those before it. `runtime` is what generated files import; the compiler uses its layout.
LAYERS = ("diagnostics", "runtime", "ir", "storage", "spec", "passes", "plan", "backends", "vendor", "reference", "analysis")
TOP = {"build": "backends", "output": "diagnostics", "in_memory": "backends", "verify": "reference"}
MAX_FILE, MAX_FUNCTION = 400, 60
OURS = ("optgen", "cli", "tests", "examples", "benchmarks")  # what a user leaves in the root is none of our business


def sources() -> list[Path]:
    folders = [ROOT / "optgen" / layer for layer in LAYERS] + [ROOT / "cli", ROOT / "examples", ROOT / "benchmarks"]
    return sorted(path for folder in folders for path in folder.rglob("*.py")) + sorted((ROOT / "optgen").glob("*.py"))


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint() -> None:
    run("ruff", "check", *OURS)


def test_format() -> None:
    run("ruff", "format", "--check", *OURS)


def test_types() -> None:
    run("mypy")


def test_layers() -> None:
    broken = []
    for path in sources():
        layer = layer_of(path)
        if layer is None:
            continue
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("optgen.") else None
            other = TOP.get(other, other) if other is not None else None
            if other in LAYERS and LAYERS.index(other) > LAYERS.index(layer):
                broken.append(f"{path.relative_to(ROOT)} ({layer}) imports {name}")
    assert not broken, "\n".join(broken)


def test_the_runtime_needs_no_compiler() -> None:
    for path in (ROOT / "optgen" / "runtime").glob("*.py"):
        foreign = [name for name in imports(path) if name.startswith("optgen.") and not name.startswith("optgen.runtime")]
        assert not foreign, f"{path.name} imports {foreign}"


def layer_of(path: Path) -> str | None:
    parts = path.relative_to(ROOT).parts
    if parts[0] != "optgen":
        return None
    return parts[1] if parts[1] in LAYERS else TOP.get(path.stem)


def imports(path: Path) -> list[str]:
    """The modules that a file imports at its top level; imports inside functions are for rare, late needs."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sizes_and_docstrings(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE, "is this file really one thing?"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says which arrow of the pipeline it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"
