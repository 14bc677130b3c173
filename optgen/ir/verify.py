"""The law of the IR: what must hold after each phase. A broken rule names the pass that broke it."""

from __future__ import annotations

from collections.abc import Callable

from optgen.ir.guards import unguarded
from optgen.ir.infer import KindError, holds, infer, walk
from optgen.ir.nodes import Assign, Domain, Kind, Op, Program, Ref, Role
from optgen.ir.ops import NORMS, OPS, REDUCED, REDUCTIONS

__all__ = ["IRError", "verify"]

WORDS_OF_SPECS = frozenset({"ema", "clamp", "pow", *(op for op, (_, how) in REDUCED.items() if how in NORMS)})


class IRError(AssertionError):
    """The compiler broke its own rules: a bug of optgen, never of a spec."""


def verify(program: Program, after: str, phase: str) -> None:
    """Check `program` as the output of the pass `after`; `phase` is "rule", "plain" or "hoisted".

    Raises:
        IRError: with the name of the pass and the statement at fault.
    """
    for reader, node in unguarded(program):
        raise IRError(f"after pass '{after}': input '{node.name}' is read outside of its flag in {reader}")
    for statement in (*program.host, *program.body):
        assert isinstance(statement, Assign)
        try:
            _check_statement(program, statement)
            for check in PHASES[phase]:
                check(program, statement)
        except (IRError, KindError, KeyError) as error:
            raise IRError(f"after pass '{after}': {error} in {statement}") from error


def _check_statement(program: Program, statement: Assign) -> None:
    if statement.target not in program.symbols:
        raise IRError(f"unknown target '{statement.target}'")
    for node in walk(statement.value):
        if isinstance(node, Op) and node.op not in OPS:
            raise IRError(f"unknown operation '{node.op}'")
    kind, domain = infer(statement.value, program.symbols)
    target = program.symbols[statement.target]
    if not holds(target.domain, domain):
        raise IRError(f"'{target.name}' is too small for its value")
    if kind != target.kind and not (kind == Kind.INT and target.kind == Kind.REAL):
        raise IRError(f"'{target.name}' is {target.kind.value}, its value {kind.value}")


def _no_words(program: Program, statement: Assign) -> None:
    """The words of the spec language are gone; element by element there are no powers left."""
    for node in walk(statement.value):
        if isinstance(node, Op) and node.op in WORDS_OF_SPECS and not _is_host_power(node, program):
            raise IRError(f"'{node.op}' is left")


def _is_host_power(node: Op, program: Program) -> bool:
    return node.op == "pow" and infer(node, program.symbols)[1] == Domain.HOST


def _reductions_apart(_: Program, statement: Assign) -> None:
    """A reduction of the rule is a statement of its own, and none stands in another."""
    for node in walk(statement.value):
        if isinstance(node, Op) and node.op in REDUCTIONS and node is not statement.value:
            raise IRError(f"'{node.op}' has no name")


def _static_guards(program: Program, statement: Assign) -> None:
    for guard in statement.guards:
        if guard.flag not in program.flags:
            raise IRError(f"'{guard.flag}' is not a compile-time flag")


def _host_apart(program: Program, statement: Assign) -> None:
    """Host statements read host values only; in the body no host value is computed."""
    on_host = statement in program.host
    if not on_host and program.symbols[statement.target].domain == Domain.HOST:
        raise IRError(f"'{statement.target}' should be computed on the host")
    for node in walk(statement.value):
        if on_host and isinstance(node, Ref) and program.symbols[node.name].domain != Domain.HOST:
            raise IRError(f"'{node.name}' is not known on the host")
        if not on_host and isinstance(node, Ref) and program.symbols[node.name].role == Role.STEP:
            raise IRError("t is left in the body")
        computed = isinstance(node, Op) and not (node.op == "ne" and isinstance(node.args[0], Ref))
        if not on_host and computed and infer(node, program.symbols)[1] == Domain.HOST:
            raise IRError(f"{node} should be computed on the host")


Check = Callable[[Program, Assign], None]
PHASES: dict[str, tuple[Check, ...]] = {
    "rule": (),
    "plain": (_no_words, _static_guards),
    "hoisted": (_no_words, _static_guards, _reductions_apart, _host_apart),
}
