"""`optgen build`: compile specs into packages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from optgen.cli.console import print_diagnostics, spec_path
from optgen.diagnostics import SpecError
from optgen.output import check_module, check_package, package_name, write_module, write_package
from optgen.spec.check_rounding import rounding_warnings
from optgen.spec.places import spec_files

if TYPE_CHECKING:
    from optgen.build import Built

__all__ = ["command"]


@click.command("build")
@click.argument("specs", nargs=-1, type=click.Path(), callback=spec_path)
@click.option("--all", "every", is_flag=True, help="Build every spec of the folder specs/ here.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="The folder; by default 'generated', or '.'.")
@click.option("--vendor", "vendored", is_flag=True, help="Write one file a spec, which needs torch and Triton alone.")
@click.option("--check", is_flag=True, help="Write nothing; fail if what stands there is not fresh.")
def command(specs: tuple[str, ...], every: bool, out: Path | None, vendored: bool, check: bool) -> None:
    """Compile SPECS into packages below a folder.

    Each spec becomes a package of its name with the optimizer's class: `optgen build specs/solo.yaml` writes
    generated/solo/, and `from generated.solo import Solo` imports it. With --vendor it becomes a file, solo.py, to copy
    into a repository that does not have optgen.
    """
    paths = list(specs) + (_all_specs() if every else [])
    if not paths:
        raise click.UsageError("name at least one spec, or give --all")
    clashes = {name for name in map(package_name, paths) if sum(package_name(p) == name for p in set(paths)) > 1}
    if clashes:
        raise click.UsageError(f"two specs would be written to the same package: {', '.join(sorted(clashes))}")
    if vendored:
        good = [_vendor_one(path, out or Path(), check) for path in dict.fromkeys(paths)]
    else:
        good = [_build_one(path, out or Path("generated"), check) for path in dict.fromkeys(paths)]
    if not all(good):
        raise click.exceptions.Exit(1)


def _all_specs() -> list[str]:
    paths = spec_files(Path("specs"))
    if not paths:
        raise click.UsageError("there is no folder specs/ with specs here")
    return [path.as_posix() for path in paths]


def _built(path: str) -> Built | None:
    """Build one spec; None after a fault, which has been printed."""
    from optgen.build import build

    try:
        built = build(path)
    except SpecError as error:
        print_diagnostics(error.diagnostics)
        return None
    print_diagnostics(rounding_warnings(built.spec, built.programs))
    return built


def _build_one(path: str, out: Path, check: bool) -> bool:
    """Build or check the package of one spec; False after a fault, which has been printed."""
    built = _built(path)
    if built is None:
        return False
    name = package_name(path)
    if check:
        return _report(out / name, check_package(out, name, built.files), f"optgen build {path} --out {out}")
    changed = write_package(out, name, built.files)
    click.echo(f"{path} -> {out / name}{'' if changed else ' (unchanged)'}")
    return True


def _vendor_one(path: str, out: Path, check: bool) -> bool:
    """The same with one file."""
    from optgen.vendor import vendor

    built = _built(path)
    if built is None:
        return False
    file, text = out / f"{package_name(path)}.py", vendor(built)
    if file.resolve() == Path(path).resolve():
        raise click.UsageError(f"{file} is the spec itself: name another folder with --out")
    if check:
        return _report(file, check_module(file, text), f"optgen build {path} --vendor --out {out}")
    changed = write_module(file, text)
    click.echo(f"{path} -> {file}{'' if changed else ' (unchanged)'}")
    return True


def _report(place: Path, diffs: list[str], command: str) -> bool:
    """Whether what stands there is fresh."""
    for diff in diffs:
        click.echo(diff, nl=False)
    click.echo(f"{place}: {'stale, run: ' + command if diffs else 'fresh'}")
    return not diffs
