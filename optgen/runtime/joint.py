"""Reductions of several parameters: all of them wait in the middle of a step until each has its own part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optgen.runtime.layout import frame

__all__ = ["Joint", "Part", "Phases", "join", "last_phase", "run_phases"]

TAKEN: dict[str, Callable[..., Tensor]] = {"sum": torch.sum, "mean": torch.sum, "max": torch.amax, "min": torch.amin}


class Joint(NamedTuple):
    """A reduction of all parameters of a `scope`, "group" or "optimizer", that a rule updates: `op` of what each has left.

    Parameters wait for it behind phase `phase` of their kernels, 1, 2, ...; `slot` is the place of the number among the tensors
    of a kernel that works on addresses, and `over` says what has values: each "element", "row", "col" or "matrix". Kernels of a
    rule have the same `name` for it, and different rules different ones. Parameters take part whose flags are as `when` says.
    """

    name: str
    scope: str
    op: str
    phase: int
    slot: int = 0
    over: str = "element"
    when: tuple[tuple[str, bool], ...] = ()

    def takes(self, flags: Mapping[str, Any]) -> bool:
        """Whether parameters with these flags take part."""
        return all(flags[flag] == holds for flag, holds in self.when)

    def part(self, group: int, number: Tensor, shape: Sequence[int]) -> Part:
        """What a parameter of this shape has left."""
        return Part(self, group, number, math.prod(shape if self.over == "element" else frame(shape, self.over)))


class Part(NamedTuple):
    """What one parameter has left of a reduction: a number, which takes the result, of so many values, beside its group."""

    joint: Joint
    group: int
    number: Tensor
    size: int


Phases = Iterator[list[Part]]  # the step of some parameters: what they have left at each point where they wait for others


def run_phases(steps: Iterable[Phases]) -> None:
    """Run steps beside one another, from one point where all parameters wait to the next."""
    running = list(steps)
    while running:
        found = [(step, next(step, None)) for step in running]
        join(part for _, parts in found if parts is not None for part in parts)
        running = [step for step, parts in found if parts is not None]


def last_phase(kernels: Iterable[tuple[Joint, ...]]) -> int:
    """How often the parameters of these kernels wait for one another."""
    return max([0, *[joint.phase for kernel in kernels for joint in kernel]])


def join(parts: Iterable[Part]) -> None:
    """Give every parameter the reduction of all: computed in float64, in the order of the parts, without waiting for a device."""
    alike: dict[tuple[str, int], list[Part]] = {}
    for part in parts:
        alike.setdefault((part.joint.name, part.group if part.joint.scope == "group" else -1), []).append(part)
    for found in alike.values():
        op, numbers, device = found[0].joint.op, [part.number for part in found], found[0].number.device
        here = [number.reshape(1) if number.device == device else number.reshape(1).to(device) for number in numbers]
        result = TAKEN[op](torch.cat(here).to(torch.float64), dim=0)
        if op == "mean":
            result = result / sum(part.size for part in found)
        torch._foreach_copy_(numbers, [result.view_as(number) for number in numbers])
