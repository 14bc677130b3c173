"""The one template environment: strict, and every result parsed and formatted."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from typing import Any

import jinja2

__all__ = ["environment", "format_files", "render"]

COLUMNS = 110  # of generated code
CPP_STYLE = f"{{BasedOnStyle: Google, IndentWidth: 4, ColumnLimit: {COLUMNS}, AccessModifierOffset: -2}}"


@cache
def environment() -> jinja2.Environment:
    """Templates of all backends; an unknown name in a template raises."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("optgen", "backends"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def render(template: str, **view: Any) -> str:
    """Fill a template, named by its path below `backends/`."""
    return environment().get_template(template).render(**view)


def format_files(files: dict[str, str]) -> dict[str, str]:
    """Format Python as ruff does, its imports sorted, and C++ as clang-format does; the keys are file names.

    Raises:
        SyntaxError: if a Python file is not Python, which is a bug of a printer.
        RuntimeError: if a formatter fails.
    """
    return {
        name: _format_python(name, text) if name.endswith(".py") else _format_cpp(name, text) for name, text in files.items()
    }


def _format_python(name: str, text: str) -> str:
    ast.parse(text, name)
    # a name other than __init__.py: there ruff takes an unused import for a re-export
    sorted_text = _ruff(["check", "--select", "I,F401", "--fix", "--quiet", "--isolated"], "module.py", text)
    return _ruff(["format", "--isolated"], name, sorted_text)


def _format_cpp(name: str, text: str) -> str:
    from clang_format import get_executable

    command = [str(get_executable("clang-format")), f"--style={CPP_STYLE}", f"--assume-filename={name}"]
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(f"clang-format failed on {name}: {done.stderr.strip()}")
    return done.stdout


def _ruff(command: list[str], name: str, text: str) -> str:
    options = ["--line-length", str(COLUMNS), "--target-version", "py311", "--stdin-filename", name]
    done = subprocess.run(
        [_ruff_binary(), *command, *options, "-"], input=text, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"ruff {command[0]} failed on {name}: {done.stderr.strip()}")
    return done.stdout


@cache
def _ruff_binary() -> str:
    from ruff import find_ruff_bin

    return str(find_ruff_bin())
