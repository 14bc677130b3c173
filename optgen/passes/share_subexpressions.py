"""Pass `share-subexpressions`: what is computed twice per element is computed once and gets a name.

p = p - lr*sqrt(v); q = sqrt(v)*m   ->   sqrt_v = sqrt(v); p = p - lr*sqrt_v; q = sqrt_v*m
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from optgen.ir.infer import infer
from optgen.ir.nodes import Assign, Domain, Expr, Guard, Op, Program, Ref
from optgen.passes.rewrite import Splitter

__all__ = ["Key", "is_within", "key_of", "share_subexpressions"]

Key = tuple[object, ...]


def share_subexpressions(program: Program) -> Program:
    """Name every value per element that appears twice while its inputs keep their values."""
    places = _places(program)
    splitter = Splitter(program)
    named: dict[Key, tuple[Ref, tuple[Guard, ...]]] = {}
    versions: dict[str, int] = defaultdict(int)
    for statement in program.body:
        assert isinstance(statement, Assign)
        value = _Share(splitter, named, places, versions, statement.guards).rewrite(statement.value)
        splitter.body.append(replace(statement, value=value))
        versions[statement.target] += 1
    return replace(program, body=tuple(splitter.body), symbols=splitter.symbols)


def key_of(value: Expr, versions: Mapping[str, int]) -> Key:
    """Equal for expressions that have the same value: names count with the number of their assignments so far."""
    if isinstance(value, Ref):
        return ("ref", value.name, versions[value.name])
    if isinstance(value, Op):
        return (value.op, *(key_of(arg, versions) for arg in value.args))
    return ("const", value)


def _places(program: Program) -> dict[Key, list[tuple[Guard, ...]]]:
    """The guards of every occurrence of every operation per element, row or column, or of all elements."""
    places: dict[Key, list[tuple[Guard, ...]]] = defaultdict(list)
    versions: dict[str, int] = defaultdict(int)
    for statement in program.body:
        assert isinstance(statement, Assign)
        stack: list[Expr] = [statement.value]
        while stack:
            value = stack.pop()
            if isinstance(value, Op):
                stack += value.args
                if infer(value, program.symbols)[1] not in (Domain.HOST, Domain.BLOCK):
                    places[key_of(value, versions)].append(statement.guards)
        versions[statement.target] += 1
    return places


def is_within(inner: tuple[Guard, ...], outer: tuple[Guard, ...]) -> bool:
    """Whether what is computed under `outer` has a value under `inner`."""
    return inner[: len(outer)] == outer


class _Share:
    """Rewrites one statement's value."""

    def __init__(
        self,
        splitter: Splitter,
        named: dict[Key, tuple[Ref, tuple[Guard, ...]]],
        places: dict[Key, list[tuple[Guard, ...]]],
        versions: dict[str, int],
        guards: tuple[Guard, ...],
    ) -> None:
        self.splitter = splitter
        self.named = named
        self.places = places
        self.versions = versions
        self.guards = guards

    def rewrite(self, value: Expr) -> Expr:
        if not isinstance(value, Op):
            return value
        key = key_of(value, self.versions)
        if key in self.named and is_within(self.guards, self.named[key][1]):
            return self.named[key][0]
        shared = sum(is_within(place, self.guards) for place in self.places[key]) > 1
        result = Op(value.op, tuple(self.rewrite(arg) for arg in value.args), value.span)
        if not shared:
            return result
        ref = self.splitter.split(result, self.guards)
        self.named[key] = (ref, self.guards)
        return ref
