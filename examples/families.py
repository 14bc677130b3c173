"""Every optimizer that comes with optgen on one small language model: loss against bytes of state, for docs/results.md.

    python examples/families.py
    python examples/families.py --only solo --only adam_mini

The learning rate of each rule is one whose half and double are worse for the first seed; storages of a rule share it. Each
run is saved when it ends; called again after an interruption, the study goes on with the runs that are missing.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from language_model.corpus import read_corpus
from language_model.picture import scatter
from language_model.saved import saved_run
from language_model.training import Run, Settings

RULES: Mapping[str, float] = {  # a learning rate to start the search from
    "torch.optim.AdamW": 1e-3,
    "sgd": 0.1,
    "adagrad": 5e-3,
    "adadelta": 1.0,
    "rmsprop": 5e-4,
    "adamax": 2e-3,
    "nadam": 1e-3,
    "nadam_dozat": 1e-3,
    "agd": 1e-3,
    "stable_adam16": 1e-3,
    "signsgd": 1e-3,
    "signum": 3e-4,
    "lion": 3e-4,
    "adabelief_solo": 1e-3,
    "lamb": 4e-3,
    "adafactor": 1e-2,
    "adafactor_paper": 1e-2,
    "sm3": 0.1,
    "adam_mini": 1e-3,
    "sophia_g": 1e-3,
}
STORAGES: Mapping[str, Sequence[str]] = {  # the same rule, but for the storage of its states
    "torch.optim.AdamW": (
        *("adamw", "adam", "adamw_bf16", "adamw_8bit", "adamw_flash", "adamw_4bit"),
        *("solo", "solo_3bit", "solo_2bit", "adamw_4bit_rank1", "adamw_4bit_factor"),
    ),
    "adafactor_paper": ("adafactor_solo",),
    "sgd": ("sgdw",),
    "lion": ("lion_8bit",),
}
OWN_RATE = {"relative_step": False}  # of Adafactor, which else takes no learning rate
OPTIONS: Mapping[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "sgdw": {"momentum": 0.9},
    "adafactor_paper": OWN_RATE,
    "adafactor_solo": OWN_RATE,
    "sophia_g": {"bs": 8 * 64},  # tokens of a batch
    "adam_mini": {"head_size": 32, "tags": {"row": ["tokens.weight", "places.weight", "head.weight"]}},
}


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out/families"), show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--only", "names", multiple=True, help="An optimizer to run, with the rate of its rule; may be given several times."
)
@click.option(
    "--compile/--eager", "compiled", default=True, show_default=True, help="Compile the updates (needs a C++ compiler)."
)
def main(out: Path, steps: int, seeds: int, names: tuple[str, ...], *, compiled: bool) -> None:
    """Train with each optimizer and seed, save the runs in OUT, draw them and print the table."""
    corpus = read_corpus()
    shared = Settings(steps=steps, weight_decay=0.0, batch=8, length=64, evaluate_every=steps, evaluate_batches=64)

    def run(name: str, lr: float, seed: int) -> Run:
        settings = dataclasses.replace(shared, lr=lr)
        return saved_run(name, corpus, settings, seed, out, compiled=compiled, options=OPTIONS.get(name))

    rows: list[tuple[float, list[Run]]] = []
    for rule, start in RULES.items():
        same = [name for name in (rule, *STORAGES.get(rule, ())) if name in names or not names]
        lr = best_rate(start, partial(run, rule, seed=0)) if same else start
        rows += [(lr, [run(name, lr, seed) for seed in range(seeds)]) for name in same]
    scatter([runs for _, runs in rows], out / "families.png", f"{seeds} seeds, {steps} steps")
    click.echo(table(rows))


def best_rate(start: float, run: Callable[[float], Run]) -> float:
    """A learning rate with a lower loss than its half and its double; the search goes up to 64 times either way."""
    power = 0
    for _ in range(6):
        best = min((power, power - 1, power + 1), key=lambda each: run(start * 2.0**each).final_loss)
        if best == power:
            break
        power = best
    return start * 2.0**power


def table(rows: Sequence[tuple[float, list[Run]]]) -> str:
    """A Markdown table, the lowest loss first."""
    lines = ["| optimizer | learning rate | final loss, mean | each seed | state, bytes/parameter |", "|---|---|---|---|---|"]
    for lr, runs in sorted(rows, key=lambda row: mean_loss(row[1])):
        each = ", ".join(f"{run.final_loss:.3f}" for run in runs)
        lines.append(f"| {runs[0].optimizer} | {lr:g} | {mean_loss(runs):.3f} | {each} | {runs[0].state_bytes:.3f} |")
    return "\n".join(lines)


def mean_loss(runs: Sequence[Run]) -> float:
    """Of all seeds."""
    return statistics.mean(run.final_loss for run in runs)


if __name__ == "__main__":
    main()
