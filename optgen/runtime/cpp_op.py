"""C++ kernels under torch.compile: the step of a group is one op, which torch's compiler calls and does not look into.

The op advances step counters and scalar states and computes the group's scalars as an eager step does, so a compiled
step has its bits. A graph holds one call of it for each group, and the hyperparameters as tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from optgen.runtime.backends import constant_when_traced, launch
from optgen.runtime.batches import NO_SCALAR, Collected, divide, make_batches
from optgen.runtime.layout import WHOLE

if TYPE_CHECKING:
    from optgen.runtime.description import Description

__all__ = ["divided", "step_by_op"]

NAMESPACE = "optgen"
# Of each parameter `kernels` has the place of its kernel and `shards` three numbers, or nothing where all are whole. Of what
# its kernel takes, and of scalar states behind that, `states` has those that exist; `absent` are the places of the others.
SCHEMA = (
    "(str program, Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] states, Tensor(c!)[] steps, Tensor[] rounding_keys, "
    "Tensor[] hypers, int[] kernels, int[] shards, int[] absent) -> ()"
)
UNIT = torch.ones(1, dtype=torch.float64, device="cpu")  # the compiler takes a float64 tensor of shape () for a number


class Program(NamedTuple):
    """What a call of the op runs: the kernels of a class with these compile-time flags; see `launch` for `auto`."""

    optimizer: type[Any]
    flags: dict[str, bool]
    low_precision: str
    auto: bool


_programs: dict[str, Program] = {}  # by the text that stands for each in graphs
_defined: dict[str, torch.library.Library] = {}  # the op, by its name; one at most


def step_by_op(
    optimizer: type[Any],
    flags: dict[str, bool],
    low_precision: str,
    found: Collected,
    hypers: Sequence[float | Tensor],
    *,
    auto: bool,
) -> None:
    """Trace the step of a group: a call of the op.

    Args:
        optimizer: the class.
        flags: of the group, as `low_precision` is.
        low_precision: how 16-bit parameters keep small changes.
        found: parameters on the CPU that have gradients, and what belongs to them.
        hypers: the group's numbers; none of them enters the graph as a number, so none makes it trace anew.
        auto: take torch where C++ cannot be compiled.
    """
    stand_ins = _stand_ins(optimizer.description, found.params, found.kernels)
    slots = [*found.tensors, *found.scalar_states]
    absent = [i for i, (slot, other) in enumerate(zip(slots, stand_ins, strict=True)) if slot is other]
    states = [slot for slot, other in zip(slots, stand_ins, strict=True) if slot is not other]
    shards = found.shards if found.shards != [*WHOLE] * len(found.params) else []
    getattr(torch.ops.optgen, _operator())(
        _program(optimizer, flags, low_precision, auto),
        found.params,
        found.grads,
        states,
        found.steps,
        found.rounding_keys,
        [UNIT * value for value in hypers],
        found.kernels,
        shards,
        absent,
    )


def _stand_ins(description: Description, params: Sequence[Tensor], kernels: Sequence[int]) -> list[Tensor]:
    """What stands for each tensor that a kernel takes, and for each scalar state, where it does not exist."""
    taken = [p for p, kernel in zip(params, kernels, strict=True) for _ in description.kernels[kernel].keys]
    return taken + [NO_SCALAR for kernel in kernels for _ in description.rule_of(kernel).scalars]


@constant_when_traced
def _program(optimizer: type[Any], flags: Mapping[str, bool], low_precision: str, auto: bool) -> str:
    """The text that stands for a program, which is known from then on."""
    chosen = [f"{name}={int(value)}" for name, value in flags.items()]
    name = f"{optimizer.__module__}.{optimizer.__qualname__}"
    text = " ".join([name, *chosen, f"low_precision={low_precision}", f"backend={'auto' if auto else 'cpp'}"])
    while text in _programs and _programs[text].optimizer is not optimizer:  # a module that was built and imported anew
        text += "'"
    _programs[text] = Program(optimizer, dict(flags), low_precision, auto)
    return text


@constant_when_traced
def _operator() -> str:
    """The name of the op, which is defined when it is first asked for; a vendored copy of this module has its own."""
    if _defined:
        return next(iter(_defined))
    name = re.sub(r"\W", "_", __name__)
    while hasattr(torch.ops.optgen, name):
        name += "_"
    made = torch.library.Library(NAMESPACE, "FRAGMENT")
    made.define(name + SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))
    made.impl(name, _step, "CPU")
    torch.library.register_fake(f"{NAMESPACE}::{name}", _fake_step, lib=made)
    _defined[name] = made
    return name


@torch.no_grad()
def _step(
    program: str,
    params: list[Tensor],
    grads: list[Tensor],
    states: list[Tensor],
    steps: list[Tensor],
    rounding_keys: list[Tensor],
    hypers: list[Tensor],
    kernels: list[int],
    shards: list[int],
    absent: list[int],
) -> None:
    """The op: the eager step of a group. The schema says which lists it changes."""
    if program not in _programs:
        raise RuntimeError(f"{program!r} was compiled in another process: compile the optimizer's step in this one")
    optimizer, flags, low_precision, auto = _programs[program]
    description = optimizer.description
    slots = _stand_ins(description, params, kernels)
    missing, present = set(absent), iter(states)
    slots = [slot if i in missing else next(present) for i, slot in enumerate(slots)]
    taken = sum(len(description.kernels[kernel].keys) for kernel in kernels)
    found = Collected(
        params=params,
        grads=grads,
        steps=steps,
        rounding_keys=rounding_keys,
        scalar_states=slots[taken:],
        tensors=slots[:taken],
        kernels=kernels,
        shards=shards or [*WHOLE] * len(params),
    )
    batches = make_batches(description, flags, optimizer.rule_scalars(), low_precision, divide(description, found), [*hypers])
    launch(optimizer, "cpp", batches, auto=auto, compiled=False)


def _fake_step(*_: Any) -> None:
    """What torch's compiler runs in place of the op: nothing comes of it."""


def divided(description: Description, found: Collected, chosen: Sequence[bool]) -> tuple[Collected, Collected]:
    """The parameters for which `chosen` is true, with what belongs to them, and the others."""
    return _only(description, found, chosen, True), _only(description, found, chosen, False)


def _only(description: Description, found: Collected, chosen: Sequence[bool], wanted: bool) -> Collected:
    kept = Collected([], [], [], [], [], [], [], [])
    first = first_scalar = 0
    for i, kernel in enumerate(found.kernels):
        end = first + len(description.kernels[kernel].keys)
        end_scalar = first_scalar + len(description.rule_of(kernel).scalars)
        if chosen[i] == wanted:
            kept.params.append(found.params[i])
            kept.grads.append(found.grads[i])
            kept.steps.append(found.steps[i])
            kept.rounding_keys.extend(found.rounding_keys[i : i + 1])
            kept.scalar_states.extend(found.scalar_states[first_scalar:end_scalar])
            kept.tensors.extend(found.tensors[first:end])
            kept.kernels.append(kernel)
            kept.shards.extend(found.shards[3 * i : 3 * i + 3])
        first, first_scalar = end, end_scalar
    return kept
