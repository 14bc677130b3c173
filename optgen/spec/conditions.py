"""The `when` of a rule: a condition on a parameter's whole shape, its name and its tags.

    ndim == 2 and not tagged("embedding", "head")

It is kept as a tree that compiles to Python for the generated class, and that the compiler asks for shapes of its own.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from optgen.diagnostics import Diagnostics
from optgen.diagnostics.diagnostic import suggest
from optgen.ir.formula import FormulaText, parse_tree
from optgen.runtime.rules import Parameter

__all__ = ["Condition", "Fact", "parse_condition"]

SIZES = {"rows": -2, "cols": -1}
FACTS = ("ndim", "numel", "size", "named", "tagged")
HELP = 'a condition asks for ndim, numel, size(rows), size(cols), size(0), named("*.bias") or tagged("embedding")'
COMPARE: dict[type[ast.cmpop], str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
DECIDE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Number:
    """A number, as written."""

    value: int


@dataclass(frozen=True)
class Fact:
    """What is asked of a parameter: `word` is one of FACTS, `args` a dimension, patterns or tags."""

    word: str
    args: tuple[int | str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """`left < middle <= right`: values and the signs between them."""

    values: tuple[Number | Fact, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Logic:
    """`and` or `or` of several conditions, `not` of one."""

    word: str
    args: tuple[Tree, ...]


Tree = Fact | Comparison | Logic


@dataclass(frozen=True)
class Condition:
    """A condition: `text` as it stands in the spec, on one line."""

    text: str
    tree: Tree

    @property
    def code(self) -> str:
        """It as Python, of a parameter `p`."""
        return _code(self.tree)

    def holds(self, p: Parameter) -> bool:
        """Whether it holds for a parameter."""
        return _holds(self.tree, p)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All that is asked."""
        return tuple(node for node in _walk(self.tree) if isinstance(node, Fact))

    @property
    def numbers(self) -> tuple[int, ...]:
        """All numbers that something is compared with."""
        return tuple(node.value for node in _walk(self.tree) if isinstance(node, Number))

    def asked(self, word: str) -> tuple[str, ...]:
        """The patterns or tags that it asks for, each once."""
        return tuple(dict.fromkeys(str(arg) for fact in self.facts if fact.word == word for arg in fact.args))


def _walk(tree: Tree | Number) -> Iterator[Tree | Number]:
    yield tree
    if isinstance(tree, Logic):
        for arg in tree.args:
            yield from _walk(arg)
    elif isinstance(tree, Comparison):
        yield from tree.values


def _code(tree: Tree, outer: int = 0) -> str:
    match tree:
        case Fact():
            return _fact_code(tree)
        case Comparison(values=values, signs=signs):
            words = [str(v.value) if isinstance(v, Number) else _fact_code(v) for v in values]
            return words[0] + "".join(f" {sign} {word}" for sign, word in zip(signs, words[1:], strict=True))
        case Logic(word="not", args=(arg,)):
            return f"not {_code(arg, 3)}"
        case Logic(word=word, args=args):
            level = 1 if word == "or" else 2
            text = f" {word} ".join(_code(arg, level + 1) for arg in args)
            return f"({text})" if outer > level else text


def _fact_code(fact: Fact) -> str:
    arguments = ", ".join(f'"{arg}"' if isinstance(arg, str) else str(arg) for arg in fact.args)
    return f"p.{fact.word}" + (f"({arguments})" if fact.args else "")


def _holds(tree: Tree, p: Parameter) -> bool:
    match tree:
        case Fact():
            return bool(_value(tree, p))
        case Comparison(values=values, signs=signs):
            numbers = [_value(value, p) for value in values]
            return all(DECIDE[sign](a, b) for sign, a, b in zip(signs, numbers, numbers[1:], strict=False))
        case Logic(word="not", args=(arg,)):
            return not _holds(arg, p)
        case Logic(word=word, args=args):
            return (any if word == "or" else all)(_holds(arg, p) for arg in args)


def _value(value: Number | Fact, p: Parameter) -> Any:
    if isinstance(value, Number):
        return value.value
    found = getattr(p, value.word)
    return found(*value.args) if value.args else found


