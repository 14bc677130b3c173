"""Flat statements -> loops: over the elements of a tile, then over its blocks, then over its elements again.

A value of each block is known only when all elements of the block have been seen. So a statement has a level: loop 0 over
elements finds what the loop 0 over blocks needs, whose values the loop 1 over elements may read, and so on. A statement
stands in the first loop that it can stand in, with the others of its level and in their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optgen.backends.cpp.flatten import REDUCTIONS
from optgen.ir.infer import refs
from optgen.ir.nodes import Assign, Call, Const, Domain, Expr, Guard, Op, Ref, Statement
from optgen.ir.ops import PARTS
from optgen.plan.nodes import Buffer, Kernel, Layout

__all__ = ["Level", "Schedule", "Step", "Value", "is_single", "precision_of", "schedule"]


LIKE_ELEMENTS = (Layout.ELEMENT, Layout.COLS)  # read a vector at a time


def is_single(buffer: Buffer) -> bool:
    """Whether a tile, a part of one row, reads one number of it."""
    return buffer.is_number or buffer.layout in (Layout.ROWS, Layout.MATRICES)


@dataclass(eq=False)
class Value:
    """What a name stands for from one assignment to the next that replaces it on every path.

    `precision` is "real", the dtype of the arithmetic, or "float", float32; `block` the elements of a block for values of
    blocks; `buffer` names the buffer that holds it, if it has only been read from there.
    """

    name: str
    domain: Domain
    precision: str
    block: int = 0
    buffer: str | None = None
    level: int = 0
    guards: tuple[Guard, ...] = ()
    kept: bool = False  # in an array of the tile, because other loops read it


@dataclass(eq=False)
class Step:
    """A statement, the value that it makes (none, if it stores), and the values of the names that it reads."""

    statement: Statement
    value: Value | None
    reads: dict[str, Value]
    domain: Domain
    level: int = 0

    @property
    def reduction(self) -> str | None:
        """The reduction over elements that the statement is, if it is one."""
        return _reduction(self.statement)


@dataclass
class Level:
    """One loop over elements, and the loops over blocks behind it, by the size of these."""

    elements: list[Step] = field(default_factory=list)
    blocks: dict[int, list[Step]] = field(default_factory=dict)


@dataclass
class Schedule:
    """The loops of a sweep; what is known of the whole parameter, in front of all; the stores of block scalars behind them."""

    levels: list[Level]
    scalars: list[Step]
    known: list[Step]


def _reduction(statement: Statement) -> str | None:
    """The reduction of a loop over elements; a selection is none, because it runs over blocks."""
    value = statement.value
    return value.op if isinstance(value, Op) and value.op in REDUCTIONS and value.op != "block_select" else None


def schedule(statements: Sequence[Statement], kernel: Kernel) -> Schedule:
    """Find the level of every statement, and which values must be kept in arrays."""
    steps = _Linker(kernel).link(statements)
    _find_levels(steps)
    found = Schedule([Level() for _ in range(1 + max((step.level for step in steps), default=0))], [], [])
    for step in steps:
        level = found.levels[step.level]
        if step.value is not None and step.value.domain == Domain.TENSOR:
            found.known.append(step)
            continue
        if step.value is not None and step.value.buffer is not None:
            continue
        if step.value is None and step.domain == Domain.BLOCK:
            found.scalars.append(step)
        elif step.domain == Domain.ELEMENT:
            level.elements.append(step)
        else:
            level.blocks.setdefault(step.value.block if step.value else 0, []).append(step)
    _find_kept(steps)
    return found


class _Linker:
    """Says which value each name stands for in each statement."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.buffers = {buffer.name: buffer for buffer in (*kernel.buffers, *kernel.scratch)}
        self.current: dict[str, Value] = {}
        self.assigned: dict[str, list[tuple[Guard, ...]]] = {}

    def link(self, statements: Sequence[Statement]) -> list[Step]:
        return [self.step(statement) for statement in statements]

    def step(self, statement: Statement) -> Step:
        names = [name for name in refs(statement.value) if name not in self.buffers]
        reads = {name: self.current[name] for name in names if name in self.current}
        domain = self.domain(statement.value)
        if not isinstance(statement, Assign):
            layout = self.buffers[statement.buffer].layout
            per_element = (Layout.ELEMENT, Layout.CODE, Layout.STRIPS)
            return Step(statement, None, reads, Domain.ELEMENT if layout in per_element else Domain.BLOCK)
        value = self.assign(statement, domain)
        return Step(statement, value, reads, Domain.ELEMENT if _reduction(statement) else value.domain)

    def assign(self, statement: Assign, domain: Domain) -> Value:
        """The value that an assignment makes, or changes where it does not replace it on every path."""
        name, guards = statement.target, statement.guards
        earlier = self.assigned.get(name, [])
        expr = statement.value
        precision = precision_of(expr, self.current, self.buffers) or "real"
        of_all = domain == Domain.TENSOR
        made = Value(name, domain if of_all else max(domain, Domain.BLOCK), precision, self.block(expr), guards=guards)
        if not of_all and isinstance(expr, Op) and expr.op == "load" and isinstance(expr.args[0], Ref):
            buffer = self.buffers[expr.args[0].name]
            made.buffer = None if buffer.layout in LIKE_ELEMENTS else buffer.name
        if domain == Domain.HOST and not made.block:
            made.domain = Domain.ELEMENT
        if name in self.current and any(not set(guards) <= set(before) for before in earlier):
            kept = self.current[name]  # it may keep its old value
            kept.domain = max(kept.domain, made.domain)
            kept.buffer = None
            earlier.append(guards)
            return kept
        self.assigned[name] = [guards]
        self.current[name] = made
        return made

    def domain(self, value: Expr) -> Domain:
        """How many values it has; functions have as many as their arguments."""
        match value:
            case Const():
                return Domain.HOST
            case Ref(name=name):
                return self.current[name].domain if name in self.current else Domain.HOST
            case Op(op="load", args=(Ref(name=name),)):
                if is_single(self.buffers[name]):
                    return Domain.TENSOR
                return Domain.ELEMENT if self.buffers[name].layout in LIKE_ELEMENTS else Domain.BLOCK
            case Op(op="load_codes" | "random_bits" | "random_elements" | "spread"):
                return Domain.ELEMENT
            case Op(op="number"):
                return Domain.TENSOR
            case Op(op=op) if op in REDUCTIONS:
                return Domain.BLOCK
            case Op(args=args) | Call(args=args):
                return max((self.domain(arg) for arg in args), default=Domain.HOST)

    def block(self, value: Expr) -> int:
        """Elements of the blocks that a value is arranged in; 0 for none."""
        match value:
            case Const():
                return 0
            case Ref(name=name):
                return self.current[name].block if name in self.current else 0
            case Op(op="load", args=(Ref(name=name),)):
                buffer = self.buffers[name]
                return 0 if is_single(buffer) or buffer.layout in LIKE_ELEMENTS else buffer.block
            case Op(op=op) if op in PARTS:
                return self.kernel.chunk
            case Op(op="load_codes", args=(Ref(name=name),)):
                return self.buffers[name].storage.block
            case Op(op="blocks", args=(_, Const(value=number))) | Op(op="random_bits", args=(Const(value=number),)):
                return self.kernel.stored(number).block
            case Op(op="elements"):
                return 0
            case Op(args=args) | Call(args=args):
                return max((self.block(arg) for arg in args), default=0)


