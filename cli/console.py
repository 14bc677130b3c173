"""What commands print with: colours only on a terminal, diagnostics, JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from optgen.diagnostics import SpecError
from optgen.diagnostics.render import render_all, to_json

__all__ = ["print_diagnostics", "print_json", "wants_color"]


def wants_color() -> bool:
    """Whether standard error is a terminal that may be coloured."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


def print_diagnostics(error: SpecError) -> None:
    """Every fault with its place, on standard error."""
    click.echo(render_all(error.diagnostics, color=wants_color()), err=True)


def print_json(data: Any) -> None:
    """Data for a script, on standard output."""
    click.echo(json.dumps(data, indent=2))


def diagnostics_json(error: SpecError) -> list[dict[str, object]]:
    """The faults of a spec as data."""
    return [to_json(diagnostic) for diagnostic in error.diagnostics]