def parse_condition(text: FormulaText, found: Diagnostics) -> Condition | None:
    """Read a condition; None after a fault."""
    tree = parse_tree(text, found)
    if not isinstance(tree, ast.Expression):
        return None
    try:
        return Condition(" ".join(text.text.split()), _Reader(text, found).condition(tree.body))
    except _FaultError:
        return None


class _FaultError(Exception):
    """The condition holds an error, which has been reported."""


class _Reader:
    """A whitelisted walk of Python's `ast`."""

    def __init__(self, text: FormulaText, found: Diagnostics) -> None:
        self.text = text
        self.found = found

    def condition(self, node: ast.expr) -> Tree:
        match node:
            case ast.BoolOp(op=op, values=values):
                return Logic("and" if isinstance(op, ast.And) else "or", tuple(map(self.condition, values)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Logic("not", (self.condition(operand),))
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARE for op in ops):
                compared = tuple(map(self.number, (left, *others)))
                if not any(isinstance(value, Fact) for value in compared):
                    raise self.report(node, "constant-condition", "this condition is always the same", HELP)
                return Comparison(compared, tuple(COMPARE[type(op)] for op in ops))
            case ast.Call() | ast.Name():
                fact = self.fact(node)
                if fact.word in ("named", "tagged"):
                    return fact
                raise self.report(
                    node, "bad-condition", f"'{fact.word}' is a number, not a condition", "compare it: 'ndim >= 2'"
                )
        raise self.report(node, "bad-condition", "this is no condition on a parameter", HELP)

    def number(self, node: ast.expr) -> Number | Fact:
        match node:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=float(value)) if math.isfinite(value) and value == int(value):
                return Number(int(value))
            case ast.Constant(value=int(value)):
                return Number(value)
            case ast.Call() | ast.Name():
                fact = self.fact(node)
                if fact.word not in ("named", "tagged"):
                    return fact
                raise self.report(node, "bad-condition", f"'{fact.word}(...)' is a condition, not a number", "ask it by itself")
        raise self.report(node, "bad-condition", "sizes are compared with whole numbers and sizes", HELP)

    def fact(self, node: ast.Call | ast.Name) -> Fact:
        name = node.func if isinstance(node, ast.Call) else node
        if not isinstance(name, ast.Name):
            raise self.report(node, "bad-condition", "this is no condition on a parameter", HELP)
        if name.id not in FACTS:
            message = f"a condition of a rule knows no '{name.id}'"
            raise self.report(name, "bad-condition", message, suggest(name.id, FACTS))
        if name.id in ("ndim", "numel"):
            if isinstance(node, ast.Call):
                raise self.report(node, "bad-condition", f"'{name.id}' takes no arguments", f"write '{name.id}'")
            return Fact(name.id)
        if not isinstance(node, ast.Call) or node.keywords or not node.args:
            example = {"size": "size(cols)", "named": 'named("*.bias")', "tagged": 'tagged("embedding")'}[name.id]
            raise self.report(node, "bad-condition", f"'{name.id}' takes arguments", f"as in '{example}'")
        if name.id == "size":
            return Fact("size", (self.dimension(node),))
        return Fact(name.id, tuple(map(self.word, node.args)))

    def dimension(self, node: ast.Call) -> int:
        """`rows`, `cols` or the number of a dimension, counted from the end if it is negative."""
        match node.args:
            case [ast.Name(id=name)] if name in SIZES:
                return SIZES[name]
            case [ast.Constant(value=int(value))] if not isinstance(value, bool):
                return value
            case [ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value)))] if not isinstance(value, bool):
                return -value
        raise self.report(
            node, "bad-condition", "'size' takes one dimension", "write size(rows), size(cols), size(0) or size(-1)"
        )

    def word(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(text)) if text and text.isprintable() and not {'"', "\\"} & {*text}:
                return text
        raise self.report(node, "bad-condition", "names and tags are texts in quotes", 'as in named("*.bias", "norm*")')

    def report(self, node: ast.expr, code: str, message: str, help_text: str | None) -> _FaultError:
        """Report a fault and return what to raise."""
        self.found.add(code, message, self.text.span(node), help=help_text)
        return _FaultError()
