"""The parameters of a group -> parts that one kernel updates -> batches: parts with their flags and host scalars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optgen.runtime import keys
from optgen.runtime.description import Description
from optgen.runtime.host import Scalar
from optgen.runtime.layout import WHOLE, Shard
from optgen.runtime.low_precision import effective_mode
from optgen.runtime.states import real_dtype

__all__ = ["NO_KEY", "NO_SCALAR", "Batch", "Collected", "Part", "Scalars", "divide", "hyper_values", "make_batches"]

NO_KEY = torch.zeros((), dtype=torch.int64, device="cpu")  # of a parameter that nothing random happens to
ONE = torch.ones((), dtype=torch.float32, device="cpu")
NO_SCALAR = torch.zeros((), dtype=torch.float64, device="cpu")  # a scalar state that does not exist under these flags
Scalars = Callable[..., tuple[tuple[Scalar, ...], tuple[Scalar, ...]]]


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


class Part(NamedTuple):
    """Parameters of one group that have the same kernel, dtype, device and inputs, in columns.

    `scalar_states` has a list for each scalar state and `tensors` one for each tensor that the kernel takes, in the order of
    its arguments, the parameters in place of one that does not exist. Without anything random there are no rounding keys.
    """

    kernel: int
    params: list[Tensor]
    grads: list[Tensor]
    steps: list[Tensor]
    rounding_keys: list[Tensor]
    scalar_states: list[list[Tensor]]
    tensors: list[list[Tensor]]
    shards: list[Shard]
    given: tuple[str, ...] = ()  # the inputs that this step has of these parameters


class Batch(NamedTuple):
    """A part and what its kernel is launched with.

    `columns` are the lists of parameters, gradients and of each tensor that the kernel takes; `table` is (n, columns) in the
    dtype of the arithmetic, on the CPU; `words` is int32 (n, 2) on the CPU, or None where nothing is random; `group` is the
    place of the parameter group.
    """

    kernel: int
    flags: dict[str, bool | str]
    columns: list[list[Tensor]]
    shards: list[Shard]
    table: Tensor
    words: Tensor | None
    group: int = 0


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


def divide(description: Description, found: Collected) -> list[Part]:
    """What was collected of a group, by kernel, dtype, device and what is given of inputs."""
    kernels = description.kernels
    starts = [0]  # of each parameter's tensors
    for index in found.kernels:
        starts.append(starts[-1] + len(kernels[index].keys))
    counts = [len(rule.scalars) for rule in description.rules]
    firsts = [0]  # of each parameter's scalar states
    for index in found.kernels:
        firsts.append(firsts[-1] + counts[description.owners[index]])
    places: dict[tuple[int, torch.dtype, torch.device, tuple[str, ...]], list[int]] = {}
    inputs = [kernel.inputs for kernel in kernels]
    for i, p in enumerate(found.params):
        # the parameter stands in for what does not exist
        given = tuple(name for name, j in inputs[found.kernels[i]] if found.tensors[starts[i] + j] is not p)
        places.setdefault((found.kernels[i], p.dtype, p.device, given), []).append(i)
    parts = []
    for (index, _, _, given), at in places.items():
        parts.append(
            Part(
                kernel=index,
                params=[found.params[i] for i in at],
                grads=[found.grads[i] for i in at],
                steps=[found.steps[i] for i in at],
                rounding_keys=[found.rounding_keys[i] for i in at] if found.rounding_keys else [],
                scalar_states=[
                    [found.scalar_states[firsts[i] + j] for i in at] for j in range(counts[description.owners[index]])
                ],
                tensors=[[found.tensors[starts[i] + j] for i in at] for j in range(len(kernels[index].keys))],
                shards=[_shard(found.shards[3 * i : 3 * i + 3]) for i in at],
                given=given,
            )
        )
    return parts


def _shard(numbers: list[int]) -> Shard:
    return Shard(*numbers) if numbers != [0, 1, 0] else WHOLE


def make_batches(
    description: Description,
    flags: dict[str, bool],
    scalars: Sequence[Scalars],
    low_precision: str,
    parts: list[Part],
    hypers: list[float | Tensor],
    group: int = 0,
) -> list[Batch]:
    """Advance the step counters of the group at a place and compute its scalars, by the function of each parameter's rule."""
    batches = []
    for part in parts:
        _advance(part.steps)
        t = torch.stack(part.steps).to(torch.float64)
        dtype = part.params[0].dtype
        taken: dict[str, bool | str] = {flag: flags[flag] for flag in description.kernels[part.kernel].flags}
        taken["low_precision"] = effective_mode(dtype, low_precision)
        batches.append(
            Batch(
                kernel=part.kernel,
                flags=taken,
                columns=[part.params, part.grads, *part.tensors],
                shards=part.shards,
                table=_table(description, flags, scalars, hypers, part, t).to(real_dtype(dtype)),
                words=keys.step_words(torch.stack(part.rounding_keys), t) if part.rounding_keys else None,
                group=group,
            )
        )
    return batches


