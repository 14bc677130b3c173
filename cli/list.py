"""`optgen list`: the specs at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from optgen.cli.console import print_json, table_console

__all__ = ["command"]


@click.command("list")
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(folders: tuple[Path, ...], as_json: bool) -> None:
    """List the specs of FOLDERS, or of the folder specs/ here and those that come with optgen."""
    from optgen.diagnostics import SpecError
    from optgen.spec.places import SHIPPED, spec_files

    rows = []
    for path in {p.stem: p for folder in folders or (SHIPPED, Path("specs")) for p in spec_files(folder)}.values():
        try:
            rows.append(_row(path))
        except SpecError as error:
            rows.append({"spec": path.stem, "class": "", "summary": f"{len(error.diagnostics)} errors, see optgen check"})
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table("spec", "class", "state", "bytes/param", "summary", "reference", title="optimizers", title_justify="left")
    for row in rows:
        table.add_row(
            row["spec"], row["class"], row.get("states", ""), str(row.get("bytes_per_param", "")), row["summary"], _short(row)
        )
    table_console().print(table)


def _short(row: dict[str, Any]) -> str:
    """Where the rule comes from, without what all links share."""
    return str(row.get("reference", "")).removeprefix("https://").removeprefix("www.")


def _row(path: Path) -> dict[str, Any]:
    from optgen.analysis.memory import kept_numbers, kept_states, kept_vectors
    from optgen.backends.view import state_bytes, state_width
    from optgen.ir.nodes import PLURALS
    from optgen.spec.load import load_programs

    spec, programs = load_programs(str(path))
    texts = []
    for rule, program in zip(spec.parts, programs, strict=True):
        words = [
            *(f"{s.name} {state_width(s)}" for s in kept_states(program)),
            *(f"{s.name} {state_width(s)} of {PLURALS[s.domain]}" for s in kept_vectors(program)),
            *(f"{s.name} number" for s in kept_numbers(program)),
        ]
        texts.append((f"{rule.name}: " if rule.name else "") + (", ".join(words) or "none"))
    return {
        "spec": path.stem,
        "class": spec.name,
        "states": "; ".join(texts),
        "bytes_per_param": round(sum(map(state_bytes, kept_states(programs[0]))), 5),
        "summary": spec.summary,
        "reference": spec.reference,
    }
