"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from optgen.build import build
from optgen.output import package_name, write_package
from optgen.spec.places import spec_files
from tests.forks import python

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = {path.stem: path for path in spec_files(ROOT / "specs")}


def interpreted(*arguments: str, status: tuple[int, ...] = (0,)) -> str:
    """What a Python process with these arguments prints; Triton interprets in it, which it must know before it is imported."""
    done = python(*arguments, environment={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode in status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def compiling() -> Iterator[None]:
    """`optgen verify` chooses Triton's interpreter for its process; the next test's kernels are to be compiled again."""
    before = os.environ.get("TRITON_INTERPRET")
    yield
    if before is None:
        os.environ.pop("TRITON_INTERPRET", None)


@pytest.fixture
def generate(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Build a spec given as text and import the generated package."""
    made: list[str] = []

    def run(text: str, name: str = "spec", suffix: str = ".yaml") -> ModuleType:
        unique = f"{name}_{len(made)}"
        path = tmp_path / f"{unique}{suffix}"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        folder = tmp_path / "generated_here"
        write_package(folder, package_name(str(path)), build(str(path)).files)
        made.append(unique)
        importlib.invalidate_caches()
        return importlib.import_module(unique)

    sys.path.insert(0, str(tmp_path / "generated_here"))
    yield run
    sys.path.remove(str(tmp_path / "generated_here"))
    for name in made:
        for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[module]
