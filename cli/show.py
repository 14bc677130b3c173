"""`optgen show`: what the compiler sees at each stage."""

from __future__ import annotations

import click

from optgen.cli.console import spec_path
from optgen.passes import PASSES

__all__ = ["command"]

STAGES = ("spec", "ir", "plan", "code")


@click.command("show")
@click.argument("spec", type=click.Path(), callback=spec_path)
@click.option("--stage", type=click.Choice(STAGES), default="code", show_default=True)
@click.option("--after", type=click.Choice([p.name for p in PASSES]), help="With --stage ir: the program after this pass.")
@click.option("--file", "name", help="With --stage code: one file of the package only.")
def command(spec: str, stage: str, after: str | None, name: str | None) -> None:
    """Show SPEC as it is read, as a program, as a plan or as code."""
    if after and stage != "ir":
        raise click.UsageError("--after needs --stage ir")
    if stage == "spec":
        from optgen.spec.read import read_spec
        from optgen.spec.show import spec_text

        click.echo(spec_text(read_spec(spec)))
    elif stage == "ir":
        from optgen.ir.text import program_text
        from optgen.passes import run_passes
        from optgen.spec.load import load_programs

        found, programs = load_programs(spec)
        for rule, program in zip(found.parts, programs, strict=True):
            if rule.name:
                click.echo(f"rule {rule.name}, {rule.when}")
            click.echo(program_text(run_passes(program, after) if after else program))
    else:
        _show_built(spec, stage, name)


def _show_built(spec: str, stage: str, name: str | None) -> None:
    from optgen.build import build
    from optgen.plan.text import plan_text

    built = build(spec)
    if stage == "plan":
        click.echo(plan_text(built.plan))
        return
    if name is not None and name not in built.files:
        raise click.UsageError(f"there is no file {name}; the package has {', '.join(built.files)}")
    for file, text in built.files.items():
        if name in (None, file):
            click.echo(text if name else f"# ---- {file}\n{text}")
