"""Expressions -> Triton: the body of a tile."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from optgen.backends.printer import ATOM, Printer, plain_parentheses
from optgen.backends.triton.config import FORMATS
from optgen.backends.triton.tables import Tables
from optgen.ir.nodes import Call, Const, Domain, Expr, Function, Op, Ref, Storage, Symbol
from optgen.ir.ops import PARTS, STRIPS
from optgen.ir.signs import Signs
from optgen.plan.nodes import Buffer, Kernel, Layout

__all__ = ["KernelPrinter", "TritonPrinter"]


FLOAT32_MAX = 3.4028234663852886e38
SCALARS = {Layout.BLOCK: "scalars", Layout.ROW: "rows", Layout.TENSOR: "whole"}
VECTORS = {
    Layout.ROWS: ("row_values", "_at, _rows, WIDTH, TILE, BULK"),
    Layout.COLS: ("column_values", "_at, _length, WIDTH, TILE, BULK"),
    Layout.MATRICES: ("matrix_value", "_at, TILE"),
}
PLACES = ("_first, _blocks, _length", "{block}, {wide}, TILE")
LOADED = {Layout.BLOCK: (*PLACES, "BULK"), Layout.ROW: (*PLACES, "BULK"), Layout.TENSOR: ()}
STORED = {Layout.BLOCK: (*PLACES, "BULK"), Layout.ROW: PLACES, Layout.TENSOR: ("_first",)}


class TritonPrinter(Printer):
    """Values per element are (TILE,), values in blocks (blocks, BLOCK), block scalars (blocks, 1)."""

    formats = FORMATS

    def __init__(self, symbols: Mapping[str, Symbol], functions: Sequence[Function], tables: Tables) -> None:
        """Know the kinds of `symbols`, the results of `functions`, and which of them look values up."""
        super().__init__(symbols, functions)
        self.tables = tables

    def printed(self, value: Expr) -> tuple[int, str]:
        """A function that looks values up is told where the tables are."""
        if isinstance(value, Call) and value.function in self.tables.users:
            return ATOM, f"{value.function}({', '.join([*map(self.expression, value.args), '_tables'])})"
        return super().printed(value)

    def function_body(self, function: Function) -> list[str]:
        """The statements of a function, or the one that looks its value up."""
        if function.name not in self.tables.lookups:
            return super().function_body(function)
        helper, (start, *numbers) = self.tables.lookups[function.name]
        return [f"return {self.helper(helper, f'_tables + {start}', function.params[0].name, *numbers)}"]

    def operation(self, value: Op) -> str:
        """Without needless parentheses around names."""
        return plain_parentheses(super().operation(value))

    def lookup(self, value: Op) -> str:
        """A choice by the bits of the index: registers cannot be indexed."""
        return self.helper(f"lookup_{len(value.args) - 1}", *map(self.expression, value.args))


def _needs_float64(value: Expr) -> bool:
    """Whether Triton would round this constant, which it takes for a float32 where a function gets it."""
    if not isinstance(value, Const) or not isinstance(value.value, float) or abs(value.value) > FLOAT32_MAX:
        return isinstance(value, Const) and isinstance(value.value, float)
    return bool(struct.unpack("f", struct.pack("f", value.value))[0] != value.value)


class KernelPrinter(TritonPrinter):
    """Prints the body of one kernel; knows its buffers."""

    def __init__(self, kernel: Kernel, tables: Tables) -> None:
        """Print with the symbols and functions of `kernel`."""
        super().__init__(kernel.program.symbols, kernel.functions, tables)
        self.kernel = kernel
        self.buffers = {buffer.name: buffer for buffer in (*kernel.buffers, *kernel.scratch)}
        self.wide = "WIDTH" if kernel.grid else kernel.wide  # of a tile, or the largest block
        self.signs = Signs(kernel.program)

    def printed(self, value: Expr) -> tuple[int, str]:
        """A division of elements by what is never negative has a short way."""
        match value:
            case Op(op="div", args=(x, y)) if self.domain(y) == Domain.ELEMENT and self.signs.is_nonnegative(y):
                return ATOM, self.helper("divide", self.expression(x), self.expression(y))
        return super().printed(value)

    def operation(self, value: Op) -> str:
        """Loads, codes, blocks and random bits."""
        match value:
            case Op(op="where" | "min" | "max", args=args) if any(map(_needs_float64, args)):
                wide = "number" if self.domain(value) == Domain.TENSOR else "spread"
                exact = tuple(Op(wide, (arg,)) if _needs_float64(arg) else arg for arg in args)
                if self.domain(value) == Domain.BLOCK:  # block scalars are float32, one for each block
                    form = "tl.full((1, 1), {}, tl.float32)"
                    texts = [form.format(self.expression(a)) if _needs_float64(a) else self.expression(a) for a in args]
                    return self.formatted(value.op, texts)
                return super().operation(Op(value.op, exact))
            case Op(op="load", args=(Ref(name=name),)):
                return self.load(self.buffers[name])
            case Op(op="load_codes", args=(Ref(name=name),)):
                storage = self.buffers[name].storage
                return self.helper("load_codes", name, self.place, storage.bits, self.shape(storage), *self.more)
            case Op(op="blocks", args=(x, Const(value=number))):
                return self.helper("to_blocks", self.expression(x), "_valid", self.kernel.stored(number).block, "TILE, BULK")
            case Op(op="spread", args=(x,)) if self.domain(x) == Domain.ELEMENT:  # of a row or column: one for each element
                return self.expression(x)
            case Op(op="number", args=(x,)):
                return f"tl.full((), {self.expression(x)}, REAL)"
            case Op(op=op, args=(x,)) if op in PARTS:
                return self.helper(op, self.expression(x), "_valid", self.kernel.chunk, "TILE, BULK")
            case Op(op=op, args=(x,)) if op in STRIPS:
                return self.helper(op, self.expression(x), "_valid, WIDTH, TILE, BULK")
            case Op(op="random_bits", args=(Const(value=salt),)):
                return self.helper("random_bits", "_words", salt, self.kernel.stored(salt).block, "TILE, BULK")
            case Op(op="random_elements", args=(Const(value=salt),)):
                return self.helper("random_elements", "_words", salt, "TILE, BULK")
            case _:
                return super().operation(value)

    @property
    def place(self) -> str:
        """Where a tile is; what a kernel adds of its own has names that no spec can give."""
        return "_at, _rows, _length" if self.kernel.grid else "_first, _blocks, _length"

    @property
    def more(self) -> tuple[str, ...]:
        """What helpers are told of a kernel that knows rows and columns."""
        return ("True",) if self.kernel.grid else ()

    def shape(self, storage: Storage) -> str:
        """The constants that say how a state's blocks lie in a tile."""
        return f"{storage.block}, {self.wide}, TILE, BULK"

    def load(self, buffer: Buffer) -> str:
        """A read of elements or of block scalars."""
        if buffer.is_number:
            return f"tl.load({buffer.name})"
        if buffer.layout in VECTORS:
            name, places = VECTORS[buffer.layout]
            return self.helper(name, buffer.name, places)
        if buffer.layout in SCALARS:
            return self.helper(f"load_{SCALARS[buffer.layout]}", buffer.name, *self.scalars(buffer, LOADED))
        if buffer.dtype == "param":
            return self.helper("read_parameter", buffer.name, "correction, _start, _offsets, _valid, low_precision, REAL, BULK")
        return self.helper("load_elements", f"{buffer.name} + _start", "_offsets, _valid, REAL, BULK")

    def scalars(self, buffer: Buffer, places: Mapping[Layout, tuple[str, ...]]) -> list[str]:
        """Where a tile finds its scalars of blocks, of rows or of the tensor."""
        texts = [place.format(block=buffer.block, wide=self.wide) for place in places[buffer.layout]]
        if not self.kernel.grid or not texts:
            return texts
        return [self.place if texts[0] == PLACES[0] else "_at", *texts[1:], *self.more]

    def store(self, buffer: str, value: Expr) -> list[str]:
        """A write of elements, block scalars or codes."""
        target, text = self.buffers[buffer], self.expression(value)
        if target.dtype == "param":
            salt = len(self.kernel.program.states)
            places = f"_words, _start, _offsets, _valid, low_precision, {salt}, TILE, BULK"
            return [self.helper("write_parameter", buffer, "correction", text, places)]
        if target.layout == Layout.ELEMENT:
            return [self.helper("store_elements", f"{buffer} + _start", "_offsets", text, "_valid, BULK")]
        if target.is_number:
            return [self.helper("store_number", buffer, text, "_start")]
        if target.layout == Layout.STRIPS:
            return [self.helper("store_strips", buffer, text, "_at, _rows, _length, WIDTH, TILE, BULK")]
        if target.layout == Layout.BLOCK and self.kernel.grid and target.key is None:
            return [self.helper("grid_parts", buffer, text, f"_at, _rows, _length, {target.block}, WIDTH, TILE, BULK")]
        if target.layout == Layout.BLOCK and not self.wide:
            return [self.helper("store_parts", buffer, text, "_start, _valid", self.kernel.chunk, "TILE, BULK")]
        if target.layout in SCALARS:
            return [self.helper(f"store_{SCALARS[target.layout]}", buffer, text, *self.scalars(target, STORED))]
        storage = target.storage
        return [self.helper("store_codes", buffer, text, self.place, storage.bits, self.shape(storage), *self.more)]
