"""`optgen verify`: each backend against the float64 reference, as a table."""

from __future__ import annotations

import os
from typing import Any

import click

from optgen.cli.console import print_json, spec_path, table_console

__all__ = ["command"]


@click.command("verify")
@click.argument("spec", type=click.Path(), callback=spec_path)
@click.option(
    "--backend", "backends", multiple=True, type=click.Choice(["torch", "compiled", "triton", "cpp"]), help="Default: all."
)
@click.option("--quick", is_flag=True, help="Fewer cases and steps.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(spec: str, backends: tuple[str, ...], quick: bool, as_json: bool) -> None:
    """Build SPEC and hold each backend to the float64 reference.

    Errors are in units of what is allowed, so that 1 is the limit (a 16-bit parameter comes close to it by its own
    rounding). The cases are parameters large enough to be stored as codes (matrices) and too small for it, each dtype,
    each side of each flag and condition, and each codec alone. Triton's kernels run on a GPU if there is one, else in
    Triton's interpreter.
    """
    _choose_interpreter()
    from optgen.verify import BACKENDS, Outcome, verify

    table = _Table(spec)
    rows = []
    for row in verify(spec, backends or BACKENDS, quick=quick):
        rows.append(row)
        if not as_json:
            table.add(row)
    if as_json:
        print_json([_data(row) for row in rows])
    else:
        table.show()
    failed = [row for row in rows if isinstance(row, Outcome) and not row.passed]
    if failed:
        raise click.exceptions.Exit(1)


def _choose_interpreter() -> None:
    """Without a GPU, Triton must know before it is imported that it is to interpret."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


class _Table:
    """Rows as they come on a terminal, and the whole table at the end."""

    def __init__(self, spec: str) -> None:
        from rich.table import Table

        self.console = table_console()
        title = f"{spec} against the float64 reference"
        self.table = Table(
            "backend", "case", "dtype", "steps", "p", "state", "codes off", "", title=title, title_justify="left"
        )
        for column in self.table.columns:
            column.no_wrap = column.header != "case"
        for column in self.table.columns[3:7]:
            column.justify = "right"
        self.failed = self.lost = 0
        self.lost_in = ""

    def add(self, row: Any) -> None:
        from rich.text import Text

        from optgen.verify import Skipped

        if isinstance(row, Skipped):
            self.table.add_row(row.backend, f"skipped: {row.reason}", "", "", "", "", "", "-")
            return
        d, dtype = row.difference, str(row.case.dtype).removeprefix("torch.")
        codes = f"{d.wrong_codes} of {d.codes}" if d.codes else ""
        verdict = Text("ok", "green") if row.passed else Text("not finite" if d.lost else "FAILED", "red")
        self.failed += not row.passed
        if d.lost:
            self.lost += 1
            self.lost_in = f"{d.lost} elements of '{row.case.name}', for one"
        numbers = (str(row.case.steps), f"{d.p:.2g}", f"{d.state:.2g}", codes)
        self.table.add_row(row.backend, row.case.name, dtype, *numbers, verdict)

    def show(self) -> None:
        self.console.print(self.table)
        verdict = f"{self.failed} cases differ from the reference" if self.failed else "every backend equals the reference"
        if self.lost:
            verdict = (
                f"the rule itself gives infinity or NaN in {self.lost} cases: {self.lost_in}, on gradients that are finite"
            )
        self.console.print(verdict, highlight=False)
        self.console.print(
            "p, state: the largest error, 1 being the limit; codes off: codes unlike the reference's", highlight=False
        )


def _data(row: Any) -> dict[str, object]:
    from optgen.verify import Skipped

    if isinstance(row, Skipped):
        return {"backend": row.backend, "skipped": row.reason}
    d = row.difference
    return {
        "backend": row.backend,
        "case": row.case.name,
        "dtype": str(row.case.dtype).removeprefix("torch."),
        "shapes": row.case.shapes,
        "steps": row.case.steps,
        "p": d.p,
        "state": d.state,
        "codes": d.codes,
        "codes_off": d.wrong_codes,
        "seconds": round(row.seconds, 3),
        "not_finite": d.lost,
        "passed": row.passed,
    }
