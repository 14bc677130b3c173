"""The functions of a rule under names of its own: another rule may have a state of the same name in another storage."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from optgen.ir.nodes import Assign, Call, Expr, Function, Store
from optgen.passes.rewrite import bottom_up
from optgen.plan.lower_storage import Lowered

__all__ = ["rename_functions"]

S = TypeVar("S", bound=Assign | Store)


def rename_functions(lowered: Lowered, rule: str) -> Lowered:
    """A lowered rule whose functions have its name behind theirs, and more where that is a local's."""
    names: dict[str, str] = {}
    for function in lowered.functions:
        names[function.name] = f"{function.name}_{rule}"
        while names[function.name] in lowered.symbols:
            names[function.name] += "_"

    def call(value: Expr) -> Expr:
        return replace(value, function=names[value.function]) if isinstance(value, Call) else value

    def renamed(statement: S) -> S:
        return replace(statement, value=bottom_up(statement.value, call))

    def function_of(function: Function) -> Function:
        return replace(function, name=names[function.name], body=tuple(map(renamed, function.body)))

    body = [renamed(statement) for statement in lowered.body]
    return replace(lowered, body=body, functions=[function_of(function) for function in lowered.functions])
