"""Two built specs -> what changes from the one to the other: arguments, states, bytes, formulas and code."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from optgen.analysis.memory import MATRIX, VECTOR, kept_states
from optgen.backends.view import state_bytes
from optgen.build import Built
from optgen.ir.constants import default_flags
from optgen.ir.nodes import State
from optgen.plan.nodes import Kernel
from optgen.plan.traffic import kernel_bytes
from optgen.runtime.rules import Parameter
from optgen.spec.show import hyper_text, input_text, state_text

__all__ = ["Change", "Difference", "StateChange", "compare_specs"]

T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """Something that is called `name`, before and after; None where it does not exist."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class StateChange(Change):
    """A state by its key in a state dict, as a spec has it. `is_kept` says that a checkpoint holds the same tensors of it."""

    is_kept: bool

    @property
    def is_same(self) -> bool:
        """Whether nothing of it changes."""
        return self.before == self.after


@dataclass(frozen=True)
class Difference:
    """All that changes. Bytes are per element: of state, and moved in a step with bfloat16 parameters and gradients.

    Moved bytes are those of the largest matrices and of vectors. `equations` and `code` are unified diffs.
    """

    names: tuple[str, str]
    hypers: tuple[Change, ...]
    inputs: tuple[Change, ...]
    states: tuple[StateChange, ...]
    state_bytes: tuple[float, float]
    moved_by_matrices: tuple[float, float]
    moved_by_vectors: tuple[float, float]
    kernels: tuple[int, int]
    equations: tuple[str, ...]
    code: Mapping[str, tuple[str, ...]]

    @property
    def is_empty(self) -> bool:
        """Whether both specs are the same rule with the same storage."""
        return not (self.hypers or self.inputs or self.equations or any(not state.is_same for state in self.states))


def compare_specs(before: Built, after: Built) -> Difference:
    """What changes from `before` to `after`, with every flag at its default. Documentation is no change."""
    built = (before, after)
    hypers = [{h.name: hyper_text(replace(h, doc="")) for h in b.spec.hypers} for b in built]
    return Difference(
        names=(before.spec.name, after.spec.name),
        hypers=tuple(Change(name, a, b) for name, a, b in _paired(*hypers) if a != b),
        inputs=tuple(Change(name, a, b) for name, a, b in _paired(*map(_inputs, built)) if a != b),
        states=_states(before, after),
        state_bytes=_both(built, lambda b: sum(map(state_bytes, kept_states(b.programs[b.spec.place_of(MATRIX)])))),
        moved_by_matrices=_both(built, lambda b: _bytes(_kernels(b, MATRIX)[-1])),
        moved_by_vectors=_both(built, lambda b: _bytes(_kernels(b, VECTOR)[0])),
        kernels=(len(before.plan.kernels), len(after.plan.kernels)),
        equations=_unified(_equations(before), _equations(after), before.spec.name, after.spec.name),
        code={
            name: _unified(old, after.files[name], f"{before.spec.name}/{name}", f"{after.spec.name}/{name}")
            for name, old in before.files.items()
            if name in after.files
        },
    )


def _kernels(built: Built, parameter: Parameter) -> tuple[Kernel, ...]:
    """The kernels of the rule that a parameter takes."""
    return built.plan.rules[built.spec.place_of(parameter)].kernels


def _bytes(kernel: Kernel) -> float:
    """What a kernel moves per element, of bfloat16 parameters and gradients."""
    return kernel_bytes(kernel, param=2, grad=2, flags=default_flags(kernel.program))


def _equations(built: Built) -> str:
    """The update, or those of all rules, each behind its name and condition."""
    texts = [(f"{rule.name}, {rule.when}:\n" if rule.name else "") + rule.spec.update_text for rule in built.spec.parts]
    return "\n".join([*texts, *(f"{name}:\n{text}" for name, text in built.spec.point_texts.items())])


def _both(built: tuple[Built, Built], count: Callable[[Built], float]) -> tuple[float, float]:
    return count(built[0]), count(built[1])


def _inputs(built: Built) -> dict[str, str]:
    """Every input of every rule, in the notation of a spec."""
    rules = built.spec.parts
    return {
        f"{rule.name}.{each.name}" if rule.name else each.name: input_text(replace(each, doc=""))
        for rule in rules
        for each in rule.spec.inputs
    }


def _states(before: Built, after: Built) -> tuple[StateChange, ...]:
    tables = [
        {
            f"{rule.name}.{s.save_as}" if rule.name else s.save_as: (state_text(rule.spec, replace(s, doc="")), s)
            for rule, program in zip(b.spec.parts, b.programs, strict=True)
            for s in program.states
        }
        for b in (before, after)
    ]
    return tuple(
        StateChange(key, a and a[0], b and b[0], a is not None and b is not None and _tensors(a[1]) == _tensors(b[1]))
        for key, a, b in _paired(*tables)
    )


def _tensors(state: State) -> tuple[object, ...]:
    """What decides the tensors of a state in a state dict and what their bits mean."""
    return state.domain, state.scope, state.floats, state.storage, state.unsigned if state.storage is not None else None


def _paired(before: Mapping[str, T], after: Mapping[str, T]) -> Iterator[tuple[str, T | None, T | None]]:
    """Each name of either table with both values, in the order of the first."""
    for name in dict.fromkeys((*before, *after)):
        yield name, before.get(name), after.get(name)


def _unified(before: str, after: str, name: str, other: str) -> tuple[str, ...]:
    return tuple(difflib.unified_diff(before.split("\n"), after.split("\n"), name, other, lineterm="", n=3))
