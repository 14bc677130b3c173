"""Pass `number-conditions`: a condition of rows, columns or matrices that has a name becomes a number, 1 or 0.

up = mean_g > 0; p = where(up, x, y)   ->   up = where(mean_g > 0, 1, 0); p = where(up != 0, x, y)

Between two passes over memory there are numbers, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

from optgen.ir.infer import substitute
from optgen.ir.nodes import VECTORS, Const, Expr, Kind, Op, Program, Ref, Statement

__all__ = ["number_conditions"]


def number_conditions(program: Program) -> Program:
    """Let no name stand for a condition of rows, columns or matrices."""
    names = {name for name, symbol in program.symbols.items() if symbol.kind == Kind.BOOL and symbol.domain in VECTORS}
    if not names:
        return program
    read: dict[str, Expr] = {name: Op("ne", (Ref(name), Const(0.0))) for name in names}

    def numbered(statement: Statement) -> Statement:
        value = substitute(statement.value, read)
        if getattr(statement, "target", None) in names:
            value = Op("where", (value, Const(1.0), Const(0.0)))
        return replace(statement, value=value)

    symbols = {name: replace(symbol, kind=Kind.REAL) if name in names else symbol for name, symbol in program.symbols.items()}
    return replace(program, body=tuple(map(numbered, program.body)), symbols=symbols)
