"""`optgen check`: find every error of a spec without building it."""

from __future__ import annotations

import click

from optgen.cli.console import diagnostics_json, print_diagnostics, print_json, spec_path
from optgen.diagnostics import SpecError
from optgen.spec.lower import load_program

__all__ = ["command"]


@click.command("check")
@click.argument("specs", nargs=-1, required=True, type=click.Path(), callback=spec_path)
@click.option("--json", "as_json", is_flag=True, help="Print the errors as JSON.")
def command(specs: tuple[str, ...], as_json: bool) -> None:
    """Check SPECS and print every error with its place, a reason and a way out."""
    found = []
    for path in specs:
        try:
            load_program(path)
            if not as_json:
                click.echo(f"{path}: ok")
        except SpecError as error:
            found += diagnostics_json(error)
            if not as_json:
                print_diagnostics(error)
    if as_json:
        print_json(found)
    if found:
        raise click.exceptions.Exit(1)