def _advance(steps: list[Tensor]) -> None:
    """Add one to each; as a step of SGD, for torch._foreach_add_ takes ten times as long for tensors of one element.

    That step does not look whether tensors were made in inference mode, which torch._foreach_add_ then refuses.
    """
    if (
        torch.compiler.is_compiling()
        or {step.dtype for step in steps} != {torch.float32}
        or any(map(Tensor.is_inference, steps))
    ):
        torch._foreach_add_(steps, ONE)
        return
    rest: dict[str, Any] = dict.fromkeys(("weight_decay", "momentum", "dampening"), 0.0)
    rest |= dict.fromkeys(("nesterov", "maximize", "is_first_step"), False)
    torch._fused_sgd_(steps, [ONE] * len(steps), [], lr=-1.0, **rest)
    torch.autograd.graph.increment_version(steps)


def _table(
    description: Description,
    flags: dict[str, bool],
    scalars: Sequence[Scalars],
    hypers: list[float | Tensor],
    part: Part,
    t: Tensor,
) -> Tensor:
    """The host scalars of a part, (n, columns) float64; scalar states take their new values."""
    place = description.owners[part.kernel]
    rule, taken = description.rules[place], description.places[place]
    numbers = hypers if taken is None else [hypers[i] for i in taken]
    values = [*numbers, *description.kernels[part.kernel].facts]
    asked = flags if rule.flags is None else {flag: flags[flag] for flag in rule.flags}
    olds = [torch.stack(old) for old in part.scalar_states]
    made = None if torch.compiler.is_compiling() else _of_floats(scalars[place], asked, values, t, olds)
    table, outputs = made or _of_tensors(scalars[place], asked, values, t, olds)
    names = [state.name for state in rule.states if state.scalar]
    for name, new in zip(rule.outputs, outputs, strict=True):
        if rule.state(name).exists(flags):
            torch._foreach_copy_(part.scalar_states[names.index(name)], list(new.unbind()))
    return table


def _of_floats(
    scalars: Scalars, flags: dict[str, bool], values: list[float | Tensor], t: Tensor, olds: list[Tensor]
) -> tuple[Tensor, list[Tensor]] | None:
    """The table and new values of scalar states, computed once for parameters that are alike; None where floats cannot."""
    numbers = [float(value) for value in values]
    rows = list(zip(t.tolist(), *[old.tolist() for old in olds], strict=True))
    places = {row: i for i, row in enumerate(dict.fromkeys(rows))}
    try:
        made = [scalars(step, *numbers, *old, **flags) for step, *old in places]
        tables = [torch.tensor(part, dtype=torch.float64, device="cpu") for part in zip(*made, strict=True) if part[0]]
    except (ArithmeticError, TypeError, ValueError):
        return None
    if len(places) == 1:
        tables = [table.expand(len(rows), -1) for table in tables]
    else:
        at = torch.tensor([places[row] for row in rows], device="cpu")
        tables = [table[at] for table in tables]
    columns, outputs = made[0]
    table = tables[0] if columns else torch.zeros(len(rows), 0, dtype=torch.float64, device="cpu")
    return table, list(tables[-1].unbind(1)) if outputs else []


def _of_tensors(
    scalars: Scalars, flags: dict[str, bool], values: list[float | Tensor], t: Tensor, olds: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The same, computed for each parameter."""
    ones = torch.ones_like(t)
    columns, outputs = scalars(t, *[ones * value for value in values], *olds, **flags)
    table = torch.zeros(len(t), 0, dtype=torch.float64, device="cpu")
    return torch.stack([ones * column for column in columns], dim=1) if columns else table, [ones * new for new in outputs]


def _number(owner: str, name: str, value: Any) -> float | Tensor:
    if isinstance(value, Tensor):
        return value.reshape(()).to("cpu", torch.float64)
    if isinstance(value, float):
        return value
    # torch.compile passes an int here that it cannot ask for its attributes
    if not isinstance(value, int) and (isinstance(value, str) or not hasattr(value, "__float__")):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    return float(value)
