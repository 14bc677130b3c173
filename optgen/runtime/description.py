"""What a generated class says of itself: hyperparameters, states and kernels, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optgen.runtime.given import INPUT
from optgen.runtime.joint import Joint
from optgen.runtime.layout import Codes, view_shape
from optgen.runtime.low_precision import check_low_precision

__all__ = ["Description", "Hyper", "KernelInfo", "RuleInfo", "State"]

MATRIX = 2  # dimensions
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

    A scalar is a float64 tensor of shape (), on the host, a whole state one in the dtype of the arithmetic beside the
    parameter, one with a `shape`, "[..., rows, 1]" or its kind, such a tensor of numbers. Otherwise one value per element, in `dtype` or else that of the arithmetic,
    or, where `codes` applies to the parameter's shape, packed codes under `key.codes` and block scalars under `key.<name>`;
    `levels` names what the codes stand for.
    `flag` and `holds` say under which compile-time flag the state exists. With a `scope`, "group" or "optimizer", it is one tensor
    in the states of all of its parameters, which starts as `first`: a number, or what a group has under this name. Of a hyperparameter
    in `same` all groups must have the same value.
    """

    name: str
    key: str
    scalar: bool = False
    shape: str = ""
    flag: str | None = None
    holds: bool = True
    codes: Codes | None = None
    levels: str = ""
    dtype: str | None = None
    whole: bool = False
    scope: str = ""
    first: float | str = 0.0
    same: tuple[str, ...] = ()

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
    grid: bool = False  # whether it knows rows and columns
    joint: tuple[Joint, ...] = ()  # its reductions of several parameters

    @property
    def inputs(self) -> list[tuple[str, int]]:
        """The inputs that it takes, each with its place among `keys`."""
        return [(key.removesuffix(INPUT), place) for place, (_, key) in enumerate(self.keys) if key.endswith(INPUT)]


@dataclass(frozen=True)
class RuleInfo:
    """How parameters are updated for which `when` holds, and no condition of an earlier rule.

    `hypers` are the arguments that its scalars depend on and `flags` its compile-time flags, None for all of the class.
    """

    name: str
    when: str
    states: tuple[State, ...]
    kernels: tuple[KernelInfo, ...]
    columns: tuple[str, ...]
    outputs: tuple[str, ...] = ()  # scalar states that a step changes, in the order `scalars` returns them
    random: bool = False  # whether a state is rounded stochastically
    whole: bool = False  # whether the rule reduces over all elements of a parameter
    hypers: tuple[str, ...] | None = None
    flags: tuple[str, ...] | None = None
    cut: str = ""  # how it sees parameters in another shape, "rows", "cols" or "matrix" (see `view_shape`); empty: as they are
    view: str = ""  # the argument that says of how many
    inputs: tuple[str, ...] = ()  # what a step may be given for its parameters

    def seen(self, shape: Sequence[int], group: Mapping[str, Any]) -> Sequence[int]:
        """The shape that the rule sees of a parameter."""
        return view_shape(shape, self.cut, int(group[self.view]) if self.view else 0) if self.cut else shape

    def view_fault(self, shape: Sequence[int], group: Mapping[str, Any]) -> str:
        """What keeps a parameter of this shape from being seen so; empty if nothing does."""
        size = float(group[self.view]) if self.view else 1.0
        what = "columns" if self.cut == "cols" else "rows"
        if size < 1 or size != int(size):
            return f"{self.view} is a whole number of {what} from 1, got {group[self.view]!r}"
        if self.cut == "rows" and (len(shape) < MATRIX or shape[-2] % int(size)):
            return f"the rule '{self.name}' cuts its rows into matrices of {self.view}={int(size)} rows, which does not divide them"
        if self.cut == "cols" and (not shape or shape[-1] % int(size)):
            return f"the rule '{self.name}' cuts its columns into blocks of {self.view}={int(size)}, which does not divide them"
        if self.cut == "matrix" and len(shape) < MATRIX:
            return f"the rule '{self.name}' sees it as a matrix, which needs two dimensions"
        return ""

    @property
    def scalars(self) -> list[State]:
        """The states that are numbers on the host."""
        return [state for state in self.states if state.scalar]

    @property
    def coded(self) -> list[str]:
        """The states that the spec stores as codes."""
        return [state.name for state in self.states if state.codes is not None]

    def state(self, name: str) -> State:
        """The state of this name."""
        return next(state for state in self.states if state.name == name)


