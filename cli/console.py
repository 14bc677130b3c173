"""What commands print with: colours only on a terminal, diagnostics, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from optgen.diagnostics import Diagnostic
from optgen.diagnostics.render import render_all, to_json
from optgen.spec.find import find_spec

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["diagnostics_json", "print_diagnostics", "print_json", "spec_path", "table_console", "wants_color"]


def spec_path(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Callback of arguments that are specs: paths, or bare names of specs at hand."""
    return tuple(map(find_spec, value)) if isinstance(value, tuple) else find_spec(value)


def table_console() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for all columns in a file or a pipe."""
    from rich.console import Console

    return Console(markup=False) if sys.stdout.isatty() else Console(width=140, markup=False)


def wants_color() -> bool:
    """Whether standard error is a terminal that may be coloured."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


def print_diagnostics(diagnostics: Sequence[Diagnostic]) -> None:
    """Every fault or warning with its place, on standard error."""
    if diagnostics:
        click.echo(render_all(diagnostics, color=wants_color()), err=True)


def print_json(data: Any) -> None:
    """Data for a script, on standard output."""
    click.echo(json.dumps(data, indent=2))


def diagnostics_json(diagnostics: Sequence[Diagnostic]) -> list[dict[str, object]]:
    """The faults and warnings of a spec as data."""
    return [to_json(diagnostic) for diagnostic in diagnostics]
