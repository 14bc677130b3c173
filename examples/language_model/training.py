"""One training run: the same data, initial values and schedule for every optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from language_model.corpus import Corpus
from language_model.model import LanguageModel
from language_model.optimizers import Factory, state_bytes
from optgen import sampled_gradients
from optgen.runtime.optimizer import GeneratedOptimizer

__all__ = ["Run", "Settings", "train"]

ESTIMATE_EVERY = 10  # steps, as Sophia's authors have it
ESTIMATES: Mapping[str, Callable[[LanguageModel, Tensor], list[Tensor | None]]] = {  # by the input that they are for
    "g_hat": lambda model, window: sampled_gradients(model(window[:, :-1]), model.parameters()),
}


@dataclass(frozen=True)
class Settings:
    """What all runs of a comparison share."""

    steps: int = 200
    lr: float = 2e-3
    weight_decay: float = 0.1
    batch: int = 16
    length: int = 128
    evaluate_every: int = 50
    evaluate_batches: int = 16


@dataclass
class Run:
    """What came out of one run; losses are in nats per byte."""

    optimizer: str
    seed: int
    parameters: int = 0
    state_bytes: float = 0.0  # per parameter
    losses: list[float] = field(default_factory=list)  # of each training step
    validation: dict[int, float] = field(default_factory=dict)  # by step
    seconds_per_step: float = 0.0
    optimizer_seconds_per_step: float = 0.0  # median

    @property
    def final_loss(self) -> float:
        """The loss on held-out text after the last step."""
        return self.validation[max(self.validation)]


def train(
    label: str, make: Factory, corpus: Corpus, settings: Settings, seed: int, progress: Callable[[int, float], None]
) -> Run:
    """Train a model; `progress` is called after each step with its number and loss.

    The seed decides initial values and data; warm-up over a twentieth of the steps, then a cosine to a tenth; gradients
    are clipped to norm 1. Where a rule takes an estimate of the Hessian, every tenth step has one, of the same windows.
    """
    torch.manual_seed(seed)
    model = LanguageModel(length=settings.length)
    optimizer = make(model.named_parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, settings.steps))
    run = Run(label, seed, sum(p.numel() for p in model.parameters()))
    updates: list[float] = []
    start = time.perf_counter()
    data = corpus.batches(size=settings.batch, length=settings.length, seed=seed)
    for step, window in enumerate(islice(data, settings.steps), start=1):
        loss = model.loss(window)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if step % ESTIMATE_EVERY == 1:
            _give_estimates(optimizer, model, window)
        before = time.perf_counter()
        optimizer.step()
        updates.append(time.perf_counter() - before)
        scheduler.step()
        run.losses.append(loss.item())
        progress(step, run.losses[-1])
        if step % settings.evaluate_every == 0 or step == settings.steps:
            run.validation[step] = _evaluate(model, corpus, settings)
    run.seconds_per_step = (time.perf_counter() - start) / settings.steps
    run.optimizer_seconds_per_step = sorted(updates)[len(updates) // 2]
    run.state_bytes = state_bytes(optimizer, model)
    return run


def _give_estimates(optimizer: torch.optim.Optimizer, model: LanguageModel, window: Tensor) -> None:
    """Give the next step those of the inputs of its rule that there are estimates of."""
    if isinstance(optimizer, GeneratedOptimizer):
        known = [name for name in optimizer.description.inputs if name in ESTIMATES]
        optimizer.give(**{name: ESTIMATES[name](model, window) for name in known})


def _schedule(step: int, steps: int) -> float:
    """The factor of the learning rate before step `step`, from 0."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def _evaluate(model: LanguageModel, corpus: Corpus, settings: Settings) -> float:
    """The mean loss over fixed batches of held-out text."""
    data = corpus.batches(size=settings.batch, length=settings.length, seed=0, validation=True)
    return sum(model.loss(window).item() for window in islice(data, settings.evaluate_batches)) / settings.evaluate_batches
