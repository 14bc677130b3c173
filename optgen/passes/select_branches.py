"""Pass `select-branches`: conditions on t choose values instead of statements.

    if t == 1:               t_is_1 = t == 1
      b = g            ->    b = where(t_is_1, g, mu*b + g)
    else:
      b = mu*b + g

Both sides are computed; a step has no branches inside a kernel. Conditions on hyperparameters stay guards.
"""

from __future__ import annotations

from dataclasses import replace

from optgen.ir.infer import substitute
from optgen.ir.nodes import Assign, Expr, Guard, Op, Program, Ref, Role, Statement

__all__ = ["select_branches"]


def select_branches(program: Program) -> Program:
    """Replace run-time guards by `where`, then merge the two sides of a branch into one statement."""
    known = {name for name, symbol in program.symbols.items() if symbol.role != Role.LOCAL}
    body: list[Statement] = []
    for statement in program.body:
        assert isinstance(statement, Assign)
        static = tuple(guard for guard in statement.guards if guard.flag in program.flags)
        dynamic = [guard for guard in statement.guards if guard.flag not in program.flags]
        value = statement.value
        if dynamic and statement.target in known:
            value = _where(dynamic, value, Ref(statement.target))
        known.add(statement.target)
        body.append(replace(statement, value=value, guards=static))
        _merge_last_two(body)
    return replace(program, body=tuple(body))


def _where(guards: list[Guard], value: Expr, old: Expr) -> Expr:
    """`value` where every guard holds, else `old`."""
    for guard in reversed(guards):
        condition = Ref(guard.flag)
        value = Op("where", (condition, value, old) if guard.holds else (condition, old, value))
    return value


def _merge_last_two(body: list[Statement]) -> None:
    """`x = where(c, a, x); x = where(c, x, b)` -> `x = where(c, a, b)`: where c fails, x has not changed yet.

    A local that has no old value starts as `x = a`; then b cannot read it, and the same holds.
    """
    if len(body) < 2:
        return
    first, second = body[-2], body[-1]
    assert isinstance(first, Assign) and isinstance(second, Assign)
    if first.target != second.target or first.guards != second.guards:
        return
    match second.value:
        case Op(op="where", args=(condition, Ref(name=name), other)) if name == second.target:
            pass
        case _:
            return
    match first.value:
        case Op(op="where", args=(same, chosen, Ref(name=name))) if same == condition and name == first.target:
            pass
        case _ if _reads(other, first.target):
            return
        case _:
            chosen = first.value
    body[-2:] = [replace(second, value=Op("where", (condition, chosen, other), second.value.span))]


def _reads(value: Expr, name: str) -> bool:
    return substitute(value, {name: Ref("")}) != value
