"""Sophia-G and Sophia-H beside AdamW on a small classifier: estimates of the curvature every ten steps.

    python examples/sophia.py

An estimate is given to the step that follows. Sophia-G draws labels from the model's own distribution and takes the gradient
of their loss; Sophia-H takes the product of the Hessian and a random direction (arXiv:2305.14342, section 2.3).
"""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

import optgen
from optgen.generated.adamw import AdamW
from optgen.generated.sophia_g import SophiaG
from optgen.generated.sophia_h import SophiaH

BATCH, FEATURES, CLASSES = 256, 32, 8
EVERY = 10
Optimizer = SophiaG | SophiaH | AdamW


@click.command()
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True)
def main(steps: int) -> None:
    """Train the same network with each optimizer and print the last losses."""
    makers: dict[str, Callable[[nn.Module], Optimizer]] = {
        "AdamW": lambda model: AdamW(model.parameters(), lr=1e-3),
        "Sophia-G": lambda model: SophiaG(model.parameters(), lr=1e-3, bs=BATCH),
        "Sophia-H": lambda model: SophiaH(model.parameters(), lr=1e-1),
    }
    for name, make in makers.items():
        losses = train(make, steps)
        click.echo(f"{name}: {losses[0]:.3f} -> {sum(losses[-10:]) / len(losses[-10:]):.3f}")


def train(make: Callable[[nn.Module], Optimizer], steps: int) -> list[float]:
    """The loss of each step."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, CLASSES)).requires_grad_(requires_grad=False)
    model = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    optimizer = make(model)
    losses = []
    for step in range(steps):
        x = torch.randn(BATCH, FEATURES)
        loss = nn.functional.cross_entropy(model(x), (4 * teacher(x)).argmax(dim=1))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step % EVERY == 0:
            estimate(optimizer, model, x, (4 * teacher(x)).argmax(dim=1))
        optimizer.step()
        losses.append(loss.item())
    return losses


def estimate(optimizer: Optimizer, model: nn.Module, x: Tensor, labels: Tensor) -> None:
    """Give the next step an estimate of the curvature, of a forward pass of its own; a part of the batch would do."""
    params = list(model.parameters())
    if isinstance(optimizer, SophiaG):
        optimizer.give(g_hat=optgen.sampled_gradients(model(x), params))
    elif isinstance(optimizer, SophiaH):
        optimizer.give(h_hat=optgen.hutchinson(nn.functional.cross_entropy(model(x), labels), params))


if __name__ == "__main__":
    main()
