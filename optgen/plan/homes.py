"""What the sweeps are over that a statement belongs to: elements, or the rows, columns or matrices that it has values for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from optgen.ir.infer import infer, joined, refs
from optgen.ir.nodes import VECTORS, Assign, Const, Domain, Op, Program, Ref, State, Statement, Store
from optgen.ir.ops import REDUCTIONS, WIDE_REDUCTIONS
from optgen.plan.nodes import VECTOR_LAYOUTS, Buffer, Layout

__all__ = ["Homes", "is_reduction"]

SMALL = {layout: domain for domain, layout in VECTOR_LAYOUTS.items()}
SHARED = (Layout.CODE, Layout.BLOCK)  # layouts of what elements have, and what numbers of rows, columns or matrices have
NARROW = ("bfloat16", "float16")


@dataclass
class Homes:
    """Of the statements of a kernel's body.

    States of rows, columns or matrices that are kept as codes or narrow floats are read and written in sweeps over these
    alone: what other sweeps need of them is written out as plain numbers.
    """

    buffers: Sequence[Buffer]
    body: Sequence[Statement]
    program: Program

    @cached_property
    def homes(self) -> list[Domain]:
        """For each statement what its sweeps are over; a reduction belongs to its argument, a scale to what has it."""
        found: list[Domain] = []
        scales: dict[str, Domain] = {}
        for statement in self.body:
            home = self.home(statement, scales)
            found.append(home)
            if isinstance(statement, Assign) and self.program.symbols[statement.target].domain == Domain.BLOCK:
                scales[statement.target] = home
        return found

    def home(self, statement: Statement, scales: Mapping[str, Domain]) -> Domain:
        """What the sweeps of a statement are over, if those of the scales in front of it are known."""
        if isinstance(statement, Store):
            return self.home_of(self.buffer(statement.buffer))
        domain = self.program.symbols[statement.target].domain
        if is_reduction(statement):
            assert isinstance(statement.value, Op)
            domain = infer(statement.value.args[0], self.program.symbols)[1]
        elif domain == Domain.BLOCK:
            loaded = self.loaded(statement)
            if loaded is not None:
                domain = self.home_of(loaded)
            else:
                domain = joined(scales.get(name, self.program.symbols[name].domain) for name in refs(statement.value))
        return domain if domain in VECTORS else Domain.ELEMENT

    def home_of(self, buffer: Buffer) -> Domain:
        """What the sweeps are over that write a buffer."""
        if buffer.layout in SHARED and buffer.state is not None and buffer.state.domain in VECTORS:
            return buffer.state.domain
        return SMALL.get(buffer.layout, Domain.ELEMENT)

    def buffer(self, name: str) -> Buffer:
        """The kernel's buffer of this name."""
        return next(buffer for buffer in self.buffers if buffer.name == name)

    def loaded(self, statement: Statement) -> Buffer | None:
        """The buffer that a statement loads, if it does nothing else."""
        match statement.value:
            case Op(op="load" | "load_codes", args=(Ref(name=name),)):
                return self.buffer(name)
        return None

    def decoded(self, i: int) -> State | None:
        """The state that a statement takes a part in reading, if that is one of these."""
        if self.homes[i] not in VECTORS:
            return None
        loaded = self.loaded(self.body[i])
        if loaded is not None:
            return loaded.state if _is_rounded(loaded) else None
        match self.body[i].value:
            case Op(op="elements", args=(_, Const(value=int(number)))):
                return self.program.states[number]
        return None

    def is_inexact(self, i: int) -> bool:
        """Whether a statement is a store of one of these states."""
        statement = self.body[i]
        return isinstance(statement, Store) and self.homes[i] in VECTORS and _is_rounded(self.buffer(statement.buffer))

    def stores(self, state: State) -> list[int]:
        """The places of the stores of a state."""
        places = [(i, s) for i, s in enumerate(self.body) if isinstance(s, Store)]
        return [i for i, s in places if self.buffer(s.buffer).state == state]


def _is_rounded(buffer: Buffer) -> bool:
    """Whether a buffer is a part of a state that is kept as codes, or as narrow floats."""
    return buffer.layout in SHARED or buffer.dtype in NARROW


def is_reduction(statement: Statement) -> bool:
    """Whether a statement is a reduction of more than a tile."""
    return isinstance(statement.value, Op) and statement.value.op in (*WIDE_REDUCTIONS, *REDUCTIONS)
