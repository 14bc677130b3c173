"""What printers of Python-like languages share: infix operators by precedence, guards as `if`s, labels as comments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from optgen.ir.infer import infer
from optgen.ir.nodes import Assign, Call, Const, Domain, Expr, Function, Guard, Kind, Op, Ref, Role, Statement, Symbol

__all__ = ["ATOM", "NARROW_HELPERS", "Printer", "plain_parentheses"]

# Functions of the runtime that stand in a module of their own: 16-bit floats.
NARROW_HELPERS = frozenset({"read_parameter", "write_parameter", "stochastic_bfloat16", "stochastic_float16"})

# Python's precedences
COMPARE, OR, XOR, AND, SHIFT, SUM, PRODUCT, UNARY, POWER, ATOM = range(10)
INFIX: dict[str, tuple[int, str]] = {
    "lt": (COMPARE, "<"),
    "le": (COMPARE, "<="),
    "gt": (COMPARE, ">"),
    "ge": (COMPARE, ">="),
    "eq": (COMPARE, "=="),
    "ne": (COMPARE, "!="),
    "or": (OR, "|"),
    "bit_or": (OR, "|"),
    "bit_xor": (XOR, "^"),
    "and": (AND, "&"),
    "bit_and": (AND, "&"),
    "shift_left": (SHIFT, "<<"),
    "shift_right": (SHIFT, ">>"),
    "add": (SUM, "+"),
    "sub": (SUM, "-"),
    "mul": (PRODUCT, "*"),
    "div": (PRODUCT, "/"),
    "pow": (POWER, "**"),
}
PREFIX: dict[str, tuple[int, str]] = {"neg": (UNARY, "-"), "not": (UNARY, "~")}


def plain_parentheses(text: str) -> str:
    """`(name).to(...)` -> `name.to(...)`, `(f(x)).to(...)` -> `f(x).to(...)`."""
    match = re.match(r"\((\w+|[\w.]+\([^()]*\))\)\.", text)
    return text if match is None else match.group(1) + text[match.end() - 1 :]


class Printer:
    """Prints expressions and statements; a backend adds `formats` and the operations that need more than a format."""

    formats: Mapping[str, str] = {}
    indent = "    "

    def __init__(self, symbols: Mapping[str, Symbol], functions: Sequence[Function] = ()) -> None:
        """Know the kinds of `symbols` and the results of `functions`."""
        self.symbols = dict(symbols)
        self.functions = {function.name: function for function in functions}
        self.helpers: set[str] = set()

    def expression(self, value: Expr, outer: int = COMPARE) -> str:
        """`value` as an operand of an operator of precedence `outer`."""
        level, text = self.printed(value)
        return f"({text})" if level < outer else text

    def printed(self, value: Expr) -> tuple[int, str]:
        """Precedence and text of `value`."""
        match value:
            case Const(value=number):
                return (UNARY if isinstance(number, int | float) and number < 0 else ATOM), self.constant(number)
            case Ref(name=name):
                return ATOM, name
            case Call(function=name, args=args):
                return ATOM, f"{name}({', '.join(self.expression(arg) for arg in args)})"
            case Op(op="square", args=(Ref(name=name),)):
                return PRODUCT, f"{name} * {name}"
            case Op(op="lookup"):
                return ATOM, self.lookup(value)
            case Op(op=op, args=(left, right)) if op in INFIX:
                return self.infix(op, left, right)
            case Op(op=op, args=(arg,)) if op in PREFIX:
                level, sign = PREFIX[op]
                return level, sign + self.expression(arg, level)
            case Op():
                return ATOM, self.operation(value)

    def infix(self, op: str, left: Expr, right: Expr) -> tuple[int, str]:
        """A binary operator. The right operand of the same precedence keeps its parentheses, to keep the order.

        So do bitwise operators and what stands in them: few readers know those precedences.
        """
        level, sign = INFIX[op]
        sides = {POWER: (level + 1, level), COMPARE: (SUM, SUM)}.get(level, (level, level + 1))
        if level in (OR, XOR, AND, SHIFT):
            sides = (ATOM, ATOM)
        return level, f"{self.expression(left, sides[0])} {sign} {self.expression(right, sides[1])}"

    def operation(self, value: Op) -> str:
        """An operation that is not an operator of the language."""
        return self.formatted(value.op, [self.expression(arg) for arg in value.args])

    def formatted(self, op: str, args: Sequence[str]) -> str:
        """An operation with these arguments."""
        form = self.formats[op]
        if form.startswith("@"):  # a function of the runtime
            form = form[1:]
            self.helpers.add(form.split("(")[0])
        return form.format(*args)

    def lookup(self, value: Op) -> str:
        """One of several constants."""
        return self.helper("lookup", *map(self.expression, value.args))

    def helper(self, name: str, *args: object) -> str:
        """A call of a function of the runtime."""
        self.helpers.add(name)
        return f"{name}({', '.join(map(str, args))})"

    def constant(self, number: object) -> str:
        """A literal."""
        return repr(number)

    def kind(self, value: Expr) -> Kind:
        """Kind of a value."""
        return infer(value, self.symbols, self.functions)[0]

    def domain(self, value: Expr) -> Domain:
        """Domain of a value."""
        return infer(value, self.symbols, self.functions)[1]

    def block(self, body: Sequence[Statement], depth: int = 0) -> list[str]:
        """Statements as lines; guards become `if`s, a guard and its opposite `if` and `else`."""
        lines: list[str] = []
        index = 0
        opposite: Guard | None = None  # the guard whose statements may follow as `else`
        while index < len(body):
            guards = body[index].guards[depth:]
            if not guards:
                lines += self.statement(body[index])
                index, opposite = index + 1, None
                continue
            end = index
            while end < len(body) and body[end].guards[depth : depth + 1] == guards[:1]:
                end += 1
            is_else = opposite == guards[0]
            opposite = None if is_else else Guard(guards[0].flag, not guards[0].holds)
            condition = guards[0].flag if guards[0].holds else f"not {guards[0].flag}"
            lines.append("else:" if is_else else f"if {condition}:")
            lines += [self.indent + line for line in self.block(body[index:end], depth + 1)]
            index = end
        return lines

    def statement(self, statement: Statement) -> list[str]:
        """One statement without its guards."""
        if isinstance(statement, Assign):
            return [f"{statement.target} = {self.expression(statement.value)}"]
        return self.store(statement.buffer, statement.value)

    def store(self, buffer: str, value: Expr) -> list[str]:
        """Write a value to a buffer."""
        raise NotImplementedError

    def function_body(self, function: Function) -> list[str]:
        """The statements of a function, the last one as a return; the printer must be new, with no symbols."""
        self.symbols = {param.name: param for param in function.params}
        lines: list[str] = []
        for statement in function.body[:-1]:
            lines += self.statement(statement)
            kind, domain = infer(statement.value, self.symbols, self.functions)
            self.symbols[statement.target] = Symbol(statement.target, Role.LOCAL, kind, domain)
        return [*lines, f"return {self.expression(function.body[-1].value)}"]