def precision_of(value: Expr, names: Mapping[str, Value], buffers: Mapping[str, Buffer]) -> str | None:
    """The dtype of real numbers: "float" for what codecs compute, "real" for the rule; None for constants alone."""
    match value:
        case Const():
            return None
        case Ref(name=name):
            return names[name].precision if name in names else "real"
        case Op(op="load", args=(Ref(name=name),)):
            return "real" if buffers[name].layout in LIKE_ELEMENTS or is_single(buffers[name]) else "float"
        case Op(op="elements" | "spread" | "number"):
            return "real"
        case Op(op="blocks" | "real" | "from_bits" | "stochastic_bfloat16" | "stochastic_float16") | Call():
            return "float"
        case Op(args=args):
            found = {precision_of(arg, names, buffers) for arg in args} - {None}
            return "float" if "float" in found else next(iter(found), None)


def _find_levels(steps: Sequence[Step]) -> None:
    """Each value's level is that of the last of its assignments; assignments of one value share a loop."""
    changed = True
    while changed:
        changed = False
        for step in steps:
            level = max((_earliest(step, value) for value in step.reads.values()), default=0)
            level = max(level, step.level, step.value.level if step.value else 0)
            changed |= level != step.level or (step.value is not None and level != step.value.level)
            step.level = level
            if step.value is not None:
                step.value.level = level


def _earliest(step: Step, value: Value) -> int:
    """The first loop in which a step may read a value: one over elements is behind the loop over blocks."""
    if value.buffer is not None:
        return 0
    return value.level + (step.domain == Domain.ELEMENT and value.domain == Domain.BLOCK)


def _find_kept(steps: Sequence[Step]) -> None:
    """What reductions leave, and values that another loop or a store of block scalars reads."""
    for step in steps:
        if step.value is not None and step.reduction:
            step.value.kept = True
        for value in step.reads.values():
            if value.buffer is None and value.domain != Domain.TENSOR:
                value.kept |= not _in_one_loop(step, value)


def _in_one_loop(step: Step, value: Value) -> bool:
    """Whether a step stands in the loop that makes a value."""
    if step.level != value.level or step.domain != value.domain:
        return False
    return step.domain == Domain.ELEMENT or (step.value is not None and step.value.block == value.block)
