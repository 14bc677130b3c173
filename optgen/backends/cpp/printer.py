"""Expressions -> C++ on vectors."""

from __future__ import annotations

from optgen.backends.cpp.config import FORMATS, is_taken
from optgen.backends.cpp.schedule import Step, Value, is_single, precision_of
from optgen.backends.printer import ATOM, COMPARE, INFIX, SUM, UNARY, Printer
from optgen.ir.infer import infer
from optgen.ir.nodes import Const, Expr, Function, Guard, Kind, Op, Ref, Role, Symbol
from optgen.plan.nodes import Buffer, Kernel, Layout

__all__ = ["CppPrinter", "LoopPrinter", "condition", "cpp_name", "is_packed", "unpacked"]

TERNARY = COMPARE - 1  # binds less than anything else
LARGEST_INT = 2**31
BITS_OF_BYTE = 8
OTHERWISE = ("neg", "lookup", "load", "load_codes", "random_bits", "random_elements", "blocks")  # not printed by a format
TEXT = "="  # begins a reference that is a literal already


def cpp_name(name: str) -> str:
    """A spec's name as C++ can have it; a name that means something there gets an underscore."""
    while is_taken(name):
        name += "_"
    return name


def condition(guard: Guard) -> str:
    """A compile-time condition; the runtime's headers know the one flag that no spec has."""
    flag = guard.flag if guard.flag == "is_corrected" else cpp_name(guard.flag)
    return flag if guard.holds else f"!{flag}"


def is_packed(buffer: Buffer) -> bool:
    """Whether a buffer has several codes in a byte."""
    return buffer.layout == Layout.CODE and buffer.storage.bits < BITS_OF_BYTE


def unpacked(buffer: Buffer) -> str:
    """The name of a tile's codes, a byte each: an array's, or the buffer's own."""
    return f"_{buffer.name}" if is_packed(buffer) else cpp_name(buffer.name)


class CppPrinter(Printer):
    """Values are vectors: `floats`, `ints`, or `reals` in the dtype of the arithmetic; host scalars are single numbers."""

    formats = FORMATS

    def printed(self, value: Expr) -> tuple[int, str]:
        """Names and choices; constants are written as what they meet."""
        match value:
            case Ref(name=name):
                return ATOM, name.removeprefix(TEXT) if name.startswith(TEXT) else cpp_name(name)
            case Op(op="add", args=(x, Op(op="where", args=(condition, Const(value=1), Const(value=0))))) if self.is_mask(
                value
            ):
                return SUM, f"{self.expression(x, SUM)} - ({self.expression(condition)})"
            case Op(op="where", args=(condition, Const(value=1), Const(value=0))) if self.is_mask(value):
                return UNARY, f"-({self.expression(condition)})"
            case Op(op="where", args=(condition, x, y)):
                return TERNARY, self.choice(value, condition, x, y)
            case (
                Op(op="min" | "max" as op, args=(x, Const() as bound)) | Op(op="min" | "max" as op, args=(Const() as bound, x))
            ):
                name = "at_most" if op == "min" else "at_least"
                return ATOM, f"{name}({self.vector(x, value)}, {self.vector(bound, value)})"
            case Op(op="spread" | "number", args=(x,)) if not self.is_single(x):
                return self.printed(x)
            case Op(op="square", args=(Ref(name=name),)):
                return super().printed(Op("mul", (Ref(name), Ref(name))))
            case Op(op="not", args=(x,)):
                return ATOM, f"!{self.expression(x, ATOM)}"
            case Op(op="eq" | "ne" | "and" | "or" as op, args=(x, y)) if self.is_mixed(x, y):
                return self.infix(op, self.mask(x), self.mask(y))
            case Op(op=op, args=args) if op in INFIX and op != "pow":
                typed = tuple(Ref(TEXT + self.literal(arg, value)) if isinstance(arg, Const) else arg for arg in args)
                return self.infix(op, *typed)
            case Op(op=op, args=args) if op not in OTHERWISE:
                return ATOM, self.formatted(op, [self.vector(arg, value) for arg in args])
        return super().printed(value)

    def lookup(self, value: Op) -> str:
        """A table that fits registers."""
        index, *table = value.args
        return f"lookup({self.expression(index)}, {{{', '.join(self.literal(number, value) for number in table)}}})"

    def choice(self, whole: Op, condition: Expr, x: Expr, y: Expr) -> str:
        """`condition ? x : y`; one of both must be a vector, and both where the condition is none."""
        if self.is_mixed(x, y):
            texts = self.expression(self.mask(x)), self.expression(self.mask(y))
        elif self.is_single(condition) or (self.is_single(x) and self.is_single(y)):
            texts = self.vector(x, whole), self.vector(y, whole)
        else:
            texts = self.side(x, whole), self.side(y, whole)
        return f"{self.expression(condition, COMPARE)} ? {texts[0]} : {texts[1]}"

    def is_mixed(self, x: Expr, y: Expr) -> bool:
        """Whether two are conditions, one of vectors, whose lanes are -1 or 0, and one of single numbers, true or false."""
        return self.kind(x) == self.kind(y) == Kind.BOOL and self.is_single(x) != self.is_single(y)

    def mask(self, value: Expr) -> Expr:
        """A condition of vectors, made of a single one if need be."""
        if not self.is_single(value):
            return value
        return Ref(f"{TEXT}(spread(real({self.expression(value)})) != real(0.0))")

    def side(self, value: Expr, whole: Op) -> str:
        return self.literal(value, whole) if isinstance(value, Const) else self.expression(value)

    def vector(self, value: Expr, whole: Op) -> str:
        """An argument of a function of vectors."""
        text = self.side(value, whole)
        is_ready = (
            not self.is_single(value)
            or whole.op in ("spread", "number")
            or (whole.op == "mul_high" and isinstance(value, Const))
        )
        return text if is_ready else f"spread({text})"

    def literal(self, value: Expr, whole: Op) -> str:
        """A constant as the numbers that it meets."""
        assert isinstance(value, Const)
        number = value.value
        if isinstance(number, bool | str):
            return str(number).lower()
        kinds = [self.kind(arg) for arg in whole.args if not isinstance(arg, Const)]
        kinds = [kind for kind in kinds if kind not in (Kind.BOOL, Kind.TEXT)] or [self.kind(whole)]
        if kinds[0] == Kind.INT and isinstance(number, int):
            return "(-2147483647 - 1)" if number == -LARGEST_INT else str(number)
        return self.real(float(number), whole)

    def real(self, number: float, whole: Op) -> str:  # noqa: ARG002 -- what it meets matters where not all is float32
        """A real number; in functions of codecs all are float32."""
        return "infinity" if number == float("inf") else f"{number!r}f"

    def is_mask(self, value: Expr) -> bool:
        """Whether an integer is made of vectors alone; a comparison of vectors is -1 where it holds."""
        return self.kind(value) == Kind.INT and not self.is_single(value)

    def is_single(self, value: Expr) -> bool:
        """Whether a value is one number and no vector."""
        match value:
            case Const():
                return True
            case Op(op="spread" | "number" | "load" | "load_codes" | "random_bits" | "random_elements" | "blocks" | "elements"):
                return False
            case Op(args=args):
                return bool(args) and all(map(self.is_single, args))
        return False

    def type_of(self, value: Expr) -> str:
        """The C++ type of a value."""
        return {Kind.INT: "ints", Kind.BOOL: "auto"}.get(self.kind(value), "floats")

    def function_body(self, function: Function) -> list[str]:
        """The statements of a function; the first assignment of a name declares it."""
        self.symbols = {param.name: param for param in function.params}
        lines: list[str] = []
        for statement in function.body[:-1]:
            kind, domain = infer(statement.value, self.symbols, self.functions)
            is_new = statement.target not in self.symbols
            declared = f"{self.type_of(statement.value)} " if is_new else ""
            lines.append(f"{declared}{cpp_name(statement.target)} = {self.expression(statement.value, TERNARY)};")
            self.symbols[statement.target] = Symbol(statement.target, Role.LOCAL, kind, domain)
        return [*lines, f"return {self.expression(function.body[-1].value, TERNARY)};"]