@dataclass(frozen=True)
class Description:
    """All of it: one rule, or what the rules share, and `rules`.

    With rules, `kernels` are those of all rules, one rule after the other, and `tags` those that conditions ask for.
    """

    name: str
    hypers: tuple[Hyper, ...]
    states: tuple[State, ...] = ()
    kernels: tuple[KernelInfo, ...] = ()
    columns: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    random: bool = False
    whole: bool = False
    inputs: tuple[str, ...] = ()
    rules: tuple[RuleInfo, ...] = ()
    tags: tuple[str, ...] = ()
    has_rules: bool = field(init=False)
    owners: tuple[int, ...] = field(init=False, repr=False)  # of each kernel, the place of its rule
    places: tuple[tuple[int, ...] | None, ...] = field(init=False, repr=False)  # of each rule's numbers among all
    shared: tuple[State, ...] = field(init=False, repr=False)  # the states that several parameters share
    joint: bool = field(init=False, repr=False)  # whether a rule has such a state, or reduces over several parameters

    def __post_init__(self) -> None:
        """Make one rule of what has no rules, and count kernels and numbers through."""
        known: dict[str, object] = {"has_rules": bool(self.rules)}
        rules = self.rules or (
            RuleInfo(
                name="",
                when="",
                states=self.states,
                kernels=self.kernels,
                columns=self.columns,
                outputs=self.outputs,
                random=self.random,
                whole=self.whole,
                inputs=self.inputs,
            ),
        )
        known |= {"rules": rules, "kernels": tuple(kernel for rule in rules for kernel in rule.kernels)}
        known["owners"] = tuple(place for place, rule in enumerate(rules) for _ in rule.kernels)
        numbers = [h.name for h in self.hypers if not h.flag and not h.choices for _ in h.names or (h.name,)]
        known["places"] = tuple(
            None if rule.hypers is None else tuple(i for i, name in enumerate(numbers) if name in rule.hypers) for rule in rules
        )
        known["shared"] = tuple(state for rule in rules for state in rule.states if state.scope)
        known["joint"] = bool(known["shared"]) or any(kernel.joint for rule in rules for kernel in rule.kernels)
        for name, value in known.items():
            object.__setattr__(self, name, value)

    @property
    def origin(self) -> dict[str, str]:
        """What a parameter group in a state dict says of its origin: spec and format, and what the codes of states mean."""
        levels = "; ".join(
            f"{self.full_name(rule, state)}: {state.levels}"
            for rule in self.rules
            for state in rule.states
            if state.codes is not None
        )
        return {"optgen": f"{self.name}/{FORMAT}", **({"codes": levels} if levels else {})}

    def full_name(self, rule: RuleInfo, state: State) -> str:
        """A state by its name, and its rule's if there are several."""
        return f"{rule.name}.{state.name}" if self.has_rules else state.name

    def rule_of(self, kernel: int) -> RuleInfo:
        """The rule that a kernel belongs to."""
        return self.rules[self.owners[kernel]]

    def kernel_index(self, shape: Sequence[int], storage: Any, rule: int = 0) -> int:
        """Which kernel of a rule updates a parameter of this global shape, in a group with this `storage`."""
        plain = set() if storage == "spec" else set(self.storage(storage).split(","))
        stored = {s.name for s in self.rules[rule].states if s.codes is not None and s.codes.applies_to(shape)} - plain
        first = self.owners.index(rule)
        return first + next(i for i, kernel in enumerate(self.rules[rule].kernels) if set(kernel.stored) == stored)

    def stored_codes(self, kernel: int) -> list[Codes]:
        """How those states are kept that a kernel keeps as codes."""
        stored = self.kernels[kernel].stored
        return [state.codes for state in self.rule_of(kernel).states if state.name in stored and state.codes is not None]

    def storage(self, asked: Any) -> str:
        """The states of a group that are kept in float32 although the spec stores them as codes: "m,v", or "spec" for none.

        Args:
            asked: "spec", "float32" for all states, a mapping of states to "float32", or what this method returned.

        Raises:
            ValueError: for another storage, or a mix of states that no kernel was built for; says what to do.
        """
        states = [state for rule in self.rules for state in rule.states]
        coded = list(dict.fromkeys(name for rule in self.rules for name in rule.coded))
        if asked == "spec" or (asked == "float32" and not coded):
            return "spec"
        if asked == "float32":
            return ",".join(coded)
        wanted = dict.fromkeys(asked.split(","), "float32") if isinstance(asked, str) else asked
        if not isinstance(wanted, Mapping) or not set(wanted) <= {state.name for state in states}:
            names = ", ".join(repr(name) for name in dict.fromkeys(state.name for state in states if not state.scalar))
            raise ValueError(f"{self.name}: storage is 'float32' or a mapping of states ({names}) to 'float32', got {asked!r}")
        narrow = {state.name for state in states if state.dtype is not None} - set(coded if isinstance(asked, str) else ())
        other = {name: how for name, how in wanted.items() if how != "float32" or name in narrow}
        if other:
            raise ValueError(
                f"{self.name} was built without {_storages(other)}: a group can keep states in float32; for another storage build "
                f"a class, optgen.optimizer_class(spec, storage={dict(wanted)!r}), or a spec that extends this one"
            )
        for rule in self.rules:
            plain = [name for name in rule.coded if name in wanted]
            possible = [set(rule.coded) - set(kernel.stored) for kernel in rule.kernels]
            if set(plain) not in possible:
                mixes = " or ".join(", ".join(name for name in rule.coded if name in mix) for mix in possible if mix)
                raise ValueError(f"{self.name} was built to keep {mixes} in float32, not {', '.join(plain)} alone")
        return ",".join(name for name in coded if name in wanted) or "spec"

    def check(self, group: dict[str, Any]) -> None:
        """Refuse hyperparameters outside their ranges, and options that do not exist.

        Raises:
            ValueError: with the name, the value and what is allowed.
            TypeError: for a flag, number or tuple of a wrong type.
        """
        for hyper in self.hypers:
            _check(self.name, hyper, group[hyper.name])
        check_low_precision(self.name, group["low_precision"])
        self.storage(group["storage"])


def _storages(wanted: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} in {how!r}" for name, how in wanted.items())


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
