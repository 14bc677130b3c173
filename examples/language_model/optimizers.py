"""Optimizers by name: a spec that comes with optgen, a spec file, or a class of torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import click
from torch import Tensor, nn
from torch.optim import Optimizer

from optgen import optimizer_class
from optgen.diagnostics import SpecError
from optgen.diagnostics.render import render_all
from optgen.runtime.optimizer import GeneratedOptimizer

__all__ = ["Factory", "find_optimizer", "state_bytes"]

Factory = Callable[..., Optimizer]


def find_optimizer(
    name: str, *, compiled: bool = False, tags: Mapping[str, Sequence[str]] | None = None, **options: Any
) -> tuple[str, Factory]:
    """The label and the constructor of an optimizer.

    Args:
        name: `solo` for a spec that comes with optgen, `my/spec.yaml` for a file, `torch.optim.AdamW` for a class.
        compiled: compile the update of a generated optimizer with torch.compile.
        tags: for some tags the names of the parameters that have them.
        options: further arguments of the constructor.

    Raises:
        click.UsageError: if there is no such optimizer.
    """
    found = _from_spec(name) if name.endswith((".yaml", ".py")) else _from_package(name)
    if issubclass(found, GeneratedOptimizer):
        made: Factory = partial(found, compile=compiled, **options)
        made = made if "weight_decay" in signature(found).parameters else partial(_without_decay, made)
        return found.__name__, partial(_tagged, made, tags) if tags else made
    label = f"torch {found.__name__}" if found.__module__.startswith("torch.") else found.__name__
    return label, partial(found, **options)


def _without_decay(make: Factory, params: Any, *, weight_decay: float = 0.0, **options: Any) -> Optimizer:
    """An optimizer whose rule has no weight decay."""
    if weight_decay:
        raise click.UsageError(f"this optimizer has no weight decay, and is asked for one of {weight_decay}")
    return make(params, **options)


def _tagged(
    make: Factory, tags: Mapping[str, Sequence[str]], params: Iterable[tuple[str, Tensor]], **options: Any
) -> Optimizer:
    """An optimizer with a group for the parameters of each tag, and one for all others."""
    known = {name: tag for tag, names in tags.items() for name in names}
    groups: dict[str, list[tuple[str, Tensor]]] = {}
    for name, p in params:
        groups.setdefault(known.get(name, ""), []).append((name, p))
    return make([{"params": members, "tags": [tag] if tag else []} for tag, members in groups.items()], **options)


def _from_spec(path: str) -> type[Optimizer]:
    """The class of a spec file."""
    try:
        return optimizer_class(path)
    except SpecError as error:
        raise click.UsageError("\n" + render_all(error.diagnostics, color=False)) from error


def _from_package(name: str) -> type[Optimizer]:
    """The class of a generated package of optgen, or of a module."""
    module, _, attribute = name.rpartition(".")
    if module:
        return _class(module, attribute)
    package = _module(f"optgen.generated.{name}", name)
    return _class(package.__name__, package.__all__[0])


def _class(module: str, attribute: str) -> type[Optimizer]:
    found = getattr(_module(module, f"{module}.{attribute}"), attribute, None)
    if not isinstance(found, type) or not issubclass(found, Optimizer):
        raise click.UsageError(f"{module} has no optimizer '{attribute}'")
    return found


def _module(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"there is no optimizer '{name}': take a name of `optgen list`, the path of a spec (mine.yaml), "
            "or a class such as torch.optim.AdamW"
        ) from error


def state_bytes(optimizer: Optimizer, model: nn.Module) -> float:
    """Bytes of state per parameter of the model; step counters and rounding keys are not counted."""
    tensors = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor) and value.ndim
    ]
    return sum(tensor.nbytes for tensor in tensors) / sum(p.numel() for p in model.parameters())