class LoopPrinter(CppPrinter):
    """Prints statements in loops over elements or blocks; knows the buffers and which names are vectors."""

    def __init__(self, kernel: Kernel, symbols: dict[str, Symbol]) -> None:
        """Print with the symbols and functions of `kernel`."""
        super().__init__(symbols, kernel.functions)
        self.kernel = kernel
        self.buffers: dict[str, Buffer] = {buffer.name: buffer for buffer in (*kernel.buffers, *kernel.scratch)}
        self.reads: dict[str, Value] = {}  # of the statement that is printed

    def value_of(self, step: Step) -> str:
        """The right side of a step."""
        self.reads = step.reads
        return self.expression(step.statement.value, TERNARY)

    def printed(self, value: Expr) -> tuple[int, str]:
        """Loads, codes and random bits, at the place of the loop."""
        match value:
            case Op(op="load", args=(Ref(name="param"),)):
                return ATOM, "read_parameter(param, correction, i)"
            case Op(op="load", args=(Ref(name=name),)) if is_single(self.buffers[name]):
                return ATOM, f"spread(real(*{cpp_name(name)}))" if self.kernel.grid else f"spread(*{cpp_name(name)})"
            case Op(op="load", args=(Ref(name=name),)):
                return ATOM, f"load_reals({cpp_name(name)} + i)"
            case Op(op="load_codes", args=(Ref(name=name),)):
                return ATOM, f"load_ints({unpacked(self.buffers[name])} + i)"
            case Op(op="random_bits" | "random_elements", args=(Const(value=salt),)):
                return ATOM, f"load_ints(_random_{salt} + i)"
            case Op(op="blocks", args=(x, _)):
                return ATOM, f"existing(tile, i, to_floats({self.expression(x)}))"
            case Op(op="real", args=(x,)) if self.kind(x) == Kind.REAL:
                return ATOM, f"to_floats({self.expression(x)})"
            case Op(op="where", args=(Op(op="is_finite", args=(x,)), y, Const(value=0 | 0.0))) if x == y:
                return ATOM, f"finite_or_zero({self.expression(x)})"
        return super().printed(value)

    def is_single(self, value: Expr) -> bool:
        """Names of host scalars are single numbers."""
        if isinstance(value, Ref):
            return value.name not in self.reads
        return super().is_single(value)

    def real(self, number: float, whole: Op) -> str:
        """A real number in the dtype of what it meets."""
        return super().real(number, whole) if precision_of(whole, self.reads, self.buffers) == "float" else f"real({number!r})"
