"""Plan -> `cpp_backend.cpp`, and the module that launches it."""

from __future__ import annotations

from dataclasses import dataclass

from optgen.backends.cpp.config import TILE
from optgen.backends.cpp.flatten import reduces
from optgen.backends.cpp.loops import salts_of, tile_lines
from optgen.backends.cpp.printer import CppPrinter, condition, cpp_name
from optgen.backends.paragraphs import buffer_comment, joint_table, scratch_table, sweep_doc
from optgen.backends.render import render
from optgen.backends.view import PackageView
from optgen.ir.nodes import Function, Kind, Store
from optgen.plan.nodes import Buffer, Kernel, Layout, Plan, Reduction, RulePlan, Sweep

__all__ = ["emit_cpp"]


@dataclass(frozen=True)
class CppFunctionView:
    """A function of vectors."""

    name: str
    params: str
    result: str
    doc: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class CppBufferView:
    """A pointer to a tile's part of a buffer."""

    name: str
    type: str
    slot: int
    comment: str


@dataclass(frozen=True)
class CppSweepView:
    """One pass over a bucket."""

    name: str
    doc: str
    buffers: tuple[CppBufferView, ...]
    scalars: tuple[tuple[str, int], ...]
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    random: str
    reductions: tuple[str, ...]
    over: str
    when: str  # the condition under which it is made; empty if there is none
    chunk: int  # elements of a row that tiles are counted in, if it knows rows and columns


@dataclass(frozen=True)
class CppPhaseView:
    """The sweeps between two points at which parameters wait for one another, and the function that does them."""

    name: str
    sweeps: tuple[CppSweepView, ...]


@dataclass(frozen=True)
class CppKernelView:
    """One kernel."""

    name: str
    phases: tuple[CppPhaseView, ...]
    wide: int
    row: int
    tile: int
    columns: int
    scratch: str
    joint: str
    grid: bool


def emit_cpp(view: PackageView, plan: Plan) -> dict[str, str]:
    """The C++ source and its module, not formatted yet."""
    functions: dict[str, CppFunctionView] = {}
    kernels = []
    for rule, kernel in [(owner, kernel) for owner in plan.rules for kernel in owner.kernels]:
        known = {function.name: function for function in kernel.functions}
        for function in kernel.functions:
            if function.name not in functions and not any(reduces(s.value, known) for s in function.body):
                functions[function.name] = _function(function, kernel)
        kernels.append(_kernel(kernel, rule))
    flags = [flag for flag in plan.flags if any(flag in kernel.flags for kernel in plan.kernels)]
    source = render(
        "cpp/templates/backend.cpp.jinja",
        package=view,
        flags=[(flag, cpp_name(flag)) for flag in flags],
        functions=list(functions.values()),
        kernels=kernels,
    )
    names = "CppKernel, Scratch, run_cpp" if any(kernel.scratch for kernel in kernels) else "CppKernel, run_cpp"
    module = render("cpp/templates/backend.py.jinja", package=view, flags=repr(tuple(flags)), kernels=kernels, names=names)
    return {"cpp_backend.cpp": source, "cpp_backend.py": module}


def _function(function: Function, kernel: Kernel) -> CppFunctionView:
    printer = CppPrinter({}, kernel.functions)
    lines = printer.function_body(function)
    types = {Kind.INT: "ints", Kind.REAL: "floats", Kind.BOOL: "ints"}
    params = ", ".join(f"{types[p.kind]} {cpp_name(p.name)}" for p in function.params)
    return CppFunctionView(function.name, params, types[function.result.kind], function.doc, tuple(lines))


def _kernel(kernel: Kernel, plan: RulePlan) -> CppKernelView:
    slots = [buffer.name for buffer in (*kernel.buffers, *kernel.scratch)]
    return CppKernelView(
        name=kernel.name,
        phases=tuple(
            CppPhaseView(
                kernel.name if number == len(kernel.phases) else f"{kernel.name}_phase_{number}",
                tuple(_sweep(sweep, kernel, plan, slots) for sweep in sweeps),
            )
            for number, sweeps in enumerate(kernel.phases, 1)
        ),
        wide=_wide(kernel),
        row=kernel.row,
        tile=TILE,
        columns=len(plan.columns),
        scratch=scratch_table(kernel),
        joint=joint_table(kernel, plan.name, slots),
        grid=kernel.grid,
    )


def _sweep(sweep: Sweep, kernel: Kernel, plan: RulePlan, slots: list[str]) -> CppSweepView:
    used = {buffer.name: buffer for buffer in sweep.buffers}
    kernel = kernel.seen_by(sweep)
    every = {buffer.name: buffer for buffer in (*kernel.buffers, *kernel.scratch)}
    writes_param = any(isinstance(s, Store) and every[s.buffer].dtype == "param" for s in sweep.body)
    return CppSweepView(
        name=sweep.name,
        doc=sweep_doc(kernel, sweep),
        buffers=tuple(CppBufferView(cpp_name(b.name), _type(b), slots.index(b.name), buffer_comment(b)) for b in sweep.buffers),
        scalars=tuple((cpp_name(name), plan.columns.index(name)) for name in sweep.columns),
        lines=tuple(tile_lines(kernel, sweep)),
        columns=tuple(_column(every[name], used.get(name), kernel, sweep) for name in slots),
        over=sweep.over.name.lower(),
        when="" if sweep.when is None else condition(sweep.when),
        chunk=kernel.chunk,
        random="true" if salts_of(sweep) else "is_random" if writes_param else "false",
        reductions=tuple(_join(reduction, every, sweep, slots, kernel.grid) for reduction in sweep.reductions),
    )


def _wide(kernel: Kernel) -> int:
    """The elements that tiles are counted in: of the largest block, or of a part of a reduction; 0 without either."""
    return kernel.wide or kernel.chunk


def _column(buffer: Buffer, used: Buffer | None, kernel: Kernel, sweep: Sweep) -> str:
    """How a buffer lies, and whether this sweep reads and writes it."""
    number = 0 if kernel.grid else _wide(kernel) or "LANES"
    size, block = f"sizeof({_type(buffer)})", number if buffer.is_number else buffer.block
    if buffer.layout == Layout.CODE:
        size, block = str(buffer.storage.bits), buffer.storage.block
    exists = "true" if buffer.guard is None else condition(buffer.guard)
    guards = next((s.guards for s in sweep.body if isinstance(s, Store) and s.buffer == buffer.name), ())
    stored = " && ".join(map(condition, guards)) or exists
    ways = [exists if used and used.read else "false", stored if used and used.written else "false"]
    return f"{{Layout::{buffer.layout.value}, {size}, {block}, {', '.join(ways)}}}"


def _join(reduction: Reduction, every: dict[str, Buffer], sweep: Sweep, slots: list[str], grid: bool) -> str:
    places = f"{slots.index(reduction.parts)}, {slots.index(reduction.result)}"
    kind = f"Join::{reduction.own}, {_type(every[reduction.parts])}"
    line = f"join_parts<{kind}>(bucket, {sweep.name}_columns, {places});"
    if grid:
        line = f"join_grid<{kind}, Over::{sweep.over.name.lower()}>(bucket, {sweep.name}_columns, {places});"
    guard = every[reduction.parts].guard
    return line if guard is None or guard == sweep.when else f"if constexpr ({condition(guard)}) {line}"


def _type(buffer: Buffer) -> str:
    """The C++ type of a buffer's elements, codes or scalars."""
    named = {"param": "param_t", "grad": "grad_t", "correction": "correction_t", "uint8": "uint8_t", "float32": "float"}
    return named.get(buffer.dtype, buffer.dtype)
