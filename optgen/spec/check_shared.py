"""States that all parameters of a group or of the optimizer share: what they become must be the same, whoever computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optgen.diagnostics import Diagnostics, Label
from optgen.ir.guards import asked_names
from optgen.ir.nodes import Assign, Domain, Expr, Op, Program, Ref, Role
from optgen.ir.ops import REDUCED, SCOPES
from optgen.spec.model import Spec

__all__ = ["with_shared_states"]

OWN = "parameter"  # what differs from parameter to parameter
HELP = (
    "depend on numbers, hyperparameters, states of the same scope and reductions over={scope}; put what belongs to a parameter "
    "into such a reduction, as in 'sum({name}*g, over={scope})'"
)


def with_shared_states(spec: Spec, program: Program, found: Diagnostics) -> Program:
    """The program whose shared states know the hyperparameters that must be equal wherever they are; report what else differs."""
    if all(state.scope == OWN for state in program.states):
        return program
    scopes = {state.name: state.scope for state in program.states}
    origins = _start(program)
    same: dict[str, set[str]] = {name: set() for name in scopes}
    for statement in program.body:
        assert isinstance(statement, Assign)
        target = statement.target
        asked = [name for guard in statement.guards for name in asked_names(program, guard.flag)]
        made = _origins(statement.value, origins) | {origin for name in asked for origin in origins.get(name, ())}
        if scopes.get(target, OWN) == OWN:
            origins[target] = made | (origins.get(target, set()) if statement.guards else set())
            continue
        scope = scopes[target]
        bad = made & ({OWN} if scope == "group" else {OWN, "group"})
        if bad and statement.span is not None:
            culprit = _culprit(statement.value, origins, bad)
            name = culprit.name if isinstance(culprit, Ref) else "x"
            what = f"'{name}'" if isinstance(culprit, Ref) else "a condition" if culprit is None else "what is of a group"
            message = f"state '{target}' is one for all parameters of the {scope}, and {what} differs among these"
            help_text = HELP.format(scope=scope, name=name)
            place = culprit.span if culprit is not None and culprit.span is not None else statement.span
            declared = (Label(spec.spans[target], "declared with this scope here"),)
            found.add("shared-state", message, place, secondary=declared, help=help_text)
        same[target] |= made - {OWN, "group"}
    states = (replace(s, same=tuple(sorted(same[s.name])) if s.scope == "optimizer" else ()) for s in program.states)
    return replace(program, states=tuple(states))


def _start(program: Program) -> dict[str, set[str]]:
    """What each symbol is before the step: a parameter's own, a group's, or a hyperparameter, by the name that groups have for it."""
    groups = {part: hyper.name for hyper in program.hypers for part in (hyper.name, *hyper.names)}
    scopes = {state.name: {state.scope} - {"optimizer"} for state in program.states}
    start: dict[str, set[str]] = {}
    for name, symbol in program.symbols.items():
        if symbol.role == Role.HYPER:
            start[name] = (
                {groups[name]} if name in groups else {o for n in asked_names(program, name) for o in start.get(n, ())}
            )
        elif symbol.role == Role.STATE:
            start[name] = scopes.get(name, {OWN}) if symbol.domain != Domain.HOST else {OWN}
        elif symbol.role != Role.LOCAL:
            start[name] = {OWN}
    return start


def _culprit(value: Expr, origins: Mapping[str, set[str]], bad: set[str]) -> Ref | Op | None:
    """The first part of a value that depends on what it must not."""
    match value:
        case Ref():
            return value if _origins(value, origins) & bad else None
        case Op(op=op) if op in REDUCED and REDUCED[op][0] in SCOPES:
            return value if _origins(value, origins) & bad else None
        case Op(args=args):
            return next((found for arg in args if (found := _culprit(arg, origins, bad)) is not None), None)
    return None


def _origins(value: Expr, origins: Mapping[str, set[str]]) -> set[str]:
    """What a value depends on; a reduction of several parameters on no single one."""
    match value:
        case Ref(name=name):
            return set(origins.get(name, ()))
        case Op(op=op) if op in REDUCED and REDUCED[op][0] in SCOPES:
            return {"group"} if REDUCED[op][0].endswith("group") else set()
        case Op(args=args):
            return {origin for arg in args for origin in _origins(arg, origins)}
    return set()
