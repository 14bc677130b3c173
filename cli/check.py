"""`optgen check`: find every error of a spec without building it."""

from __future__ import annotations

import click

from optgen.cli.console import diagnostics_json, print_diagnostics, print_json, spec_path
from optgen.diagnostics import Diagnostic, SpecError
from optgen.spec.check_rounding import rounding_warnings
from optgen.spec.load import load_programs

__all__ = ["command"]


@click.command("check")
@click.argument("specs", nargs=-1, required=True, type=click.Path(), callback=spec_path)
@click.option("--json", "as_json", is_flag=True, help="Print errors and warnings as JSON.")
def command(specs: tuple[str, ...], as_json: bool) -> None:
    """Check SPECS and print every error, and what rounding will lose, with its place, a reason and a way out."""
    found: list[Diagnostic] = []
    failed = False
    for path in specs:
        try:
            news = rounding_warnings(*load_programs(path))
            if not as_json:
                click.echo(f"{path}: ok")
        except SpecError as error:
            news, failed = error.diagnostics, True
        found += news
        if not as_json:
            print_diagnostics(news)
    if as_json:
        print_json(diagnostics_json(found))
    if failed:
        raise click.exceptions.Exit(1)
