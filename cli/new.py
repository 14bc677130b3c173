"""`optgen new`: a spec to start from."""

from __future__ import annotations

from pathlib import Path

import click

from optgen.output import package_name, write_new
from optgen.spec.new import file_name, new_spec
from optgen.spec.places import SHIPPED, spec_names

__all__ = ["command"]


@click.command("new")
@click.argument("name")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The file; by default NAME in lower case, here.")
def command(name: str, out: Path | None) -> None:
    """Write a commented spec for a class NAME, such as MyAdam; no file is overwritten."""
    path = out or file_name(name)
    try:
        text = new_spec(name, path, package_name(str(path)))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    write_new(path, text)
    if path.stem in spec_names(SHIPPED):
        click.echo(f"note: here, '{path.stem}' now means this file and not the spec that comes with optgen", err=True)
    click.echo(f"wrote {path}; next: optgen check {path}")
