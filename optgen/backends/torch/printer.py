"""Expressions -> torch: update functions on whole tensors, and the host scalars."""

from __future__ import annotations

from optgen.backends.printer import ATOM, Printer, plain_parentheses
from optgen.backends.torch.config import FORMATS, HOST_FORMATS
from optgen.ir.nodes import Const, Expr, Kind, Op, Ref, Storage
from optgen.ir.ops import SPREAD
from optgen.plan.nodes import VECTOR_LAYOUTS, Buffer, Kernel, Layout

__all__ = ["HostPrinter", "TorchPrinter"]


VECTORS = tuple(VECTOR_LAYOUTS.values())


class TorchPrinter(Printer):
    """Values per element have the parameter's shape; values in blocks are (rows, blocks per row, block)."""

    formats = FORMATS

    def operation(self, value: Op) -> str:
        """Operations whose form depends on whether an argument is a number."""
        match value:
            case (
                Op(op="min" | "max" as op, args=(x, Const(value=number)))
                | Op(op="min" | "max" as op, args=(Const(value=number), x))
            ):
                bound = "max" if op == "min" else "min"
                return f"torch.clamp({self.expression(x)}, {bound}={number!r})"
            case Op(op="where", args=(condition, Const() as x, Const() as y)):
                name = "choose_int" if self.kind(value) == Kind.INT else "choose_real"
                self.helpers.add(name)
                return f"{name}({self.expression(condition)}, {self.number(x, value)}, {self.number(y, value)})"
        return plain_parentheses(super().operation(value))

    def number(self, value: Const, whole: Op) -> str:
        """A literal of the kind of the whole expression."""
        return repr(value.value) if self.kind(whole) == Kind.INT else repr(float(value.value))


def _row(storage: Storage) -> tuple[int, ...]:
    """The argument that says how long a row is at least, where that is not the block."""
    return (storage.row,) if storage.row > storage.block else ()


class KernelPrinter(TorchPrinter):
    """Prints the body of one kernel; knows its buffers."""

    def __init__(self, kernel: Kernel) -> None:
        """Print with the symbols and functions of `kernel`."""
        super().__init__(kernel.program.symbols, kernel.functions)
        self.kernel = kernel
        self.buffers = {buffer.name: buffer for buffer in (*kernel.buffers, *kernel.scratch)}

    def operation(self, value: Op) -> str:
        """Loads, codes and random bits."""
        match value:
            case Op(op="load", args=(Ref(name=name),)):
                return self.load(self.buffers[name])
            case Op(op="load_codes", args=(Ref(name=name),)):
                storage = self.buffers[name].storage
                self.helpers.add("unpack")
                return f"unpack({name}, {storage.bits}, {storage.block})"
            case Op(op="where", args=(condition, Const(value=x), Const(value=y))) if self.kind(value) == Kind.REAL:
                return f"torch.where({self.expression(condition)}, scalars.new_full((), {x!r}), {y!r})"
            case Op(op=op, args=(Const(value=number),)) if op in ("number", *SPREAD.values()) and op != "spread":
                return f"scalars.new_full((), {number!r})"
            case Op(op="spread", args=(Const(value=number),)):
                return f"scalars.new_full(param.shape, {number!r})"
            case Op(op="random_bits", args=(Const(value=salt),)):
                storage = self.kernel.stored(salt)
                return self.helper("random_bits", f"key, {self.lines(salt)}", storage.block, salt, *_row(storage))
            case Op(op="blocks", args=(x, Const(value=number))):
                storage, text = self.kernel.stored(number), self.expression(x)
                lines = f"{text}.expand({self.shape(number)}).reshape({self.lines(number)})"
                return self.helper("to_blocks", lines if self.vector(number) else text, storage.block, *_row(storage))
            case Op(op="elements", args=(x, Const(value=number))):
                places = f"{self.lines(number)}, real"
                text = self.helper("from_blocks", self.expression(x), places, *_row(self.kernel.stored(number)))
                return f"{text}.view({self.shape(number)})" if self.vector(number) else text
            case Op(op="random_elements", args=(Const(value=salt),)):
                return self.helper("random_elements", "key", self.shape(salt), salt)
            case _:
                return super().operation(value)

    def vector(self, number: object) -> str:
        """The shape of the program's state of this number as text, if it is one of rows, columns or matrices."""
        assert isinstance(number, int)
        state = self.kernel.program.states[number] if number < len(self.kernel.program.states) else None
        return repr(state.shape) if state is not None and state.domain in VECTOR_LAYOUTS else ""

    def shape(self, number: object) -> str:
        """The shape of the program's state of this number."""
        vector = self.vector(number)
        return self.helper("vector_shape", vector, "param.shape") if vector else "param.shape"

    def lines(self, number: object) -> str:
        """The shape of what is coded of the program's state of this number."""
        vector = self.vector(number)
        return self.helper("lines_shape", vector, "param.shape") if vector else "param.shape"

    def load(self, buffer: Buffer) -> str:
        if buffer.is_number or (buffer.layout in VECTORS and buffer.dtype in ("real", "float32")):
            return buffer.name
        if buffer.layout not in (Layout.ELEMENT, *VECTORS):
            self.helpers.add("block_scalars")
            return f"block_scalars({buffer.name})"
        if buffer.dtype == "param":
            self.helpers.add("read_parameter")
            return f"read_parameter({buffer.name}, correction, low_precision).to(real)"
        return buffer.name if buffer.dtype == "real" else f"{buffer.name}.to(real)"

    def store(self, buffer: str, value: Expr) -> list[str]:
        """In place; codes are packed first."""
        text = self.expression(value)
        if self.buffers[buffer].dtype == "param":
            self.helpers.add("write_parameter")
            salt = len(self.kernel.program.states)
            return [f"write_parameter({buffer}, correction, {text}, low_precision, key, {salt})"]
        if self.buffers[buffer].layout == Layout.CODE:
            self.helpers.add("pack")
            text = f"pack({text}, {self.buffers[buffer].storage.bits})"
        if self.buffers[buffer].layout not in (Layout.ELEMENT, *VECTORS):
            text = f"{text}.view_as({buffer})"
        return [f"{buffer}.copy_({text})"]


class HostPrinter(Printer):
    """Host scalars, of floats as of tensors."""

    formats = HOST_FORMATS

    def printed(self, value: Expr) -> tuple[int, str]:
        """Without Python's own words for what tensors need functions for."""
        if isinstance(value, Op) and value.op == "not":
            return ATOM, self.helper("invert", *map(self.expression, value.args))
        return super().printed(value)
