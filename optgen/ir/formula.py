"""Formula text -> expressions: a whitelisted walk of Python's `ast`, which computes in the order written.

Nothing is evaluated and nothing is simplified here. Every node keeps the span of the text it came from.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NoReturn

from optgen.diagnostics import Diagnostics, Source, Span
from optgen.ir.formula_faults import OTHER_NAMES, PRODUCT, SIGNS, forbidden, function_help, syntax_fault
from optgen.ir.nodes import Const, Expr, Op, Ref
from optgen.ir.ops import BINARY, COMPARE, REDUCED, WORDS, Word

__all__ = ["Assignment", "Branch", "FormulaText", "parse_block", "parse_expression", "parse_tree"]

MAX_LENGTH = 20_000  # characters of one formula
MAX_DEPTH = 60  # nesting of one formula; every later walk may recurse
TOO_DEEP = f"a formula is nested at most {MAX_DEPTH} levels deep"
OVER_WORDS: dict[tuple[str, ...], str] = {
    ("rows",): "rows",
    ("cols",): "cols",
    ("cols", "rows"): "matrix",
    ("group",): "group",
    ("optimizer",): "optimizer",
}
SPLIT = "give a name to a part of it on a line of its own"
LARGEST = "the largest is about 1.8e308"


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
        ahead = self.lines[index].encode()[: max(column, 0)].decode(errors="ignore")  # ast counts bytes of UTF-8
        return min(self.starts[index] + len(ahead), len(self.source.text))

    def columns(self, line: int, start: int, end: int) -> Span:
        """The characters from column `start` to `end` of a 1-based line."""
        ahead = self.starts[min(line, len(self.starts)) - 1]
        length = len(self.source.text)
        return Span(self.source, min(ahead + start, length), min(ahead + max(end, start), length))

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text."""
        return self.text.split("\n")


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


