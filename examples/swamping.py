"""What 2 bits do to a slow average: some gradients of each block fall from scale 1 to 0.1 and rise again.

    python examples/swamping.py

With nearest rounding a change that is small against the gap between levels is lost at every step: the average is swamped
(SOLO, arXiv:2505.00347). Stochastic rounding in log levels keeps it on average. Writes swamping.png.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from language_model.optimizers import find_optimizer
from matplotlib.figure import Figure
from torch import Tensor

SPECS = Path(__file__).parent / "specs"
KINDS = {"32 bits": "average", "SOLO, 2 bits": "average_solo", "naive 2 bits": "average_naive_2bit"}


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out"), show_default=True)
@click.option("--steps", type=click.IntRange(min=3), default=9000, show_default=True, help="A third at each scale.")
def main(out: Path, steps: int) -> None:
    """Follow the average of squared gradients in each storage and draw it."""
    scales = torch.ones(steps)
    scales[steps // 3 : 2 * steps // 3] = 0.1
    means = {label: follow(f"{SPECS / name}.yaml", scales) for label, name in KINDS.items()}
    exact = means["32 bits"]
    for label, mean in means.items():
        away = (mean / exact).log2().abs()
        click.echo(f"{label}: off by a factor of {2 ** away.mean():.2f} on average, {2 ** away.max():.1f} at most")
    _draw(means, out / "swamping.png")
    click.echo(f"picture: {out / 'swamping.png'}")


def follow(spec: str, scales: Tensor) -> Tensor:
    """The mean of the average over the elements that change, after each step, float32 (steps,).

    In each block of 128, every second gradient is normal with the scale of its step; the others keep scale 1.
    """
    _, make = find_optimizer(spec)
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(64, 128))
    optimizer = make([p])
    means = torch.zeros(len(scales))
    for step, scale in enumerate(scales):
        p.grad = torch.randn(p.shape, generator=generator)
        p.grad[:, ::2] *= scale
        optimizer.step()
        means[step] = p.detach()[:, ::2].mean()
    return means


def _draw(means: dict[str, Tensor], path: Path) -> None:
    figure = Figure(figsize=(7, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    for label, mean in means.items():
        axes.semilogy(mean.tolist(), label=label)
    axes.set(xlabel="step", ylabel="mean of v", title="v = ema(v, g², 0.999), as each storage remembers it")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
