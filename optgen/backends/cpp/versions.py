"""Statements -> the same with one name for each value of a whole parameter: these stand in front of all loops.

q = load(q_state)             q = load(q_state)
m = m*q                ->     m = m*q
q = 0.5*q                     q_2 = 0.5*q
q_state[...] = q              q_state[...] = q_2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optgen.ir.infer import substitute
from optgen.ir.names import free_name
from optgen.ir.nodes import Assign, Domain, Expr, Ref, Statement, Symbol

__all__ = ["number_versions"]


def number_versions(body: Sequence[Statement], symbols: Mapping[str, Symbol]) -> tuple[list[Statement], dict[str, Symbol]]:
    """The statements, and the symbols of all names in them."""
    known = dict(symbols)
    current: dict[str, Expr] = {}  # of names with several values, what stands for them now
    assigned: set[str] = set()
    out: list[Statement] = []
    for statement in body:
        value = substitute(statement.value, current)
        if not isinstance(statement, Assign) or known[statement.target].domain != Domain.TENSOR:
            out.append(replace(statement, value=value))
            continue
        target = statement.target
        if target in assigned:
            target = free_name(target, known)
            known[target] = replace(known[statement.target], name=target)
            if statement.guards:  # else it keeps its value
                out.append(Assign(target, current.get(statement.target, Ref(statement.target))))
            current[statement.target] = Ref(target)
        assigned.add(statement.target)
        out.append(Assign(target, value, statement.guards))
    return out, known
