"""Train a small language model with one optimizer after the other, and draw their losses and the bytes of their states.

    python examples/train_lm.py solo torch.optim.AdamW

An optimizer is a spec that comes with optgen (`solo`), a spec file (`mine.yaml`) or a class (`torch.optim.AdamW`).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click
from language_model.corpus import read_corpus
from language_model.optimizers import find_optimizer
from language_model.picture import draw
from language_model.training import Run, Settings, train
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table


@click.command()
@click.argument("optimizers", nargs=-1, required=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out"), show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0), default=Settings.lr, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Compile the updates of generated optimizers (needs a C++ compiler).")
@click.option("--show", is_flag=True, help="Open the picture, where there is a screen.")
def main(optimizers: tuple[str, ...], out: Path, steps: int, lr: float, seed: int, *, compiled: bool, show: bool) -> None:
    """Train a small GPT on the text of Python's standard library with each of OPTIMIZERS.

    Writes curves.png to the folder OUT and prints a table.
    """
    found = [find_optimizer(name, compiled=compiled) for name in dict.fromkeys(optimizers)]
    corpus = read_corpus()
    settings = Settings(steps=steps, lr=lr)
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    runs = []
    with Progress(*columns, console=console) as bars:
        for label, make in found:
            bar = bars.add_task(label, total=steps, loss="")
            runs.append(train(label, make, corpus, settings, seed, partial(_advance, bars, bar)))
    path = out / "curves.png"
    draw(runs, path, f"A GPT of {runs[0].parameters / 1e6:.2f} million parameters on Python's standard library")
    console.print(table(runs))
    console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    if show and sys.stdout.isatty():
        click.launch(str(path))


def _advance(bars: Progress, bar: TaskID, step: int, loss: float) -> None:
    bars.update(bar, completed=step, loss=f"loss {loss:.3f}")


def table(runs: list[Run]) -> Table:
    """One row for each run."""
    columns = ("optimizer", "loss on held-out text", "state, bytes/parameter", "step, ms", "of it the optimizer, ms")
    rows = Table(*columns)
    for column in rows.columns[1:]:
        column.justify = "right"
    for run in runs:
        milliseconds = f"{1000 * run.seconds_per_step:.0f}", f"{1000 * run.optimizer_seconds_per_step:.1f}"
        rows.add_row(run.optimizer, f"{run.final_loss:.4f}", f"{run.state_bytes:.3f}", *milliseconds)
    return rows


if __name__ == "__main__":
    main()
