"""What an eager step found out of each parameter. While nothing changed, the next step need not look again.

Nothing is kept alive by it: states that are replaced, moved or dropped between steps are free, and are looked at anew.
What is compared is compared by columns, one property of all parameters at a time: that leaves the loops to the interpreter's
own functions.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from itertools import repeat
from operator import call, is_, is_not
from typing import TYPE_CHECKING, Any

from torch import Tensor

from optgen.runtime import sharding
from optgen.runtime.batches import NO_SCALAR, Collected, Part
from optgen.runtime.layout import WHOLE

if TYPE_CHECKING:
    from optgen.runtime.description import Description

__all__ = ["Known"]

States = Mapping[Tensor, dict[str, Tensor]]


class _Parameter:
    """A parameter, its gradient and its state as they were checked."""

    __slots__ = ("device", "dtype", "grad", "kernel", "param", "shape", "state")

    def __init__(self, p: Tensor, grad: Tensor, state: Mapping[str, Tensor], kernel: int) -> None:
        self.param = weakref.ref(p)
        self.shape, self.dtype, self.device = p.shape, p.dtype, p.device
        self.grad = _kinds([grad])
        self.state = {key: weakref.ref(tensor) for key, tensor in state.items()}
        self.kernel = kernel


def _kinds(grads: list[Tensor]) -> list[Any]:
    """What must stay of gradients."""
    return [*map(type, grads), *[grad.dtype for grad in grads], *[grad.layout for grad in grads]]


class _Column:
    """A tensor of each parameter's state, which is there under `key`."""

    def __init__(self, key: str, members: list[_Parameter]) -> None:
        self.key = key
        self.kept = [member.state[key] for member in members]

    def found(self, states: list[dict[str, Tensor]]) -> list[Tensor] | None:
        """The tensors, if they are those that were checked."""
        key = self.key
        try:
            tensors = [state[key] for state in states]
        except KeyError:
            return None
        return tensors if all(map(is_, map(call, self.kept), tensors)) else None


class _KnownPart:
    """Parameters that make a `Part`."""

    def __init__(self, description: Description, members: list[_Parameter], at: list[int]) -> None:
        first = members[0]
        self.at, self.kernel, self.dtype, self.device = at, first.kernel, first.dtype, first.device
        self.shapes = [member.shape for member in members]
        self.grads = [kind for kinds in zip(*(member.grad for member in members), strict=True) for kind in kinds]
        self.lengths = [len(member.state) for member in members]
        self.shards = [WHOLE] * len(members)
        self.scalars = [state.key for state in description.rule_of(self.kernel).scalars]
        self.taken = [key for _, key in description.kernels[self.kernel].keys]
        wanted = ("step", "rounding_key", *self.scalars, *self.taken)
        self.columns = [_Column(key, members) for key in wanted if key in first.state]

    def found(self, params: list[Tensor], grads: list[Tensor], states: list[dict[str, Tensor]]) -> Part | None:
        """The part as it is now, or None if anything changed."""
        if not (
            [p.shape for p in params] == self.shapes
            and all(map(is_, [p.dtype for p in params], repeat(self.dtype)))
            and [p.device for p in params].count(self.device) == len(params)
            and _kinds(grads) == self.grads
            and list(map(len, states)) == self.lengths
        ):
            return None
        found: dict[str, list[Tensor]] = {}
        for column in self.columns:
            tensors = column.found(states)
            if tensors is None:
                return None
            found[column.key] = tensors
        return Part(
            kernel=self.kernel,
            params=params,
            grads=grads,
            steps=found["step"],
            rounding_keys=found.get("rounding_key", []),
            scalar_states=[found.get(key) or [NO_SCALAR] * len(params) for key in self.scalars],
            tensors=[found.get(key, params) for key in self.taken],
            shards=self.shards,
        )


class _KnownGroup:
    """The parameters of a group that have gradients, by part."""

    def __init__(self, description: Description, members: list[_Parameter]) -> None:
        self.params = [member.param for member in members]
        places: dict[tuple[Any, ...], list[int]] = {}
        for i, member in enumerate(members):
            # what exists of a state is the same in a part, unless it was loaded so
            places.setdefault((member.kernel, member.dtype, member.device, *member.state), []).append(i)
        self.parts = [_KnownPart(description, [members[i] for i in at], at) for at in places.values()]

    def has(self, params: list[Tensor]) -> bool:
        """Whether these are the parameters."""
        return len(params) == len(self.params) and all(map(is_, map(call, self.params), params))

    def found(self, params: list[Tensor], grads: list[Tensor], states: States) -> list[Part] | None:
        """The parts of these parameters as they are now, or None if anything changed."""
        kept = [states[p] for p in params]
        parts = []
        for known in self.parts:
            whole = len(self.parts) == 1
            chosen = [params, grads, kept] if whole else [[column[i] for i in known.at] for column in (params, grads, kept)]
            part = known.found(*chosen)
            if part is None:
                return None
            parts.append(part)
        return parts


class Known:
    """The parameters of an optimizer, by id, and the settings of its groups under which they were looked at."""

    def __init__(self, description: Description) -> None:
        """Know nothing."""
        self.description = description
        self._forget()

    def _forget(self) -> None:
        self.settings: list[tuple[Any, ...]] = []
        self.parameters: dict[int, _Parameter] = {}
        self.groups: dict[int, _KnownGroup] = {}  # by the group's place: those parameters that had gradients last

    @staticmethod
    def _settings(group: Mapping[str, Any], flags: Mapping[str, bool]) -> tuple[Any, ...]:
        return (*flags.values(), group["low_precision"], group["storage"], *group.get("tags", ()))

    def remember(self, groups: list[tuple[dict[str, Any], dict[str, bool], Collected]], states: States) -> None:
        """Keep what a step has collected, unless a parameter is sharded, listed twice or seen in another shape: then each step looks again."""
        self._forget()
        if any(rule.cut for rule in self.description.rules):
            return
        settings = []
        for group, flags, found in groups:
            settings.append(self._settings(group, flags))
            params = [p for p in group["params"] if p.grad is not None]
            if len(params) != len(found.params) or any(map(sharding.is_sharded, params)):
                return
            for p, kernel in zip(params, found.kernels, strict=True):
                assert p.grad is not None
                self.parameters[id(p)] = _Parameter(p, p.grad, states[p], kernel)
        self.settings = settings

    def recall(self, groups: list[tuple[dict[str, Any], dict[str, bool]]], states: States) -> list[list[Part]] | None:
        """What a step would find of each group, or None if anything changed."""
        if [self._settings(*group) for group in groups] != self.settings:
            return None
        found = []
        for place, (group, _) in enumerate(groups):
            parts = self._recall(place, group["params"], states)
            if parts is None:
                return None
            found.append(parts)
        return found

    def _recall(self, place: int, params: list[Tensor], states: States) -> list[Part] | None:
        grads: list[Any] = [p.grad for p in params]
        if not all(map(is_not, grads, repeat(None))):
            params, grads = [p for p in params if p.grad is not None], [grad for grad in grads if grad is not None]
        known = self.groups.get(place)
        if known is None or not known.has(params):
            members = [member for member in map(self.parameters.get, map(id, params)) if member is not None]
            if len(members) < len(params):
                return None
            known = self.groups[place] = _KnownGroup(self.description, members)
            if not known.has(params):  # ids are given again
                return None
        return known.found([*params], grads, states)
