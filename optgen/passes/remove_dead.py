"""Pass `remove-dead`: assignments to locals that nothing reads are dropped, until none is left.

d = g - m; p = p - lr*g   ->   p = p - lr*g
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optgen.ir.infer import refs
from optgen.ir.nodes import Assign, Program, Role, Statement

__all__ = ["remove_dead"]


def remove_dead(program: Program) -> Program:
    """Drop what is never read. Parameters and states are always kept."""
    kept = set(program.outputs.values())
    host, body = program.host, program.body
    while True:
        read = {name for statement in (*host, *body) for name in refs(statement.value)} | kept
        smaller_host = tuple(s for s in host if s.target in read)
        smaller_body = tuple(s for s in body if _lives(s, program, read))
        if len(smaller_host) == len(host) and len(smaller_body) == len(body):
            used = read | {s.target for s in body if isinstance(s, Assign)} | _kept_symbols(program)
            symbols = {name: symbol for name, symbol in program.symbols.items() if name in used}
            return replace(program, host=host, body=body, symbols=symbols)
        host, body = smaller_host, smaller_body


def _lives(statement: Statement, program: Program, read: Iterable[str]) -> bool:
    if not isinstance(statement, Assign) or program.symbols[statement.target].role != Role.LOCAL:
        return True
    return statement.target in read


def _kept_symbols(program: Program) -> set[str]:
    return {name for name, symbol in program.symbols.items() if symbol.role != Role.LOCAL}
