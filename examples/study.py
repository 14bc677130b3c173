"""The longer comparison of docs/results.md: SOLO, AdamW, 8-bit AdamW and naive 2-bit, three seeds each.

    python examples/study.py

Each run is saved when it ends; called again after an interruption, the study goes on with the runs that are missing.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import click
from language_model.corpus import read_corpus
from language_model.picture import draw
from language_model.saved import saved_run
from language_model.training import Run, Settings

OPTIMIZERS = ("torch.optim.AdamW", "adamw_8bit", "solo", str(Path(__file__).parent / "specs" / "naive_2bit.yaml"))


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out/study"), show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=800, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0), default=Settings.lr, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--only", "names", multiple=True, default=OPTIMIZERS, help="An optimizer to run; may be given several times.")
@click.option(
    "--compile/--eager", "compiled", default=True, show_default=True, help="Compile the updates (needs a C++ compiler)."
)
def main(out: Path, steps: int, lr: float, seeds: int, names: tuple[str, ...], *, compiled: bool) -> None:
    """Train with each optimizer and seed, save the runs in OUT, draw them and print the table."""
    corpus = read_corpus()
    settings = Settings(steps=steps, lr=lr, evaluate_every=max(1, steps // 10), evaluate_batches=32)
    runs = [saved_run(name, corpus, settings, seed, out, compiled=compiled) for seed in range(seeds) for name in names]
    draw(runs, out / "curves.png", f"{seeds} seeds, {steps} steps, lr {lr:g}")
    click.echo(table(runs))


def table(runs: list[Run]) -> str:
    """A Markdown table: the mean final loss of each optimizer, its spread, its ratio to the first one's."""
    lines = [
        "| optimizer | final loss, mean | each seed | ratio to the first | state, bytes/parameter |",
        "|---|---|---|---|---|",
    ]
    names = list(dict.fromkeys(run.optimizer for run in runs))
    losses = {name: [run.final_loss for run in runs if run.optimizer == name] for name in names}
    first = statistics.mean(losses[names[0]])
    for name in names:
        mean = statistics.mean(losses[name])
        each = ", ".join(f"{loss:.4f}" for loss in losses[name])
        state = next(run.state_bytes for run in runs if run.optimizer == name)
        update = 1000 * statistics.median(run.optimizer_seconds_per_step for run in runs if run.optimizer == name)
        lines.append(f"| {name} | {mean:.4f} | {each} | {mean / first:.4f} | {state:.3f} | {update:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
