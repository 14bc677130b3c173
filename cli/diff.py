"""`optgen diff`: what changes from one spec to another."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from optgen.cli.console import print_json, spec_path, table_console

if TYPE_CHECKING:
    from rich.console import Console

    from optgen.analysis.difference import Change, Difference

__all__ = ["command"]


@click.command("diff")
@click.argument("before", type=click.Path(), callback=spec_path)
@click.argument("after", type=click.Path(), callback=spec_path)
@click.option("--code", is_flag=True, help="Also show what changes in each generated file.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(before: str, after: str, code: bool, as_json: bool) -> None:
    """Say what changes from the spec BEFORE to AFTER: arguments, states and their bytes, bytes moved, formulas, code.

    Bytes are per element, with every flag at its default; moved are those of a step with bfloat16 parameters and gradients.
    """
    from optgen.analysis.difference import compare_specs
    from optgen.build import build

    found = compare_specs(build(before), build(after))
    if as_json:
        print_json({**dataclasses.asdict(found), "code": dict(found.code)})
        return
    _print(found)
    for lines in found.code.values() if code else ():
        click.echo()
        _print_lines(lines)


def _print(found: Difference) -> None:
    console = table_console()
    if found.is_empty:
        console.print(f"{found.names[0]} and {found.names[1]} are the same rule with the same storage", highlight=False)
        return
    _print_changes(console, "argument", found.hypers, found.names)
    _print_changes(console, "input", found.inputs, found.names)
    _print_states(console, found)
    _print_bytes(console, found)
    if found.equations:
        console.print("update", style="italic")
        _print_lines(found.equations)
    changed = ", ".join(f"{name} {_count(lines)}" for name, lines in found.code.items() if lines)
    console.print(f"lines of generated code: {changed}; --code shows them", highlight=False)


def _print_changes(console: Console, what: str, changes: tuple[Change, ...], names: tuple[str, str]) -> None:
    from rich.table import Table

    if changes:
        table = Table(what, *names, title=f"{what}s", title_justify="left")
        for change in changes:
            table.add_row(change.name, change.before or "-", change.after or "-")
        console.print(table)


def _print_states(console: Console, found: Difference) -> None:
    from rich.table import Table

    if found.states:
        table = Table("saved as", *found.names, "in a checkpoint", title="states", title_justify="left")
        for state in found.states:
            after = "as before" if state.is_same else state.after or "-"
            table.add_row(state.name, state.before or "-", after, "the same" if state.is_kept else "not the same")
        console.print(table)


def _print_bytes(console: Console, found: Difference) -> None:
    from rich.table import Table

    table = Table("bytes per element", *found.names, "ratio", title="bytes", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = (
        ("state of matrices", found.state_bytes),
        ("moved in a step, matrices", found.moved_by_matrices),
        ("moved in a step, vectors", found.moved_by_vectors),
    )
    for name, (old, new) in rows:
        table.add_row(name, f"{old:g}", f"{new:g}", f"{new / old:.3f}" if old else "-")
    console.print(table)


def _count(lines: tuple[str, ...]) -> str:
    """`+3 -1`: lines that come and go, without the heads of a unified diff."""
    body = [line for line in lines if not line.startswith(("---", "+++"))]
    return f"+{sum(line.startswith('+') for line in body)} -{sum(line.startswith('-') for line in body)}"


def _print_lines(lines: tuple[str, ...]) -> None:
    """A unified diff, coloured on a terminal."""
    colors = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        click.secho(line, fg=None if line.startswith(("---", "+++")) else colors.get(line[:1]))
