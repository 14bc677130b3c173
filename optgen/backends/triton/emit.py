"""Plan -> `triton_backend.py`: for each kernel the body of a tile, the entry that finds its tile, and the launch table."""

from __future__ import annotations

from dataclasses import dataclass

from optgen.backends.paragraphs import buffer_comment, paragraphs
from optgen.backends.printer import NARROW_HELPERS
from optgen.backends.render import render
from optgen.backends.triton.config import MOST_REGISTERS, REGISTERS, SHARE, THREADS, WORD_BITS
from optgen.backends.triton.printer import KernelPrinter, TritonPrinter
from optgen.backends.view import PackageView
from optgen.ir.infer import walk
from optgen.ir.nodes import Function, Op
from optgen.plan.nodes import Buffer, Kernel, Layout, Plan

__all__ = ["emit_triton"]


@dataclass(frozen=True)
class TritonFunctionView:
    """A function of values."""

    name: str
    params: str
    doc: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class BufferView:
    """One column of addresses in the tensor table."""

    name: str
    dtype: str
    comment: str


@dataclass(frozen=True)
class TritonKernelView:
    """One kernel."""

    name: str
    doc: str
    buffers: tuple[BufferView, ...]
    flags: tuple[str, ...]
    columns: int
    lines: tuple[str, ...]
    wide: int  # the largest block; 0 without codes
    tile: int
    threads: int
    registers: int


def emit_triton(view: PackageView, plan: Plan) -> dict[str, str]:
    """The Triton module, not formatted yet."""
    helpers: set[str] = {"pointer"}
    functions: dict[str, TritonFunctionView] = {}
    kernels = []
    for kernel in plan.kernels:
        for function in kernel.functions:
            if function.name not in functions:
                functions[function.name] = _function(function, kernel, helpers)
        kernels.append(_kernel(kernel, plan, helpers))
    text = render(
        "triton/templates/backend.py.jinja",
        package=view,
        helpers=sorted(helpers - NARROW_HELPERS),
        narrow_helpers=sorted(helpers & NARROW_HELPERS),
        functions=list(functions.values()),
        kernels=kernels,
    )
    return {"triton_backend.py": text}


def _function(function: Function, kernel: Kernel, helpers: set[str]) -> TritonFunctionView:
    printer = TritonPrinter({}, kernel.functions)
    lines = printer.function_body(function)
    helpers |= printer.helpers
    return TritonFunctionView(function.name, ", ".join(p.name for p in function.params), function.doc, tuple(lines))


def _kernel(kernel: Kernel, plan: Plan, helpers: set[str]) -> TritonKernelView:
    printer = KernelPrinter(kernel)
    lines = [f"{name} = tl.load(scalars + {plan.columns.index(name)})" for name in kernel.columns]
    for chunk in paragraphs(kernel.body):
        lines += ["", *printer.block(chunk)]
    helpers |= printer.helpers
    wide = max(kernel.blocks, default=0)
    if wide:
        helpers.add("tile_elements")
    stored = ", ".join(kernel.variant.stored)
    return TritonKernelView(
        name=kernel.name,
        doc=f"One step of a tile, with {stored} stored as codes." if stored else "One step of a tile.",
        buffers=tuple(BufferView(b.name, _dtype(b), buffer_comment(b)) for b in kernel.buffers),
        flags=kernel.flags,
        columns=len(plan.columns),
        lines=tuple(lines),
        wide=wide,
        tile=max(_tile(kernel), wide),
        threads=THREADS,
        registers=_registers(kernel),
    )


def _registers(kernel: Kernel) -> int:
    """The most that a thread may have: all for three coded states or a selection from a block, else what lets three programs run."""
    values = [statement.value for function in kernel.functions for statement in function.body]
    selects = any(isinstance(node, Op) and node.op == "block_select" for value in values for node in walk(value))
    return MOST_REGISTERS if selects or len(kernel.variant.stored) > 2 else REGISTERS


def _tile(kernel: Kernel) -> int:
    """Elements of a tile: a power of two."""
    coded = [b.state.storage.bits for b in kernel.buffers if b.layout == Layout.CODE and b.state and b.state.storage]
    word = WORD_BITS // min(coded, default=WORD_BITS)
    return THREADS * max(SHARE, 1 << (word.bit_length() - 1))


def _dtype(buffer: Buffer) -> str:
    """The element type of a buffer's pointer; codes of 1, 2 and 4 bits are moved as words."""
    if buffer.layout == Layout.CODE:
        assert buffer.state is not None and buffer.state.storage is not None
        return "tl.int32" if buffer.state.storage.bits in (1, 2, 4) else "tl.uint8"
    named = {"param": "PARAM", "grad": "GRAD", "correction": "CORRECTION", "real": "REAL"}
    return named.get(buffer.dtype, f"tl.{buffer.dtype}")
