"""The picture of a comparison: loss against steps, and bytes of state."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from language_model.training import Run

__all__ = ["draw", "scatter"]

COLUMN = 1.0  # bytes per parameter that are drawn as one column
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")


def draw(runs: Sequence[Run], path: Path, title: str) -> None:
    """Draw the runs, those of one optimizer in one colour, into a PNG."""
    names = list(dict.fromkeys(run.optimizer for run in runs))
    figure = Figure(figsize=(10, 4.2), dpi=130, layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 1.3))
    for name, color in zip(names, COLORS * len(names), strict=False):
        mine = [run for run in runs if run.optimizer == name]
        for run in mine:
            curves.plot(range(1, len(run.losses) + 1), _smooth(run.losses), color=color, alpha=0.3, linewidth=0.8)
        steps = sorted(mine[0].validation)
        means = [statistics.mean(run.validation[step] for run in mine) for step in steps]
        curves.plot(steps, means, color=color, marker="o", markersize=3, label=f"{name}: {means[-1]:.3f}")
        bars.bar(name, mine[0].state_bytes, color=color)
        bars.text(name, mine[0].state_bytes, f"{mine[0].state_bytes:.2f}", ha="center", va="bottom")
    curves.set(xlabel="step", ylabel="loss, nats per byte", title=title)
    low = min(run.final_loss for run in runs)
    curves.set_ylim(low - 0.1, max(low + 2.0, 1.1 * max(run.final_loss for run in runs)))
    curves.legend(title="on held-out text, at the end")
    curves.grid(alpha=0.3)
    bars.set(ylabel="bytes per parameter", title="optimizer state")
    bars.tick_params(axis="x", labelrotation=20)
    bars.margins(y=0.12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def scatter(groups: Sequence[Sequence[Run]], path: Path, title: str) -> None:
    """Draw the final loss of each optimizer, mean and range of its runs, against its bytes of state, into a PNG.

    Optimizers with nearly equal bytes stand beside each other in a column, their names one above the other.
    """
    figure = Figure(figsize=(11, 7), dpi=120, layout="constrained")
    axes = figure.subplots()
    ordered = sorted(groups, key=_mean_loss)
    losses = [run.final_loss for runs in groups for run in runs]
    line = (max(losses) - min(losses)) / 42  # the height of a name
    columns: dict[int, list[Sequence[Run]]] = {}
    for runs in ordered:
        columns.setdefault(round(runs[0].state_bytes / COLUMN), []).append(runs)
    for column in columns.values():
        height = -math.inf
        right = max(runs[0].state_bytes for runs in column) + 0.04 * len(column) + 0.08
        for place, runs in enumerate(column):
            mean, color = _mean_loss(runs), COLORS[place % len(COLORS)]
            x = runs[0].state_bytes + 0.04 * place
            span = [run.final_loss for run in runs]
            axes.errorbar(x, mean, [[mean - min(span)], [max(span) - mean]], fmt="o", markersize=4, capsize=2, color=color)
            height = max(height + line, mean)
            axes.plot([x, right], [mean, height], color=color, linewidth=0.5)
            axes.text(right, height, f" {runs[0].optimizer}", color=color, fontsize=8, va="center")
    axes.set(xlabel="optimizer state, bytes per parameter", ylabel="final loss on held-out text, nats per byte", title=title)
    axes.set_xlim(right=max(runs[0].state_bytes for runs in groups) + 1.5)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _mean_loss(runs: Sequence[Run]) -> float:
    return statistics.mean(run.final_loss for run in runs)


def _smooth(losses: Sequence[float], keep: float = 0.9) -> list[float]:
    """A running average, which starts at the first loss."""
    smooth = [losses[0]]
    for loss in losses[1:]:
        smooth.append(keep * smooth[-1] + (1 - keep) * loss)
    return smooth
