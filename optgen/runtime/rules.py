"""Which of a class's rules updates a parameter: its conditions ask for the whole shape, the name and the tags."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

__all__ = ["NamelessError", "Parameter", "check_tags", "is_like", "kernels_of", "parameters", "route"]


class NamelessError(ValueError):
    """A condition asks for the name of a parameter that has none."""


class Parameter(NamedTuple):
    """What a condition may ask of a parameter."""

    name: str | None
    shape: Sequence[int]
    tags: frozenset[str] = frozenset()

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    def size(self, dim: int) -> int:
        """The size of a dimension, counted from the end if it is negative; 1 of one that the parameter does not have."""
        return self.shape[dim] if -len(self.shape) <= dim < len(self.shape) else 1

    def named(self, *patterns: str) -> bool:
        """Whether its name is like one of the patterns, `*` standing for any letters, `?` for one and `[ab]` for a or b.

        Raises:
            NamelessError: if it has no name.
        """
        if self.name is None:
            raise NamelessError
        return is_like(self.name, patterns)

    def tagged(self, *tags: str) -> bool:
        """Whether it has one of the tags."""
        return not self.tags.isdisjoint(tags)


def kernels_of(optimizer: Any, group: Mapping[str, Any]) -> list[int]:
    """The kernel of each parameter of a group. Raises what `route` raises."""
    description, storage = optimizer.description, group["storage"]
    rules = route(optimizer, group)
    return [description.kernel_index(p.shape, storage, rule) for p, rule in zip(group["params"], rules, strict=True)]


def route(optimizer: Any, group: Mapping[str, Any]) -> list[int]:
    """For each parameter of a group the place of the first rule whose condition holds.

    Raises:
        ValueError: for a parameter that no rule updates, and for conditions on names where there are none.
        TypeError: for tags that are none.
    """
    description = optimizer.description
    if not description.has_rules:
        return [0] * len(group["params"])
    places = {rule.name: place for place, rule in enumerate(description.rules)}
    found = []
    for p, parameter in zip(group["params"], parameters(optimizer, group), strict=True):
        try:
            chosen = type(optimizer).rule(parameter)
        except NamelessError:
            message = "its rules ask for the names of parameters: pass model.named_parameters(), not model.parameters()"
            raise ValueError(f"{description.name}: {message}") from None
        if chosen is None:
            wanted = "; ".join(f"{rule.name} is for {rule.when}" for rule in description.rules)
            raise ValueError(f"{optimizer._owner(p)} of shape {tuple(p.shape)} is updated by no rule: {wanted}")
        found.append(places[chosen])
    return found


def parameters(optimizer: Any, group: Mapping[str, Any]) -> Iterator[Parameter]:
    """What conditions may ask of each parameter of a group."""
    owner, given = optimizer.description.name, group.get("tags", ())
    if isinstance(given, str) or not all(isinstance(tag, str) for tag in given):
        raise TypeError(f"{owner}: the tags of a group are a list of names such as ['embedding'], got {given!r}")
    names: Sequence[str | None] = group.get("param_names") or [None] * len(group["params"])
    for p, name in zip(group["params"], names, strict=True):
        by_name = [tag for tag, patterns in optimizer._tags.items() if name is not None and is_like(name, patterns)]
        yield Parameter(name, p.shape, frozenset([*given, *by_name]))


def check_tags(optimizer: Any) -> None:
    """Refuse tags that were given by name and that no rule asks for, and patterns that no parameter has.

    Raises:
        ValueError: with the tag or the pattern.
        TypeError: for patterns that are not a list of texts.
    """
    description, names = optimizer.description, [n for group in optimizer.param_groups for n in group.get("param_names", ())]
    for tag, patterns in optimizer._tags.items():
        if tag not in description.tags:
            known = ", ".join(map(repr, description.tags))
            raise ValueError(f"{description.name}: no rule asks for the tag {tag!r} (known: {known})")
        if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
            message = f"the patterns of tag {tag!r} are a list such as ['*.wte.weight']"
            raise TypeError(f"{description.name}: {message}, got {patterns!r}")
        if not names:
            raise ValueError(
                f"{description.name}: tags by name need names: pass model.named_parameters(), not model.parameters()"
            )
        for pattern in patterns:
            if not _is_like_any(names, pattern):
                raise ValueError(f"{description.name}: no parameter is called {pattern!r}, to be tagged {tag!r}")


def is_like(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name is like one of the patterns, as `Parameter.named` has them."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_like_any(names: Sequence[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)
