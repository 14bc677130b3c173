"""The one template environment: strict, and every result parsed and formatted."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from typing import Any

import jinja2

__all__ = ["environment", "format_python", "render"]


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


def format_python(files: dict[str, str]) -> dict[str, str]:
    """Format Python files as `ruff format` does and sort their imports; the keys are file names.

    Raises:
        SyntaxError: if a file is not Python, which is a bug of a printer.
        RuntimeError: if ruff fails.
    """
    formatted = {}
    for name, text in files.items():
        ast.parse(text, name)
        # a name other than __init__.py: there ruff takes an unused import for a re-export
        sorted_text = _ruff(["check", "--select", "I,F401", "--fix", "--quiet", "--isolated"], "module.py", text)
        formatted[name] = _ruff(["format", "--isolated"], name, sorted_text)
    return formatted


def _ruff(command: list[str], name: str, text: str) -> str:
    options = ["--line-length", "110", "--target-version", "py311", "--stdin-filename", name]
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
