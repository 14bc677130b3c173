"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from optgen.build import build
from optgen.output import package_name, write_package

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def generate(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Build a spec given as text and import the generated package."""
    made: list[str] = []

    def run(text: str, name: str = "spec") -> ModuleType:
        unique = f"{name}_{len(made)}"
        path = tmp_path / f"{unique}.yaml"
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
