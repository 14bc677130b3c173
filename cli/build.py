"""`optgen build`: compile specs into packages."""

from __future__ import annotations

from pathlib import Path

import click

from optgen.cli.console import print_diagnostics, spec_path
from optgen.diagnostics import SpecError
from optgen.output import check_package, package_name, write_package
from optgen.spec.check_rounding import rounding_warnings
from optgen.spec.places import spec_files

__all__ = ["command"]


@click.command("build")
@click.argument("specs", nargs=-1, type=click.Path(), callback=spec_path)
@click.option("--all", "every", is_flag=True, help="Build every spec of the folder specs/ here.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("generated"), show_default=True)
@click.option("--check", is_flag=True, help="Write nothing; fail if what stands there is not fresh.")
def command(specs: tuple[str, ...], every: bool, out: Path, check: bool) -> None:
    """Compile SPECS into packages below a folder.

    Each spec becomes a package of its name with the optimizer's class: `optgen build specs/solo.yaml` writes
    generated/solo/, and `from generated.solo import Solo` imports it.
    """
    paths = list(specs) + (_all_specs() if every else [])
    if not paths:
        raise click.UsageError("name at least one spec, or give --all")
    clashes = {name for name in map(package_name, paths) if sum(package_name(p) == name for p in set(paths)) > 1}
    if clashes:
        raise click.UsageError(f"two specs would be written to the same package: {', '.join(sorted(clashes))}")
    good = [_build_one(path, out, check) for path in dict.fromkeys(paths)]
    if not all(good):
        raise click.exceptions.Exit(1)


def _all_specs() -> list[str]:
    paths = spec_files(Path("specs"))
    if not paths:
        raise click.UsageError("there is no folder specs/ with specs here")
    return [path.as_posix() for path in paths]


def _build_one(path: str, out: Path, check: bool) -> bool:
    """Build or check one spec; False after a fault, which has been printed."""
    from optgen.build import build

    try:
        built = build(path)
    except SpecError as error:
        print_diagnostics(error.diagnostics)
        return False
    files = built.files
    name = package_name(path)
    if check:
        diffs = check_package(out, name, files)
        for diff in diffs:
            click.echo(diff, nl=False)
        click.echo(f"{out / name}: {'stale, run: optgen build ' + path if diffs else 'fresh'}")
        return not diffs
    changed = write_package(out, name, files)
    print_diagnostics(rounding_warnings(built.spec, built.program))
    click.echo(f"{path} -> {out / name}{'' if changed else ' (unchanged)'}")
    return True
