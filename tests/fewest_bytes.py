"""The fewest bytes that a step can move, by trying everything: an oracle for the planner, which shares only the bytes of a buffer with it.

A step is a chain of sweeps. A value that waits for so many reductions, one after the other, can be computed from that sweep on. Every
value per element may be kept for later sweeps in a buffer of its own, or be computed again; every state may be written by any
sweep that knows its value, and be read back if it is not rounded; what it was before is lost then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product

from optgen.ir.infer import infer, refs
from optgen.ir.nodes import Assign, Domain, Op, Ref, Store
from optgen.plan.nodes import CHUNK, COLUMNS, STRIP, Buffer, Kernel, Layout
from optgen.plan.traffic import buffer_bytes, kernel_bytes

__all__ = ["fewest_bytes", "planned_bytes"]

REAL = 4  # bytes of a value between sweeps
OVER = ("all", "rows", "cols", "matrix", "group", "optimizer")
REDUCTIONS = (*(f"{over}_{how}" for over in OVER for how in ("sum", "mean", "max", "min")), "row_max", "row_min")
REDUCTIONS += ("tensor_max", "tensor_min")
VECTORS = (Domain.ROW, Domain.COL, Domain.MATRIX)  # one number for many elements: what they cost is nothing


@dataclass
class Value:
    """One assignment: what it is made of, the buffer that it is loaded from, and how many reductions it waits for."""

    made_of: tuple[int, ...]
    buffer: Buffer | None
    part: float | None  # bytes per element of a reduction's parts, if it is one
    domain: Domain
    level: int

    @property
    def is_reduction(self) -> bool:
        return self.part is not None

    @property
    def per_element(self) -> bool:
        return self.domain == Domain.ELEMENT


@dataclass
class Step:
    """The values of a kernel, in order; of each state and of the parameter the last one."""

    values: list[Value] = field(default_factory=list)
    stores: dict[str, int] = field(default_factory=dict)  # buffer -> value


def planned_bytes(kernel: Kernel, flags: Mapping[str, bool] | None = None) -> float:
    """What the planner's sweeps move per element, parameters and gradients being float32; flags that are not given are off."""
    return kernel_bytes(kernel, param=4, grad=4, flags=flags)


def fewest_bytes(kernel: Kernel, flags: Mapping[str, bool] | None = None) -> float:
    """The least that any choice moves under these flags."""
    step = _step(kernel, flags or {})
    last = max((value.level + 1 for value in step.values if value.is_reduction), default=0)
    buffers = {buffer.name: buffer for buffer in kernel.buffers}
    kept = [i for i, value in enumerate(step.values) if value.per_element and value.buffer is None]
    kept = [i for i in kept if i not in step.stores.values() and step.values[i].level < last]
    choices = [(None, *range(step.values[i].level, last)) for i in kept]
    step.stores = {name: i for name, i in step.stores.items() if step.values[i].domain not in VECTORS}
    written = [tuple(range(step.values[i].level, last + 1)) for i in step.stores.values()]
    costs = (
        _cost(step, last, buffers, dict(zip(kept, between, strict=True)), dict(zip(step.stores, when, strict=True)))
        for between in product(*choices)
        for when in product(*written)
    )
    return min(cost for cost in costs if cost is not None)


def _step(kernel: Kernel, flags: Mapping[str, bool]) -> Step:
    buffers = {buffer.name: buffer for buffer in kernel.buffers}
    functions = {function.name: function for function in kernel.functions}
    step, current = Step(), dict[str, int]()
    for statement in kernel.body:
        if any(flags.get(guard.flag, False) != guard.holds for guard in statement.guards):
            continue
        names = tuple(current[name] for name in refs(statement.value) if name in current)
        if isinstance(statement, Store):
            (step.stores[statement.buffer],) = names
            continue
        assert isinstance(statement, Assign)
        value, loaded = statement.value, None
        if isinstance(value, Op) and value.op in ("load", "load_codes") and isinstance(value.args[0], Ref):
            loaded = buffers[value.args[0].name]
        level = max((step.values[i].level + step.values[i].is_reduction for i in names), default=0)
        domain = infer(value, kernel.program.symbols, functions)[1]
        domain = Domain.ELEMENT if domain == Domain.BLOCK else domain
        if loaded is not None:
            domain = kernel.program.symbols[statement.target].domain
        current[statement.target] = len(step.values)
        step.values.append(Value(names, loaded, _part(value, kernel), domain, level))
    return step


def _cost(
    step: Step, last: int, buffers: Mapping[str, Buffer], kept: Mapping[int, int | None], written: Mapping[str, int]
) -> float | None:
    """Bytes of one choice; None if a sweep needs what is lost."""
    total = 0.0
    for sweep in range(last + 1):
        stores = [name for name in step.stores if written[name] == sweep]
        ends = [step.stores[name] for name in stores]
        ends += [i for i, value in enumerate(step.values) if value.is_reduction and value.level == sweep]
        kept_now = [i for i, when in kept.items() if when == sweep]
        read: set[str] = set()
        for kind, place in _leaves(step, [*ends, *kept_now], sweep, kept, written, buffers):
            if kind == "lost":
                return None
            read.add(f"{kind} {place}")
        names = [entry.removeprefix("buffer ") for entry in read if entry.startswith("buffer ")]
        total += sum(buffer_bytes(replace(buffers[name], read=True, written=False), param=4, grad=4) for name in names)
        total += sum(buffer_bytes(replace(buffers[name], read=False, written=True), param=4, grad=4) for name in stores)
        total += REAL * (sum(entry.startswith("kept ") for entry in read) + len(kept_now))
        total += sum(step.values[i].part or 0 for i in ends)
    return total


def _part(value: object, kernel: Kernel) -> float | None:
    """Bytes per element of what tiles leave of a reduction, written and read once; of vectors it is nothing."""
    if not isinstance(value, Op) or value.op not in REDUCTIONS:
        return None
    known = infer(value.args[0], kernel.program.symbols)[1] if kernel.program.symbols else Domain.ELEMENT
    if known in VECTORS:
        return 0
    if value.op.startswith("rows_"):
        return 2 * REAL / STRIP
    return 2 * REAL / (COLUMNS if kernel.grid else CHUNK)


def _leaves(
    step: Step,
    ends: list[int],
    sweep: int,
    kept: Mapping[int, int | None],
    written: Mapping[str, int],
    buffers: Mapping[str, Buffer],
) -> Iterator[tuple[str, object]]:
    """What a sweep reads to compute the values `ends`."""
    seen, todo = set[int](), list(ends)
    while todo:
        place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        value = step.values[place]
        stored = [name for name, i in step.stores.items() if i == place and written[name] < sweep and _is_exact(buffers[name])]
        when = kept.get(place)
        if (value.is_reduction and value.level < sweep) or (value.domain in VECTORS and place not in ends):
            continue  # one number, or one for many
        if stored and place not in ends:
            yield "buffer", stored[0]
        elif when is not None and when < sweep:
            yield "kept", place
        elif value.buffer is not None:
            lost = written.get(value.buffer.name, sweep) < sweep
            yield ("lost" if lost else "buffer"), value.buffer.name
        else:
            todo += value.made_of


def _is_exact(buffer: Buffer) -> bool:
    return buffer.layout == Layout.ELEMENT and buffer.dtype == "real"
