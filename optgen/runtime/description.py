"""What a generated class says of itself: hyperparameters, states and kernels, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optgen.runtime.layout import Codes
from optgen.runtime.low_precision import check_low_precision

__all__ = ["Description", "Hyper", "KernelInfo", "State"]

FORMAT = 1  # of the state dict; raised when a key changes its meaning


@dataclass(frozen=True)
class Hyper:
    """A constructor argument and its range; `names` are the parts of a tuple, `choices` the words of a choice."""

    name: str
    names: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    flag: bool = False
    min: float | None = None
    above: float | None = None
    max: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class State:
    """What is remembered of a parameter, under `key` in its state dict.

    A scalar is a float64 tensor of shape (). Otherwise one value per element, in `dtype` or else that of the arithmetic,
    or, where `codes` applies to the parameter's shape, packed codes under `key.codes` and block scalars under `key.<name>`.
    `flag` and `holds` say under which compile-time flag the state exists.
    """

    name: str
    key: str
    scalar: bool = False
    flag: str | None = None
    holds: bool = True
    codes: Codes | None = None
    dtype: str | None = None

    def exists(self, flags: dict[str, bool]) -> bool:
        """Whether a parameter has this state under these flags."""
        return self.flag is None or flags[self.flag] == self.holds


@dataclass(frozen=True)
class KernelInfo:
    """One update function: the states it keeps as codes, the state-dict keys it takes, the numbers that depend on it."""

    name: str
    stored: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]  # (state, key in the state dict), in the order of the function's arguments
    flags: tuple[str, ...] = ()  # the compile-time flags it takes
    facts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Description:
    """All of it."""

    name: str
    hypers: tuple[Hyper, ...]
    states: tuple[State, ...]
    kernels: tuple[KernelInfo, ...]
    columns: tuple[str, ...]
    outputs: tuple[str, ...] = ()  # scalar states that a step changes, in the order `scalars` returns them
    random: bool = False  # whether a state is rounded stochastically

    def kernel_index(self, shape: Sequence[int]) -> int:
        """Which kernel updates a parameter of this global shape."""
        stored = {state.name for state in self.states if state.codes is not None and state.codes.applies_to(shape)}
        return next(i for i, kernel in enumerate(self.kernels) if set(kernel.stored) == stored)

    def state(self, name: str) -> State:
        """The state of this name."""
        return next(state for state in self.states if state.name == name)

    def check(self, group: dict[str, Any]) -> None:
        """Refuse hyperparameters outside their ranges.

        Raises:
            ValueError: with the name, the value and what is allowed.
            TypeError: for a flag, number or tuple of a wrong type.
        """
        for hyper in self.hypers:
            _check(self.name, hyper, group[hyper.name])
        check_low_precision(self.name, group["low_precision"])


def _check(owner: str, hyper: Hyper, value: Any) -> None:
    if hyper.flag:
        if not isinstance(value, bool):
            raise TypeError(f"{owner}: {hyper.name} must be True or False, got {value!r}")
    elif hyper.choices:
        if value not in hyper.choices:
            raise ValueError(f"{owner}: {hyper.name} must be one of {', '.join(map(repr, hyper.choices))}, got {value!r}")
    elif hyper.names:
        if not isinstance(value, tuple | list) or len(value) != len(hyper.names):
            raise ValueError(
                f"{owner}: {hyper.name} must be {len(hyper.names)} numbers ({', '.join(hyper.names)}), got {value!r}"
            )
        for name, number in zip(hyper.names, value, strict=True):
            _check_number(owner, f"{hyper.name} ({name})", hyper, number)
    else:
        _check_number(owner, hyper.name, hyper, value)


def _check_number(owner: str, name: str, hyper: Hyper, value: Any) -> None:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    if getattr(value, "numel", lambda: 1)() != 1:
        raise ValueError(f"{owner}: {name} as a tensor must have one element, got shape {tuple(value.shape)}")
    number = float(value)
    limits = (
        (hyper.min is not None and not number >= hyper.min, f"at least {hyper.min}"),
        (hyper.above is not None and not number > hyper.above, f"above {hyper.above}"),
        (hyper.max is not None and not number <= hyper.max, f"at most {hyper.max}"),
        (hyper.below is not None and not number < hyper.below, f"below {hyper.below}"),
        (not math.isfinite(number), "a finite number"),
    )
    broken = [text for is_broken, text in limits if is_broken]
    if broken:
        raise ValueError(f"{owner}: {name} must be {' and '.join(broken)}, got {value!r}")
