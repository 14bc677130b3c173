"""The parameters of a group -> batches: those that one kernel updates with the same flags, and their host scalars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optgen.runtime import keys
from optgen.runtime.description import Description
from optgen.runtime.layout import WHOLE, Shard
from optgen.runtime.low_precision import effective_mode
from optgen.runtime.states import real_dtype

__all__ = ["NO_KEY", "NO_SCALAR", "Batch", "Collected", "make_batches", "take_rows"]

NO_KEY = torch.zeros((), dtype=torch.int64, device="cpu")  # of a parameter that nothing random happens to
ONE = torch.ones((), dtype=torch.float32, device="cpu")
NO_SCALAR = torch.zeros((), dtype=torch.float64, device="cpu")  # a scalar state that does not exist under these flags
Scalars = Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


class Collected(NamedTuple):
    """What is collected of a group's parameters that have gradients, in their order; shards of those that are sharded.

    `shards` holds three numbers of each (see `Shard`), `scalar_states` the scalar states and `tensors` the tensors that
    its kernel takes, one after the other.
    """

    params: list[Tensor]
    grads: list[Tensor]
    steps: list[Tensor]
    rounding_keys: list[Tensor]
    scalar_states: list[Tensor]
    tensors: list[Tensor]
    kernels: list[int]
    shards: list[int]


class Batch(NamedTuple):
    """Parameters of one group that the same kernel updates with the same flags.

    `tensors` holds each parameter's state tensors in the order of the kernel's arguments; `table` is (n, columns) in the
    dtype of the arithmetic, on the CPU; `words` is int32 (n, 2) on the CPU, or None where nothing in the group is random.
    """

    kernel: int
    flags: dict[str, bool | str]
    params: list[Tensor]
    grads: list[Tensor]
    tensors: list[list[Tensor]]
    shards: list[Shard]
    table: Tensor
    words: Tensor | None


def hyper_values(description: Description, group: dict[str, Any]) -> list[float | Tensor]:
    """The numbers of a group, as torch multiplies them into float64 tensors.

    Raises:
        TypeError, ValueError: for what is no number, or a tuple of another length.
    """
    values: list[float | Tensor] = []
    for hyper in description.hypers:
        if not hyper.flag and not hyper.choices:
            given = tuple(group[hyper.name]) if hyper.names else (group[hyper.name],)
            if len(given) != max(len(hyper.names), 1):
                raise ValueError(f"{description.name}: {hyper.name} must be {len(hyper.names)} numbers, got {given!r}")
            values += [_number(description.name, hyper.name, value) for value in given]
    return values


def make_batches(
    description: Description,
    flags: dict[str, bool],
    scalars: Scalars,
    group: dict[str, Any],
    found: Collected,
    hypers: list[float | Tensor],
) -> list[Batch]:
    """Advance the step counters of a group and compute its scalars."""
    params, kernels = found.params, found.kernels
    if not params:
        return []
    torch._foreach_add_(found.steps, ONE)  # a number would become a tensor for each of them
    t = torch.stack(found.steps).to(torch.float64)
    words = keys.step_words(torch.stack(found.rounding_keys), t) if found.rounding_keys else None
    starts = _starts(description, kernels)
    batches = []
    for (index, dtype, _), at in _places(params, kernels).items():
        columns = _table(description, flags, scalars, hypers, index, t, found.scalar_states, at)
        taken: dict[str, bool | str] = {flag: flags[flag] for flag in description.kernels[index].flags}
        taken["low_precision"] = effective_mode(dtype, group["low_precision"])
        batches.append(
            Batch(
                kernel=index,
                flags=taken,
                params=[params[i] for i in at],
                grads=[found.grads[i] for i in at],
                tensors=[found.tensors[starts[i] : starts[i + 1]] for i in at],
                shards=[_shard(found.shards[3 * i : 3 * i + 3]) for i in at],
                table=columns.to(real_dtype(dtype)),
                words=None if words is None else take_rows(words, at),
            )
        )
    return batches


def _shard(numbers: list[int]) -> Shard:
    return Shard(*numbers) if numbers != [0, 1, 0] else WHOLE


def _starts(description: Description, kernels: list[int]) -> list[int]:
    """Where each parameter's state tensors begin in the flat list."""
    starts = [0]
    for index in kernels:
        starts.append(starts[-1] + len(description.kernels[index].keys))
    return starts


def _table(
    description: Description,
    flags: dict[str, bool],
    scalars: Scalars,
    hypers: list[float | Tensor],
    kernel: int,
    t: Tensor,
    scalar_states: list[Tensor],
    at: list[int],
) -> Tensor:
    """The host scalars of the parameters `at`, (n, columns) float64; scalar states take their new values."""
    t = take_rows(t, at)
    ones = torch.ones_like(t)
    values = [ones * value for value in (*hypers, *description.kernels[kernel].facts)]
    names = [state.name for state in description.states if state.scalar]
    olds = [[scalar_states[i * len(names) + j] for i in at] for j in range(len(names))]
    values += [torch.stack(old) for old in olds]
    columns, outputs = scalars(t, *values, **flags)
    for name, new in zip(description.outputs, outputs, strict=True):
        if description.state(name).exists(flags):
            torch._foreach_copy_(olds[names.index(name)], list(new.unbind()))
    if not columns:
        return torch.zeros(len(at), 0, dtype=torch.float64, device="cpu")
    return torch.stack(columns, dim=1)


def _number(owner: str, name: str, value: Any) -> float | Tensor:
    if isinstance(value, Tensor):
        return value.reshape(()).to("cpu", torch.float64)
    if isinstance(value, float):
        return value
    # torch.compile passes an int here that it cannot ask for its attributes
    if not isinstance(value, int) and (isinstance(value, str) or not hasattr(value, "__float__")):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    return float(value)


def _places(params: list[Tensor], kernels: list[int]) -> dict[tuple[int, torch.dtype, torch.device], list[int]]:
    """The parameters of one kernel, dtype and device, which share a table."""
    places: dict[tuple[int, torch.dtype, torch.device], list[int]] = {}
    for i, p in enumerate(params):
        places.setdefault((kernels[i], p.dtype, p.device), []).append(i)
    return places


def take_rows(table: Tensor, at: list[int]) -> Tensor:
    """The rows `at`, ascending; all of them as they are."""
    return table if len(at) == len(table) else table[at]
