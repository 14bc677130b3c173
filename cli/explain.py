"""`optgen explain`: why a diagnostic exists, and what a spec should say instead."""

from __future__ import annotations

import click

from optgen.diagnostics.codes import load_codes
from optgen.diagnostics.diagnostic import suggest

__all__ = ["command"]


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """Explain the diagnostic CODE, or list all codes."""
    codes = load_codes()
    if code is None:
        for name, entry in codes.items():
            click.echo(f"{name:26} {entry.title}")
        return
    if code not in codes:
        raise click.UsageError(f"unknown code '{code}': {suggest(code, codes)}; 'optgen explain' lists all")
    entry = codes[code]
    click.echo(f"{code}: {entry.title}\n\n{entry.why}")
    for label, example in (("Wrong", entry.bad), ("Right", entry.good)):
        click.echo(f"\n{label}:\n" + "\n".join(f"    {line}".rstrip() for line in example.rstrip().split("\n")))
