"""`optgen memory`: bytes of optimizer state for a real model."""

from __future__ import annotations

from pathlib import Path

import click

from optgen.analysis.memory import (
    ADAM_BYTES,
    MODELS,
    PARTS,
    Model,
    ModelError,
    ParameterMemory,
    binary_unit,
    load_model,
    memory,
)
from optgen.cli.console import print_json, spec_path, table_console
from optgen.output import write_bytes
from optgen.spec.load import load_programs

__all__ = ["command"]


@click.command("memory")
@click.argument("spec", type=click.Path(), callback=spec_path)
@click.option(
    "--model",
    default="llama-2-7b",
    show_default=True,
    help=f'One of {", ".join(MODELS)}, or a JSON file of shapes: {{"weight": [4096, 4096], ...}}.',
)
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="Also draw it, into a PNG.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(spec: str, model: str, picture: Path | None, as_json: bool) -> None:
    """Say how many bytes of state SPEC keeps for the parameters of a model, beside float32 AdamW.

    Where a spec has rules, each parameter takes its own by shape and name; none is tagged.
    What others leave out is counted: scales, the padding of rows, tensors too small for codes, which stay float32, and
    counters.
    """
    found, programs = load_programs(spec)
    try:
        shapes = load_model(model)
        rows = memory(found, programs, shapes)
    except ModelError as error:
        raise click.UsageError(str(error)) from None
    if picture is not None:
        _draw(found.name, shapes, rows, picture)
    if as_json:
        print_json(_data(found.name, shapes, rows))
    else:
        _print(found.name, shapes, rows)


def _data(name: str, model: Model, rows: list[ParameterMemory]) -> dict[str, object]:
    return {
        "optimizer": name,
        "model": model.name,
        "parameters": model.elements,
        "state_bytes": sum(row.nbytes for row in rows),
        "adamw_bytes": ADAM_BYTES * model.elements,
        "parts": _parts(rows),
        "shapes": [
            {
                "name": row.shape.name,
                "shape": row.shape.shape,
                "count": row.shape.count,
                "state_bytes": row.nbytes,
                "parts": dict(row.parts),
                "coded": row.coded,
                "float32_fallback": row.fallback,
            }
            for row in rows
        ],
    }


def _print(name: str, model: Model, rows: list[ParameterMemory]) -> None:
    from rich.table import Table

    table = Table("parameter", "shape", "count", "bytes/param", "state", title=f"{name} on {model.name}", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        shape = " x ".join(map(str, row.shape.shape))
        per_param = row.nbytes / max(row.shape.elements, 1)
        note = " (float32)" if row.fallback else ""
        table.add_row(row.shape.name, shape, str(row.shape.count), f"{per_param:.4f}{note}", _size(row.nbytes))
    console = table_console()
    console.print(table)
    total, adamw = sum(row.nbytes for row in rows), ADAM_BYTES * model.elements
    per_param = total / max(model.elements, 1)
    console.print(f"{name}: {_size(total)} for {model.elements:,} parameters, {per_param:.3f} bytes each", highlight=False)
    parts = ", ".join(f"{part} {_size(nbytes)}" for part, nbytes in _parts(rows).items() if nbytes)
    if parts:
        console.print(f"of it {parts}", highlight=False)
    saved = f", so {_size(adamw - total)} saved" if adamw - total > 0.001 * adamw else ""
    console.print(f"float32 AdamW: {_size(adamw)}{saved}", highlight=False)


def _parts(rows: list[ParameterMemory]) -> dict[str, int]:
    """What the bytes of the whole model are spent on."""
    return {part: sum(row.parts[part] for row in rows) for part in PARTS}


def _draw(name: str, model: Model, rows: list[ParameterMemory], path: Path) -> None:
    """The picture; a clear error where it cannot be drawn or written."""
    try:
        from optgen.analysis.memory_picture import draw
    except ImportError:
        raise click.UsageError("--picture needs the package matplotlib: pip install matplotlib") from None
    write_bytes(path, draw(name, model, rows))
    click.echo(f"wrote {path}", err=True)


def _size(nbytes: int) -> str:
    """Bytes in the largest binary unit of which there is one."""
    unit, word = binary_unit(nbytes)
    return f"{nbytes / unit:.{1 if unit > 1 else 0}f} {word}"
