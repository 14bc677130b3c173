"""What an eager step found out of each parameter. While nothing changed, the next step need not look again.

Nothing is kept alive by it: states that are replaced, moved or dropped between steps are free, and are looked at anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from operator import call, is_
from typing import TYPE_CHECKING, Any

from torch import Tensor

from optgen.runtime import sharding
from optgen.runtime.batches import NO_KEY, NO_SCALAR, Collected
from optgen.runtime.layout import WHOLE

if TYPE_CHECKING:
    from optgen.runtime.description import Description

__all__ = ["Known"]

ABSENT = -1


class _Parameter:
    """A parameter, its gradient and its state as they were checked, and which of the state's tensors its update takes."""

    __slots__ = ("device", "dtype", "grad", "kept", "kernel", "keys", "param", "scalars", "shape", "step", "taken", "word")

    def __init__(self, description: Description, p: Tensor, grad: Tensor, state: Mapping[str, Tensor], kernel: int) -> None:
        self.param = weakref.ref(p)
        self.shape, self.dtype, self.device = p.shape, p.dtype, p.device
        self.grad = (type(grad), grad.dtype, grad.layout)
        self.keys = tuple(state)
        self.kept = tuple(weakref.ref(tensor) for tensor in state.values())
        self.kernel = kernel
        place = {key: i for i, key in enumerate(self.keys)}
        self.step = place["step"]
        self.word = place.get("rounding_key", ABSENT)
        self.scalars = tuple(place.get(s.key, ABSENT) for s in description.states if s.scalar)
        self.taken = tuple(place.get(key, ABSENT) for _, key in description.kernels[kernel].keys)

    def holds(self, p: Tensor, grad: Tensor, state: Mapping[str, Tensor], values: tuple[Tensor, ...]) -> bool:
        """Whether all is as it was."""
        return (
            self.param() is p
            and tuple(state) == self.keys
            and all(map(is_, map(call, self.kept), values))
            and p.shape == self.shape
            and p.dtype == self.dtype
            and p.device == self.device
            and (type(grad), grad.dtype, grad.layout) == self.grad
        )


class Known:
    """The parameters of an optimizer, by id, and the settings of its groups under which they were looked at."""

    def __init__(self, description: Description) -> None:
        """Know nothing."""
        self.description = description
        self.settings: list[tuple[Any, ...]] = []
        self.parameters: dict[int, _Parameter] = {}

    @staticmethod
    def _settings(group: Mapping[str, Any], flags: Mapping[str, bool]) -> tuple[Any, ...]:
        return (*flags.values(), group["low_precision"], group["storage"])

    def remember(
        self, groups: list[tuple[dict[str, Any], dict[str, bool], Collected]], states: Mapping[Tensor, dict[str, Tensor]]
    ) -> None:
        """Keep what a step has collected, unless parameters are sharded: then each step looks again."""
        self.settings, self.parameters = [], {}
        for group, flags, found in groups:
            self.settings.append(self._settings(group, flags))
            kernels = dict(zip(map(id, found.params), found.kernels, strict=True))
            for p in group["params"]:
                if p.grad is None:
                    continue
                if id(p) not in kernels or sharding.is_sharded(p):
                    self.settings = []
                    return
                self.parameters[id(p)] = _Parameter(self.description, p, p.grad, states[p], kernels[id(p)])

    def recall(
        self, groups: list[tuple[dict[str, Any], dict[str, bool]]], states: Mapping[Tensor, dict[str, Tensor]]
    ) -> list[Collected] | None:
        """What a step would collect of each group, or None if anything changed."""
        if [self._settings(*group) for group in groups] != self.settings:
            return None
        collected = []
        for group, _ in groups:
            found = self._collect(group["params"], states)
            if found is None:
                return None
            collected.append(found)
        return collected

    def _collect(self, params: list[Tensor], states: Mapping[Tensor, dict[str, Tensor]]) -> Collected | None:
        found = Collected([], [], [], [], [], [], [], [])
        seen: set[int] = set()
        parameters = self.parameters
        for p in params:
            grad = p.grad
            if grad is None or id(p) in seen:
                continue
            seen.add(id(p))
            known = parameters.get(id(p))
            if known is None:
                return None
            state = states[p]
            values = tuple(state.values())
            if not known.holds(p, grad, state, values):
                return None
            found.params.append(p)
            found.grads.append(grad)
            found.steps.append(values[known.step])
            found.rounding_keys.append(NO_KEY if known.word == ABSENT else values[known.word])
            found.scalar_states.extend([NO_SCALAR if i == ABSENT else values[i] for i in known.scalars])
            found.tensors.extend([p if i == ABSENT else values[i] for i in known.taken])
            found.kernels.append(known.kernel)
            found.shards.extend(WHOLE)
        if all(key is NO_KEY for key in found.rounding_keys):
            found.rounding_keys.clear()
        return found
