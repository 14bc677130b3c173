"""Formula text -> expressions: a whitelisted walk of Python's `ast`, which computes in the order written.

Nothing is evaluated and nothing is simplified here. Every node keeps the span of the text it came from.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optgen.diagnostics import Diagnostics, Source, Span
from optgen.diagnostics.diagnostic import suggest
from optgen.ir.nodes import Const, Expr, Op, Ref
from optgen.ir.ops import BINARY, COMPARE, WORDS, Word

__all__ = ["Assignment", "Branch", "FormulaText", "parse_block", "parse_expression"]

MAX_LENGTH = 20_000  # characters of one formula
MAX_DEPTH = 60  # nesting of one formula; every later walk may recurse
KEYWORD_HELP = "Python's keywords cannot be names: 'lambda' is usually called 'weight_decay'"
FORBIDDEN_HELP = {
    "BitXor": "a power is written x**y",
    "FloorDiv": "division is written x/y",
    "IfExp": "write where(condition, x, y)",
    "Subscript": "states have no index; every formula applies to each element",
    "Attribute": "write the plain name of a state or hyperparameter",
    "Expr": "a statement assigns: 'name = formula'",
    "Return": "a rule has no return value; assign to p",
    "For": "every formula applies to all elements at once; loops are not needed",
    "While": "every formula applies to all elements at once; loops are not needed",
}


@dataclass(frozen=True)
class FormulaText:
    """The text of a formula and the offset in the source at which each of its lines begins."""

    source: Source
    text: str
    starts: tuple[int, ...]

    def span(self, node: ast.expr | ast.stmt) -> Span:
        """The characters of the source that `node` covers."""
        start = self.offset(node.lineno, node.col_offset)
        end = self.offset(node.end_lineno or node.lineno, node.end_col_offset or node.col_offset)
        return Span(self.source, start, max(end, start))

    def offset(self, line: int, column: int) -> int:
        """Offset in the source of a 1-based line and 0-based column of the formula."""
        index = min(max(line, 1), len(self.starts)) - 1
        return min(self.starts[index] + column, len(self.source.text))


@dataclass(frozen=True)
class Assignment:
    """`target = value`; the value is None where it held an error that has been reported."""

    target: str
    target_span: Span
    value: Expr | None
    span: Span


@dataclass(frozen=True)
class Branch:
    """`if condition: ... else: ...`; the condition is None where it held an error that has been reported."""

    condition: Expr | None
    then: tuple[Assignment | Branch, ...]
    otherwise: tuple[Assignment | Branch, ...]
    span: Span


Block = tuple[Assignment | Branch, ...]


def parse_block(formula: FormulaText, found: Diagnostics, words: Mapping[str, Word] = WORDS) -> Block:
    """Parse statements. Faults go to `found`; what could be read is returned."""
    tree = _parse(formula, found, "exec")
    return _Walk(formula, found, words).block(tree.body) if isinstance(tree, ast.Module) else ()


def parse_expression(formula: FormulaText, found: Diagnostics, words: Mapping[str, Word] = WORDS) -> Expr | None:
    """Parse one expression; None if it held a fault."""
    tree = _parse(formula, found, "eval")
    return _Walk(formula, found, words).guarded(tree.body) if isinstance(tree, ast.Expression) else None


def _parse(formula: FormulaText, found: Diagnostics, mode: str) -> ast.AST | None:
    start = formula.starts[0]
    whole = Span(formula.source, start, start + len(formula.text.split("\n", 1)[0]))
    if len(formula.text) > MAX_LENGTH:
        found.add("formula-too-long", f"a formula has at most {MAX_LENGTH} characters", whole)
        return None
    if (position := _non_ascii(formula)) is not None:
        found.add(
            "formula-syntax",
            f"{formula.source.text[position]!r} cannot stand in a formula",
            Span(formula.source, position, position + 1),
            help="formulas use ASCII: spell Greek letters out, as in 'beta1'",
        )
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(formula.text, mode=mode)
    except SyntaxError as error:
        _syntax_error(formula, found, error, whole)
        return None
    except (RecursionError, MemoryError, ValueError):
        found.add("formula-too-deep", f"a formula is nested at most {MAX_DEPTH} levels deep", whole)
        return None
    if (deep := _too_deep(tree)) is not None:
        found.add("formula-too-deep", f"a formula is nested at most {MAX_DEPTH} levels deep", formula.span(deep))
        return None
    return tree


def _non_ascii(formula: FormulaText) -> int | None:
    """Offset of the first character outside ASCII that is not in a comment."""
    for start, line in zip(formula.starts, formula.text.split("\n"), strict=True):
        for column, character in enumerate(line.split("#", 1)[0]):
            if not character.isascii():
                return start + column
    return None


def _syntax_error(formula: FormulaText, found: Diagnostics, error: SyntaxError, whole: Span) -> None:
    start = formula.offset(error.lineno or 1, max((error.offset or 1) - 1, 0))
    line = formula.source.line_text(formula.source.line_index(start))
    word = next((w for w in ("lambda", "from", "in", "is", "as", "with") if w in line.split("#")[0].split()), None)
    found.add(
        "formula-syntax",
        f"this formula cannot be read: {error.msg or 'invalid syntax'}",
        Span(formula.source, start, start + 1) if formula.text.strip() else whole,
        help=KEYWORD_HELP if word else None,
    )


def _too_deep(tree: ast.AST) -> ast.expr | ast.stmt | None:
    """A node below the deepest level that is allowed, found without recursion."""
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH and isinstance(node, ast.expr | ast.stmt):
            return node
        stack += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return None


class _FaultError(Exception):
    """The expression at hand holds an error, which has been reported."""


class _Walk:
    """Turns the allowed part of Python's syntax tree into expressions and statements."""

    def __init__(self, formula: FormulaText, found: Diagnostics, words: Mapping[str, Word]) -> None:
        self.formula = formula
        self.found = found
        self.words = words

    def block(self, body: list[ast.stmt]) -> Block:
        return tuple(statement for node in body for statement in self.statement(node))

    def statement(self, node: ast.stmt) -> Iterator[Assignment | Branch]:
        match node:
            case ast.Assign(targets=[ast.Name() as name], value=value):
                yield Assignment(name.id, self.formula.span(name), self.guarded(value), self.formula.span(node))
            case ast.AugAssign(target=ast.Name() as name, op=op, value=value):
                read = ast.copy_location(ast.Name(name.id, ast.Load()), name)
                whole = ast.copy_location(ast.BinOp(read, op, value), node)
                yield Assignment(name.id, self.formula.span(name), self.guarded(whole), self.formula.span(node))
            case ast.If(test=test, body=body, orelse=orelse):
                condition = self.guarded(test)
                yield Branch(condition, self.block(body), self.block(orelse), self.formula.span(test))
            case ast.Assign(targets=targets):
                self.report(targets[-1], "a statement assigns to one name", "write one statement for each name")
            case _:
                self.forbid(node)

    def guarded(self, node: ast.expr) -> Expr | None:
        try:
            return self.expression(node)
        except _FaultError:
            return None

    def expression(self, node: ast.expr) -> Expr:
        span = self.formula.span(node)
        match node:
            case ast.Name(id=name):
                return Ref(name, span)
            case ast.Constant(value=value):
                return self.constant(value, node)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.expression(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Op("neg", (self.expression(operand),), span)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Op("not", (self.expression(operand),), span)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator).__name__ in BINARY:
                return Op(BINARY[type(operator).__name__], (self.expression(left), self.expression(right)), span)
            case ast.BoolOp(op=operator, values=values):
                op = "and" if isinstance(operator, ast.And) else "or"
                return self.fold(op, [self.expression(value) for value in values], span)
            case ast.Compare(left=left, ops=operators, comparators=comparators):
                return self.comparison([left, *comparators], operators, span)
            case ast.Call():
                return self.call(node, span)
            case ast.BinOp(op=operator):
                return self.forbid(node, type(operator).__name__)
            case _:
                return self.forbid(node)

    def constant(self, value: object, node: ast.expr) -> Expr:
        span = self.formula.span(node)
        if isinstance(value, bool | str):
            return Const(value, span)
        if not isinstance(value, int | float):
            return self.forbid(node)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number):
            self.report(node, "this number is too large", "the largest float64 is about 1.8e308", "number-range")
        return Const(value if abs(number) < 2**53 else number, span)

    def comparison(self, operands: list[ast.expr], operators: list[ast.cmpop], span: Span) -> Expr:
        values = [self.expression(operand) for operand in operands]
        parts: list[Expr] = []
        for left, operator, right, node in zip(values, operators, values[1:], operands[1:], strict=False):
            name = type(operator).__name__
            if name not in COMPARE:
                self.forbid(node, name)
            parts.append(Op(COMPARE[name], (left, right), span))
        return self.fold("and", parts, span)

    def call(self, node: ast.Call, span: Span) -> Expr:
        if not isinstance(node.func, ast.Name):
            return self.forbid(node.func)
        name = node.func.id
        word = self.words.get(name)
        if word is None:
            return self.report(node.func, f"unknown function '{name}'", suggest(name, self.words), "unknown-function")
        if node.keywords or any(isinstance(arg, ast.Starred) for arg in node.args):
            self.report(node, f"'{name}' takes plain arguments only", f"write {word.signature}", "wrong-arguments")
        count = len(node.args)
        if count != word.arity and not (word.variadic and count > word.arity):
            expected = f"{word.arity} or more" if word.variadic else str(word.arity)
            message = f"'{name}' takes {expected} argument{'s' if word.arity > 1 else ''}, got {count}"
            self.report(node, message, f"write {word.signature}", "wrong-arguments")
        args = [self.expression(arg) for arg in node.args]
        return self.fold(word.op, args, span) if word.variadic else Op(word.op, tuple(args), span)

    def fold(self, op: str, values: list[Expr], span: Span) -> Expr:
        result = values[0]
        for value in values[1:]:
            result = Op(op, (result, value), span)
        return result

    def forbid(self, node: ast.AST, name: str | None = None) -> Expr:
        name = name or type(node).__name__
        help_text = FORBIDDEN_HELP.get(name, "formulas have numbers, names, + - * / **, comparisons, and/or/not and calls")
        return self.report(node, "this cannot stand in a formula", help_text, "formula-forbidden")

    def report(self, node: ast.AST, message: str, help_text: str | None, code: str = "formula-forbidden") -> Expr:
        assert isinstance(node, ast.expr | ast.stmt)
        self.found.add(code, message, self.formula.span(node), help=help_text)
        if isinstance(node, ast.stmt):
            return Const(0)
        raise _FaultError
