"""Plan -> `triton_backend.py`: for each kernel the body of a tile, the entry that finds its tile, and the launch table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from optgen.backends.paragraphs import buffer_comment, joint_table, paragraphs, scratch_table, sweep_doc
from optgen.backends.printer import NARROW_HELPERS
from optgen.backends.render import COLUMNS, render
from optgen.backends.triton.config import CODED_REGISTERS, CODED_SHARE, GRID_SHARE, REGISTERS, SHARE, THREADS, WORD_BITS
from optgen.backends.triton.printer import KernelPrinter, TritonPrinter
from optgen.backends.triton.tables import Tables, tables_of
from optgen.backends.view import PackageView
from optgen.ir.nodes import Domain, Function
from optgen.plan.nodes import STRIP, Buffer, Kernel, Layout, Plan, RulePlan, Sweep

__all__ = ["emit_triton"]

GRID_HELPERS = frozenset(
    [
        *("column_values", "grid_parts", "grid_tile", "grid_words", "matrix_value", "row_values", "store_strips"),
        *("strip_max", "strip_min", "strip_sum"),
    ]
)
WORDS = re.compile(r"\b_words\b")


@dataclass(frozen=True)
class TritonFunctionView:
    """A function of values."""

    name: str
    params: str
    doc: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class SweepView:
    """One sweep of a kernel; `pointers` and `lines` are its code."""

    name: str
    doc: str
    pointers: tuple[str, ...]
    lines: tuple[str, ...]
    reductions: str
    over: str  # "element", "row", "col" or "matrix"
    when: str  # under which flag it is made, as text; empty if there is none
    sizes: tuple[int, int]  # where the sizes of what it is over stand: rows and columns


@dataclass(frozen=True)
class TritonKernelView:
    """One kernel."""

    sweeps: tuple[SweepView, ...]
    slots: int
    sizes: int  # of each parameter, behind its slots
    scratch: str  # between sweeps, as text; empty if there is one
    flags: tuple[str, ...]
    columns: int
    wide: int  # the largest block; 0 without codes
    row: int  # elements that a row has at least
    tile: int
    threads: int
    registers: int
    tables: str  # what its functions look up, as text; empty if they do not
    extras: tuple[str, ...]  # flags with which an element has one more value
    width: int  # of a tile, if it knows rows and columns
    joint: str  # reductions of several parameters, as text; empty if there are none


def emit_triton(view: PackageView, plan: Plan) -> dict[str, str]:
    """The Triton module, not formatted yet."""
    helpers: set[str] = {"pointer"}
    functions: list[TritonFunctionView] = []
    kernels: list[TritonKernelView] = []
    found: dict[str, Tables] = {}
    for rule in plan.rules:
        tables = found.setdefault(_tables_name(rule), tables_of(rule))
        functions += [_function(function, tables, helpers) for function in tables.functions]
        kernels += [_kernel(kernel, rule, tables, helpers) for kernel in rule.kernels]
    text = render(
        "triton/templates/backend.py.jinja",
        package=view,
        helpers=sorted(helpers - NARROW_HELPERS - GRID_HELPERS),
        grid_helpers=sorted(helpers & GRID_HELPERS),
        narrow_helpers=sorted(helpers & NARROW_HELPERS),
        functions=functions,
        tables={name: tables.texts for name, tables in found.items() if tables.texts},
        kernels=kernels,
        launch_names=sorted(_launch_names(found.values(), kernels)),
    )
    return {"triton_backend.py": text}


def _launch_names(found: Iterable[Tables], kernels: Sequence[TritonKernelView]) -> Iterator[str]:
    """What a module needs of `optgen.runtime.launch`."""
    yield from ("Sweep", "TritonKernel", "run")
    yield from ("Scratch",) if any(kernel.scratch for kernel in kernels) else ()
    yield from ("Reduction",) if any(sweep.reductions for kernel in kernels for sweep in kernel.sweeps) else ()
    yield from {text.split("(")[0] for tables in found for text in tables.texts}


def _function(function: Function, tables: Tables, helpers: set[str]) -> TritonFunctionView:
    printer = TritonPrinter({}, tables.functions, tables)
    lines = printer.function_body(function)
    helpers |= printer.helpers
    params = [param.name for param in function.params] + ["_tables"] * (function.name in tables.users)
    return TritonFunctionView(function.name, ", ".join(params), function.doc, tuple(lines))


def _kernel(kernel: Kernel, plan: RulePlan, tables: Tables, helpers: set[str]) -> TritonKernelView:
    wide, tile = kernel.wide, _tile(kernel)
    if kernel.grid:
        helpers.add("grid_tile")
    elif wide:
        helpers.add("tile_elements")
    slots = [buffer.name for buffer in (*kernel.buffers, *kernel.scratch)]
    return TritonKernelView(
        sweeps=tuple(_sweep(sweep, kernel, plan, slots, tables, helpers) for sweep in kernel.sweeps),
        slots=len(slots),
        sizes=4 if kernel.grid else 2 if wide else 1,
        scratch=scratch_table(kernel),
        flags=kernel.flags,
        columns=len(plan.columns),
        wide=wide,
        row=kernel.row,
        tile=max(tile, wide),
        threads=max(tile // GRID_SHARE, THREADS) if kernel.grid and wide else THREADS,
        width=kernel.chunk if kernel.grid else 0,
        registers=CODED_REGISTERS if kernel.variant.stored and not kernel.grid else REGISTERS,
        extras=_extras(kernel) if kernel.variant.stored else (),
        joint=joint_table(kernel, plan.name, slots),
        tables=_tables_name(plan) if any(function.name in tables.users for function in kernel.functions) else "",
    )


def _tables_name(rule: RulePlan) -> str:
    return f"TABLES_{rule.name.upper()}" if rule.name else "TABLES"


def _sweep(sweep: Sweep, kernel: Kernel, plan: RulePlan, slots: list[str], tables: Tables, helpers: set[str]) -> SweepView:
    seen, first = kernel.seen_by(sweep), len(slots)
    printer = KernelPrinter(seen, tables)
    lines = [f"{name} = tl.load(_scalars + {plan.columns.index(name)})" for name in sweep.columns]
    for chunk in paragraphs(sweep.body):
        lines += ["", *printer.block(chunk)]
    _insert_words(lines, printer)
    helpers |= printer.helpers
    reductions = [f"Reduction({r.own!r}, {slots.index(r.parts)}, {slots.index(r.result)})" for r in sweep.reductions]
    return SweepView(
        name=sweep.name,
        doc=sweep_doc(kernel, sweep),
        pointers=tuple(line for buffer in sweep.buffers for line in _pointer(buffer, slots.index(buffer.name))),
        over=sweep.over.name.lower(),
        when="" if sweep.when is None else f"flag={sweep.when.flag!r}, holds={sweep.when.holds}",
        sizes={
            Domain.ROW: (first, first + 1),
            Domain.COL: (first, first + 2),
            Domain.MATRIX: (first + 3, first),
        }.get(sweep.over, (first + 1, first + 2)),
        lines=tuple(lines),
        reductions="".join(f"{reduction}, " for reduction in reductions),
    )


def _pointer(buffer: Buffer, slot: int) -> Iterator[str]:
    """Where a buffer begins; what it is stands behind that, or above if the line would be too long."""
    code = f"{buffer.name} = pointer(_slot + {slot}, {_dtype(buffer)}, ALIGNED)"
    comment = f"# {buffer_comment(buffer)}"
    if len(f"    {code}  {comment}") <= COLUMNS:
        yield f"{code}  {comment}"
    else:
        yield from (comment, code)


def _insert_words(lines: list[str], printer: KernelPrinter) -> None:
    """Make what random bits are made of just before they are first needed, if they are, when registers are free."""
    place = next((number for number, line in enumerate(lines) if WORDS.search(line)), None)
    if place is None:
        return
    while lines[place].startswith((printer.indent, "else")):
        place -= 1
    if printer.kernel.grid:
        words = printer.helper("grid_words", "_key, _start, _offsets, _length, WIDTH, TILE, BULK")
    else:
        words = printer.helper("random_words", "_key, _start, _offsets, TILE, BULK")
    lines.insert(place, f"_words = {words}")


def _extras(kernel: Kernel) -> tuple[str, ...]:
    """The flags with which there is one more state or input."""
    guards = {buffer.guard for buffer in kernel.buffers if buffer.dtype != "correction" and buffer.guard is not None}
    return tuple(sorted(guard.flag for guard in guards if guard.holds))


def _tile(kernel: Kernel) -> int:
    """Elements of a tile: a power of two; a strip of rows where columns are known."""
    if kernel.grid:
        return STRIP * kernel.chunk
    coded = [buffer.storage.bits for buffer in kernel.buffers if buffer.layout == Layout.CODE]
    if not coded:
        return THREADS * SHARE
    return THREADS * max(CODED_SHARE, 1 << ((WORD_BITS // min(coded)).bit_length() - 1))


def _dtype(buffer: Buffer) -> str:
    """The element type of a buffer's pointer; codes of 1, 2 and 4 bits are moved as words."""
    if buffer.layout == Layout.CODE:
        return "tl.int32" if buffer.storage.bits in (1, 2, 4) else "tl.uint8"
    named = {"param": "PARAM", "grad": "GRAD", "correction": "CORRECTION", "real": "REAL"}
    return named.get(buffer.dtype, f"tl.{buffer.dtype}")
