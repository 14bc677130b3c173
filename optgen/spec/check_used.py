"""Nothing in a spec is idle: every state, hyperparameter and local has a way into the parameter."""

from __future__ import annotations

from collections.abc import Iterable

from optgen.diagnostics import Diagnostics
from optgen.ir.guards import asked_names
from optgen.ir.infer import refs
from optgen.ir.nodes import Assign, Program, Role
from optgen.spec.model import Spec

__all__ = ["check_everything_used", "check_hypers_used", "read_names"]


def check_everything_used(spec: Spec, program: Program, found: Diagnostics) -> None:
    """P and every state are assigned; every state and local has an effect.

    Only to be asked of a spec without other faults: a misspelt name is also one that is not read.
    """
    body = [statement for statement in program.body if isinstance(statement, Assign)]
    moved = [s for _, point in program.points for s in point.body if isinstance(s, Assign)]
    if not any(s.target == "p" for s in body):
        found.add("parameter-not-updated", "the update never assigns to p", spec.spans["update"], help="end with 'p = p - ...'")
    _check_states(spec, program, body, moved, read_names(program), found)
    _check_inputs(spec, body, found)
    used = _sources(program, body, {"p", *(state.name for state in program.states)})
    for statement in body:
        symbol = program.symbols[statement.target]
        if symbol.role == Role.LOCAL and symbol.name not in used and statement.span is not None:
            used.add(symbol.name)  # told once
            written = statement.span.text.split("=", 1)[0].strip()  # a name that is used anew is known by another
            message = f"'{written}' is assigned and never used"
            found.add("unused-local", message, statement.span, help="remove this line")


def check_hypers_used(spec: Spec, programs: Iterable[Program], found: Diagnostics) -> None:
    """Every hyperparameter has an effect in the program of one of the spec's rules."""
    read = {name for program in programs for name in read_names(program)}
    for hyper in spec.hypers:
        for name in hyper.names or (hyper.name,):
            if name not in read:
                help_text = f"remove it; to drop an inherited one write '{hyper.name}:' with nothing behind it"
                found.add("unused-hyper", f"hyperparameter '{name}' has no effect", spec.spans[name], help=help_text)


def read_names(program: Program) -> set[str]:
    """Every name that a formula of a program reads."""
    conditions = [*program.flags.values(), *(state.init for state in program.states)]
    read = {name for value in (*(s.value for s in program.body), *conditions) for name in refs(value)}
    read |= {name for _, point in program.points for name in read_names(point)}
    return read | ({program.view} if program.view else set())


def _check_states(
    spec: Spec, program: Program, body: list[Assign], moved: list[Assign], read: set[str], found: Diagnostics
) -> None:
    """Every state is assigned by the update, and read, and reaches p, if only through other states."""
    written = {s.target for s in body if s.span is not None}  # what `init` became has no span
    reaching = _sources(program, [*body, *moved], {"p"})
    for state in program.states:
        place = spec.spans.get(state.name)
        if place is None:  # the compiler's own
            continue
        if state.name not in written:
            found.add(
                "state-never-written",
                f"state '{state.name}' is never assigned in 'update'",
                place,
                help=f"assign it, or remove it; '{state.name} = {state.name}' keeps what 'init' has made of p or g"
                if {"p", "g"} & set(refs(state.init))
                else "assign it, or remove it",
            )
        if state.name not in read:
            found.add("state-never-read", f"state '{state.name}' is never read in 'update'", place, help="use it, or remove it")
        elif state.name not in reaching and "p" in written:
            message = f"state '{state.name}' has no effect on p"
            help_text = f"let p depend on '{state.name}', or remove it"
            found.add("state-without-effect", message, place, help=help_text)


def _check_inputs(spec: Spec, body: list[Assign], found: Diagnostics) -> None:
    """Every input is read by a statement."""
    read = {name for statement in body for name in refs(statement.value)}
    for each in spec.inputs:
        if each.name not in read:
            help_text = f"read it under 'if given({each.name}):', or remove it"
            found.add(
                "input-never-read", f"input '{each.name}' is never read in 'update'", spec.spans[each.name], help=help_text
            )


def _sources(program: Program, body: list[Assign], targets: Iterable[str]) -> set[str]:
    """`targets` and every name that one of them depends on, through whatever is between."""
    needs: dict[str, set[str]] = {state.name: set(refs(state.init)) for state in program.states}
    for statement in body:
        asked = [name for guard in statement.guards for name in asked_names(program, guard.flag)]
        needs.setdefault(statement.target, set()).update(refs(statement.value), asked)
    found, new = set[str](), list(targets)
    while new:
        name = new.pop()
        if name not in found:
            found.add(name)
            new += needs.get(name, ())
    return found