def parse_block(
    formula: FormulaText,
    found: Diagnostics,
    words: Mapping[str, Word] = WORDS,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> Block:
    """Parse statements. Faults go to `found`; what could be read is returned. `parts` are the names of tuples' parts."""
    tree = _parse(formula, found, "exec")
    return _Walk(formula, found, words, parts or {}).block(tree.body) if isinstance(tree, ast.Module) else ()


def parse_expression(formula: FormulaText, found: Diagnostics) -> Expr | None:
    """Parse one expression; None if it held a fault."""
    tree = _parse(formula, found, "eval")
    return _Walk(formula, found, WORDS, {}).whole(tree.body) if isinstance(tree, ast.Expression) else None


def parse_tree(formula: FormulaText, found: Diagnostics) -> ast.AST | None:
    """The syntax of one expression, for a reader of its own; None if it held a fault."""
    return _parse(formula, found, "eval")


def _parse(formula: FormulaText, found: Diagnostics, mode: str) -> ast.AST | None:
    start = formula.starts[0]
    whole = Span(formula.source, start, start + len(formula.text.split("\n", 1)[0]))
    if len(formula.text) > MAX_LENGTH:
        help_text = "leave out what it does not need"
        found.add("formula-too-long", f"a formula has at most {MAX_LENGTH:,} characters", whole, help=help_text)
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
    except (RecursionError, MemoryError):
        found.add("formula-too-deep", TOO_DEEP, whole, help=SPLIT)
        return None
    if (deep := _too_deep(tree)) is not None:
        found.add("formula-too-deep", TOO_DEEP, formula.span(deep), help=SPLIT)
        return None
    return tree


def _non_ascii(formula: FormulaText) -> int | None:
    """Offset of the first character outside ASCII that is not in a comment, or of a NUL, which Python takes nowhere."""
    for start, line in zip(formula.starts, formula.text.split("\n"), strict=True):
        code = len(line.split("#", 1)[0])
        for column, character in enumerate(line):
            if character == "\0" or (column < code and not character.isascii()):
                return start + column
    return None


def _syntax_error(formula: FormulaText, found: Diagnostics, error: SyntaxError, whole: Span) -> None:
    number = min(max(error.lineno or 1, 1), len(formula.lines))
    column = min(max((error.offset or 1) - 1, 0), len(formula.lines[number - 1]))
    reason = error.msg or "invalid syntax"
    fault = syntax_fault(reason, formula.lines, number, column)
    span = formula.columns(fault.line, fault.start, fault.end) if formula.text.strip() else whole
    if "nested parentheses" in reason or "indentation levels" in reason:
        found.add("formula-too-deep", TOO_DEEP, span, help=SPLIT)
    elif "integer string conversion" in reason:
        found.add("number-range", "this number is too large", whole, help=LARGEST)
    else:
        found.add("formula-syntax", fault.message, span, help=fault.help)


def _too_deep(tree: ast.AST) -> ast.expr | ast.stmt | None:
    """A node below the deepest level that is allowed, found without recursion."""
    stack: list[tuple[ast.AST, int]] = [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH and isinstance(node, ast.expr | ast.stmt):
            return node
        stack += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return None


def _depth(value: Expr) -> int:
    """Levels of operations, found without recursion."""
    deepest, stack = 0, [(value, 1)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(node, Op):
            stack += [(arg, depth + 1) for arg in node.args]
    return deepest


class _FaultError(Exception):
    """The expression at hand holds an error, which has been reported."""


class _Walk:
    """Turns the allowed part of Python's syntax tree into expressions and statements."""

    def __init__(
        self, formula: FormulaText, found: Diagnostics, words: Mapping[str, Word], parts: Mapping[str, Sequence[str]]
    ) -> None:
        self.formula = formula
        self.found = found
        self.words = words
        self.parts = parts

    def block(self, body: list[ast.stmt]) -> Block:
        return tuple(statement for node in body for statement in self.statement(node))

    def statement(self, node: ast.stmt) -> Iterator[Assignment | Branch]:
        match node:
            case ast.Assign(targets=[ast.Name() as name], value=value):
                yield Assignment(name.id, self.formula.span(name), self.whole(value), self.formula.span(node))
            case ast.AugAssign(target=ast.Name() as name, op=op, value=value):
                read = ast.copy_location(ast.Name(name.id, ast.Load()), name)
                whole = ast.copy_location(ast.BinOp(read, op, value), node)
                yield Assignment(name.id, self.formula.span(name), self.whole(whole), self.formula.span(node))
            case ast.If(test=test, body=body, orelse=orelse):
                condition = self.whole(test)
                yield Branch(condition, self.block(body), self.block(orelse), self.formula.span(test))
            case ast.Assign(targets=targets):
                self.add(targets[-1], "a statement assigns to one name", "write one statement for each name")
                yield from self.lost(node)
            case ast.Expr(value=value) if isinstance(value, ast.NamedExpr | ast.Lambda):
                self.guarded(value)
            case _:
                self.add(node, *forbidden(type(node).__name__))
                yield from self.lost(node)

    def lost(self, node: ast.stmt) -> Iterator[Assignment]:
        """The names that a faulty statement assigns: what they are is not known."""
        for name in ast.walk(node):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                yield Assignment(name.id, self.formula.span(name), None, self.formula.span(node))

    def guarded(self, node: ast.expr) -> Expr | None:
        try:
            return self.expression(node)
        except _FaultError:
            return None

    def whole(self, node: ast.expr) -> Expr | None:
        """A whole formula; min(x, y, ...) with many arguments is nested, too."""
        value = self.guarded(node)
        if value is not None and _depth(value) > MAX_DEPTH:
            self.add(node, TOO_DEEP, SPLIT, "formula-too-deep")
            return None
        return value

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
                return Op(BINARY[type(operator).__name__], tuple(self.expressions([left, right])), span)
            case ast.BoolOp(op=operator, values=values):
                op = "and" if isinstance(operator, ast.And) else "or"
                return self.fold(op, self.expressions(values), span)
            case ast.Compare(left=left, ops=operators, comparators=comparators):
                return self.comparison([left, *comparators], operators, span)
            case ast.Call():
                return self.call(node, span)
            case _:
                return self.forbid(node)

    def expressions(self, nodes: list[ast.expr]) -> list[Expr]:
        """Several expressions; a fault in one does not hide those in the others."""
        values = [self.guarded(node) for node in nodes]
        if None in values:
            raise _FaultError
        return [value for value in values if value is not None]

    def constant(self, value: object, node: ast.expr) -> Expr:
        span = self.formula.span(node)
        if isinstance(value, bool):
            return self.report(node, f"'{value}' cannot stand in a formula", "a flag is a condition itself: 'x' or 'not x'")
        if isinstance(value, str):
            return Const(value, span)
        if not isinstance(value, int | float):
            return self.forbid(node)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isinf(number):
            self.report(node, "this number is too large", LARGEST, "number-range")
        if number == 0 and re.search("[1-9]", re.split("[eE]", span.text)[0]):
            self.report(node, "this number is too small and would be 0", "the smallest is about 5e-324", "number-range")
        return Const(value if abs(number) < 2**53 else number, span)

    def comparison(self, operands: list[ast.expr], operators: list[ast.cmpop], span: Span) -> Expr:
        names = [type(operator).__name__ for operator in operators]
        for name, node in zip(names, operands[1:], strict=True):
            if name not in COMPARE:
                self.forbid(node, name)
        values = self.expressions(operands)
        parts: list[Expr] = [Op(COMPARE[n], pair, span) for n, pair in zip(names, pairwise(values), strict=True)]
        return self.fold("and", parts, span)

    def call(self, node: ast.Call, span: Span) -> Expr:
        if isinstance(node.func, ast.Attribute):
            self.report(node.func, forbidden("Attribute")[0], _method_help(node.func))
        if not isinstance(node.func, ast.Name):
            return self.report(node.func, "this is no function", PRODUCT, "unknown-function")
        name = node.func.id
        word = self.words.get(name)
        if word is None:
            for arg in node.args:
                self.guarded(arg)
            return self.report(node.func, f"unknown function '{name}'", function_help(name, self.words), "unknown-function")
        whole = word.whole or (word.op if word.op in REDUCED else None)
        over = self.over(node) if whole is not None and [keyword.arg for keyword in node.keywords] == ["over"] else "all"
        if (node.keywords and over == "all") or any(isinstance(arg, ast.Starred) for arg in node.args):
            over_help = f"write {name}(x), or for each row or column {name}(x, over=cols) or {name}(x, over=rows)"
            help_text = over_help if whole is not None else f"write {word.signature}"
            self.report(node, f"'{name}' takes plain arguments only", help_text, "wrong-arguments")
        count = len(node.args)
        if count == 1 and whole is not None:
            return Op(f"{over}_{REDUCED[whole][1]}", (self.expression(node.args[0]),), span)
        if over != "all":
            self.report(node, f"with 'over', '{name}' takes one argument", f"write {name}(x, over={over})", "wrong-arguments")
        if count != word.arity and not (word.is_open and count > word.arity):
            expected = f"{word.arity} or more" if word.is_open else str(word.arity)
            message = f"'{name}' takes {expected} argument{'s' if word.arity > 1 else ''}, got {count}"
            self.report(node, message, f"write {word.signature}", "wrong-arguments")
        args = self.expressions(node.args)
        return self.fold(word.op, args, span) if word.variadic else Op(word.op, tuple(args), span)

    def over(self, node: ast.Call) -> str:
        """The dimensions that a reduction removes, or whose parameters it takes."""
        given = node.keywords[0].value
        parts = given.elts if isinstance(given, ast.Tuple | ast.List) else [given]
        names = [part.id for part in parts if isinstance(part, ast.Name)]
        found = OVER_WORDS.get(tuple(sorted(names)))
        if found is None or len(names) != len(parts):
            help_text = "write over=rows, over=cols or over=(rows, cols), over=group or over=optimizer"
            message = "a reduction is over rows, columns or both, or over all parameters of a group or of the optimizer"
            self.report(given, message, help_text, "wrong-arguments")
        return found

    def fold(self, op: str, values: list[Expr], span: Span) -> Expr:
        result = values[0]
        for value in values[1:]:
            result = Op(op, (result, value), span)
        return result

    def forbid(self, node: ast.expr, name: str | None = None) -> NoReturn:
        """Report what formulas do not have: an operator at its sign, anything else as a whole."""
        name = name or type(getattr(node, "op", node)).__name__
        message, help_text = forbidden(name)
        span = self.formula.span(node)
        match node:
            case ast.BinOp(left=left, right=right) if name in SIGNS:
                start = self.formula.span(left).end
                start = span.source.text.find(SIGNS[name], start, self.formula.span(right).start)
                span = Span(span.source, start, start + len(SIGNS[name])) if start >= 0 else span
            case ast.Subscript(value=ast.Name(id=owner), slice=ast.Constant(value=int(index))):
                parts = self.parts.get(owner, ())
                help_text = f"write '{parts[index]}'" if index < len(parts) else help_text
            case ast.Attribute(attr="grad"):
                help_text = "the gradient is called g"
        self.found.add("formula-forbidden", message, span, help=help_text)
        if isinstance(node, ast.BinOp | ast.UnaryOp | ast.IfExp):
            self.expressions([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)])
        raise _FaultError

    def report(self, node: ast.expr, message: str, help_text: str | None, code: str = "formula-forbidden") -> NoReturn:
        self.add(node, message, help_text, code)
        raise _FaultError

    def add(self, node: ast.expr | ast.stmt, message: str, help_text: str | None, code: str = "formula-forbidden") -> None:
        self.found.add(code, message, self.formula.span(node), help=help_text)


def _method_help(node: ast.Attribute) -> str:
    """How to write `torch.sqrt(x)` and `x.sqrt()`."""
    if node.attr in WORDS:
        return f"write {WORDS[node.attr].signature}"
    return OTHER_NAMES.get(node.attr, forbidden("Attribute")[1])
