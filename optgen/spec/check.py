"""Rules that a whole update rule must keep: what is read was assigned, what is kept is used, p moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from optgen.diagnostics import Diagnostics, Label
from optgen.ir.constants import ConstantError, fold
from optgen.ir.guards import unguarded
from optgen.ir.infer import refs, walk
from optgen.ir.nodes import Assign, Const, Expr, Guard, Kind, Op, Program, Ref, Role
from optgen.ir.ops import OPS
from optgen.spec.model import Spec

__all__ = ["check_program", "covered"]


FINITE = "write a finite number here, or something that is not constant"


def check_program(spec: Spec, program: Program, poisoned: Set[str], found: Diagnostics) -> None:
    """Report every broken rule of the statements that could be read. Of the names in `poisoned` nothing is said."""
    _check_constants(program, found)
    _check_conditions(program, found)
    _check_reads(program, poisoned, found)
    _check_signs(program, found)
    _check_states_present(spec, program, found)
    _check_inputs_guarded(spec, program, found)


def covered(definitions: Sequence[tuple[Guard, ...]], guards: tuple[Guard, ...]) -> bool:
    """Whether under `guards`, and whatever the other flags are, at least one of `definitions` has run."""
    known = {guard.flag: guard.holds for guard in guards}
    return _covered(_undecided(definitions, known), {})


Definitions = tuple[tuple[Guard, ...], ...]  # what is left to be decided of each definition that may have run


def _undecided(definitions: Sequence[tuple[Guard, ...]], known: Mapping[str, bool]) -> Definitions:
    possible = [d for d in definitions if all(known.get(guard.flag, guard.holds) == guard.holds for guard in d)]
    return tuple(dict.fromkeys(tuple(guard for guard in d if guard.flag not in known) for d in possible))


def _covered(definitions: Definitions, seen: dict[Definitions, bool]) -> bool:
    """Decide the first open flag both ways; equal rests are decided once, so that many branches stay cheap."""
    if () in definitions or not definitions:
        return () in definitions
    if definitions not in seen:
        flag = definitions[0][0].flag
        seen[definitions] = all(_covered(_undecided(definitions, {flag: holds}), seen) for holds in (True, False))
    return seen[definitions]


def _check_constants(program: Program, found: Diagnostics) -> None:
    """Every constant has a finite value."""
    values = [statement.value for statement in program.body]
    for value in (*values, *program.flags.values(), *(state.init for state in program.states)):
        try:
            folded = fold(value)
        except ConstantError as error:
            assert error.node.span is not None
            found.add("constant-error", str(error), error.node.span, help=FINITE)
            continue
        for node in walk(folded):
            if isinstance(node, Op) and node.op == "div" and node.args[1] == Const(0) and node.span is not None:
                found.add("constant-error", "this divides by zero", node.span, help=FINITE)


def _check_conditions(program: Program, found: Diagnostics) -> None:
    """Every condition depends on something."""
    values = [*program.flags.values(), *(s.value for s in program.body), *(state.init for state in program.states)]
    while values:
        value = values.pop()
        if not isinstance(value, Op):
            continue
        if OPS[value.op].result == Kind.BOOL and not refs(value) and value.span is not None:
            help_text = "compare a hyperparameter, a choice, t or, in 'where', an element"
            found.add("constant-condition", "this condition is always the same", value.span, help=help_text)
        else:
            values += value.args


def _check_reads(program: Program, poisoned: Set[str], found: Diagnostics) -> None:
    """A local must be assigned on every path that leads to a read of it."""
    definitions: dict[str, list[tuple[Guard, ...]]] = {}
    assigned = {s.target for s in program.body if isinstance(s, Assign)}
    for statement in program.body:
        assert isinstance(statement, Assign)
        for node in walk(statement.value):
            if not isinstance(node, Ref) or program.symbols[node.name].role != Role.LOCAL or node.name in poisoned:
                continue
            before = definitions.get(node.name, [])
            if not covered(before, statement.guards) and node.span is not None:
                message = f"'{node.name}' is read where it may not have been assigned"
                help_text = f"assign '{node.name}' on every path before this line"
                found.add("used-before-assignment", message, node.span, help=help_text)
        if statement.target in assigned:
            definitions.setdefault(statement.target, []).append(statement.guards)


def _check_signs(program: Program, found: Diagnostics) -> None:
    """What is never negative does not start so."""
    for state in program.states:
        start = _constant(state.init)
        if state.unsigned and start is not None and start < 0 and state.init.span is not None:
            message = f"state '{state.name}' is unsigned and cannot start at {start:g}"
            help_text = "start at 0 or above, or remove 'sign: unsigned'"
            found.add("bad-init", message, state.init.span, help=help_text)


def _constant(value: Expr) -> float | None:
    """The number that a formula is, if it is one."""
    try:
        folded = fold(value)
    except ConstantError:
        return None
    return folded.value if isinstance(folded, Const) and isinstance(folded.value, int | float) else None


def _check_states_present(spec: Spec, program: Program, found: Diagnostics) -> None:
    """A state that exists under a condition may be touched only under that condition."""
    conditional = {state.name: state.when for state in program.states if state.when is not None}
    for statement in program.body:
        assert isinstance(statement, Assign)
        touched = {statement.target: statement.span}
        touched |= {node.name: node.span for node in walk(statement.value) if isinstance(node, Ref)}
        for name, span in touched.items():
            when = conditional.get(name)
            if when is not None and when not in statement.guards and span is not None:
                text = spec.conditions[name].text.strip()
                declared = (Label(spec.spans[name], f"exists when {text}"),)
                message = f"state '{name}' may not exist here"
                found.add(
                    "state-may-be-absent",
                    message,
                    span,
                    secondary=declared,
                    help=f"put this under 'if {text}:', just this condition; others in an 'if' inside of it",
                )


def _check_inputs_guarded(spec: Spec, program: Program, found: Diagnostics) -> None:
    """An input may be read only where the step was given it."""
    for _, node in unguarded(program):
        assert node.span is not None
        text = f"given({node.name})"
        declared = (Label(spec.spans[node.name], "a step may do without it"),)
        help_text = f"put this under 'if {text}:', just this condition; others in an 'if' inside of it"
        message = f"input '{node.name}' may not be given here"
        found.add("input-may-be-absent", message, node.span, secondary=declared, help=help_text)
