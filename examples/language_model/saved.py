"""Runs that are saved when they end, so that an interrupted study goes on with those that are missing."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import click

from language_model.corpus import Corpus
from language_model.optimizers import find_optimizer
from language_model.training import Run, Settings, train

__all__ = ["saved_run"]


def saved_run(
    name: str,
    corpus: Corpus,
    settings: Settings,
    seed: int,
    out: Path,
    *,
    compiled: bool,
    options: dict[str, Any] | None = None,
) -> Run:
    """One run of the optimizer `name` with these further arguments, from its file in `out` if it has been made so."""
    label, make = find_optimizer(name, compiled=compiled, **(options or {}))
    path = out / f"{label.replace(' ', '_')}-{settings.lr:g}-{seed}.json"
    made_with = {**dataclasses.asdict(settings), "options": repr(options)}
    if path.exists():
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["settings"] == made_with:
            return _load(saved["run"])
    click.echo(f"{label}, lr {settings.lr:g}, seed {seed}")
    run = train(label, make, corpus, settings, seed, _report)
    _save(path, {"settings": made_with, "run": dataclasses.asdict(run)})
    return run


def _report(step: int, loss: float) -> None:
    if step % 100 == 0:
        click.echo(f"  step {step}: loss {loss:.3f}")


def _load(saved: dict[str, Any]) -> Run:
    """A run as it was saved; the keys of a JSON object are text."""
    run = Run(**saved)
    run.validation = {int(step): loss for step, loss in run.validation.items()}
    return run


def _save(path: Path, data: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(data) + "\n", encoding="utf-8")
    os.replace(part, path)
