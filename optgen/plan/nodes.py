"""The plan: everything a backend prints. Fields only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

from optgen.ir.nodes import VECTORS, Assign, Domain, Expr, Function, Guard, Hyper, Op, Program, State, Statement, Storage
from optgen.ir.ops import REDUCTIONS

__all__ = [
    "CHUNK",
    "COLUMNS",
    "STRIP",
    "VECTOR_LAYOUTS",
    "Buffer",
    "Joint",
    "Kernel",
    "Layout",
    "Plan",
    "Reduction",
    "RulePlan",
    "Sweep",
    "Variant",
]

CHUNK = 256  # elements of a part of a reduction, where there are no codes whose blocks say it
COLUMNS = 128  # of a tile of a kernel that knows rows and columns, where there are no codes; also of a part of a row
STRIP = 32  # rows of a part of a column
WHOLE = 2**62  # elements that a row has at least where all of a parameter is one row


class Layout(Enum):
    """How a buffer's values lie."""

    ELEMENT = "element"  # one value per element of the parameter, in the parameter's shape
    BLOCK = "block"  # one float32 per block, shaped (leading dimensions..., blocks per row)
    ROW = "row"  # one float32 per row, shaped (leading dimensions..., 1)
    TENSOR = "tensor"  # one float32
    ROWS = "rows"  # one number of the rule per row of each matrix, shaped (leading dimensions..., rows, 1)
    COLS = "cols"  # per column, shaped (leading dimensions..., 1, columns)
    MATRICES = "matrices"  # per matrix, shaped (leading dimensions..., 1, 1)
    STRIPS = "strips"  # per column of each strip of rows, shaped (matrices, strips, columns)
    CODE = "code"  # packed codes, bytes shaped (leading dimensions..., bytes per row)


VECTOR_LAYOUTS = {Domain.ROW: Layout.ROWS, Domain.COL: Layout.COLS, Domain.MATRIX: Layout.MATRICES}
SEEN = {  # how vectors lie to a pass over vectors: those that it is over are its elements, one a matrix is one a row of them
    Domain.ELEMENT: {},
    Domain.ROW: {Layout.ROWS: Layout.ELEMENT, Layout.MATRICES: Layout.ROWS},
    Domain.COL: {Layout.COLS: Layout.ELEMENT, Layout.MATRICES: Layout.ROWS},
    Domain.MATRIX: {Layout.MATRICES: Layout.ELEMENT},
}


@dataclass(frozen=True)
class Buffer:
    """A tensor that a kernel reads or writes.

    `dtype` is "param" or "grad" (that of the parameter or gradient), "real" (the dtype of the arithmetic), "correction"
    (that of the group's corrections), "float32", "bfloat16", "float16" or "uint8". `key` is the key in the state dict,
    None for the parameter and its gradient; that of an input ends in ".input" and is in no state dict.
    """

    name: str
    layout: Layout
    dtype: str
    key: str | None
    state: State | None
    read: bool
    written: bool
    doc: str
    when: Guard | None = None
    block: int = 0  # of scalars, the elements that a block of theirs has; of strips, their rows
    over: Domain = Domain.ELEMENT  # of parts, the pass that leaves them

    @property
    def guard(self) -> Guard | None:
        """The condition under which the buffer exists."""
        return self.when if self.state is None else self.state.when

    @property
    def is_number(self) -> bool:
        """Whether it holds one number of the rule for the whole parameter."""
        return self.layout == Layout.TENSOR and self.dtype == "real"

    @property
    def storage(self) -> Storage:
        """The storage of the state that it holds codes or scalars of."""
        assert self.state is not None
        assert self.state.storage is not None
        return self.state.storage


@dataclass(frozen=True)
class Reduction:
    """What a sweep leaves for the next: the `op` of a scratch buffer of parts, in one of rows, columns, matrices or the tensor.

    The op is "max", "min", "sum", or "mean": the sum over the number of a parameter's elements. What is `joint` is joined with
    the results of other parameters then, and its parts are summed for a mean too.
    """

    op: str
    parts: str
    result: str
    joint: Joint | None = None

    @property
    def own(self) -> str:
        """How the parts of one parameter are joined."""
        return "sum" if self.joint is not None and self.op == "mean" else self.op


@dataclass(frozen=True)
class Joint:
    """A reduction of all parameters of a `scope`, "group" or "optimizer", under the name that every kernel of its rule has for it.

    `phase` counts the times that all parameters wait for one another: behind the sweeps of phase 1, 2, ... . `over` says what
    each parameter has values of.
    """

    name: str
    scope: str
    phase: int
    over: Domain
    of_all: bool = False  # whether rules share it
    guards: tuple[Guard, ...] = ()  # under which a parameter takes part


@dataclass(frozen=True)
class Sweep:
    """One pass over the elements, or over vectors: `buffers` are those it uses, `columns` the host scalars that it reads.

    It is made under the compile-time flag `when` alone, if there is one.
    """

    name: str
    buffers: tuple[Buffer, ...]
    columns: tuple[str, ...]
    body: tuple[Statement, ...]
    reductions: tuple[Reduction, ...] = ()
    over: Domain = Domain.ELEMENT
    when: Guard | None = None


@dataclass(frozen=True)
class Variant:
    """Which states a parameter keeps in few bits, and the numbers that depend on it."""

    stored: tuple[str, ...]
    facts: dict[str, float]

    def kept(self, program: Program, over: Domain = Domain.ELEMENT) -> list[State]:
        """Those states that are like the parameter, or have a number for each row, column or matrix."""
        return [state for state in program.states if state.name in self.stored and state.domain == over]

    def wide(self, program: Program, over: Domain = Domain.ELEMENT) -> int:
        """The largest block of these states; 0 if there are none."""
        return max((s.storage.block for s in self.kept(program, over) if s.storage), default=0)


@dataclass(frozen=True)
class Kernel:
    """One step of a parameter.

    `body` is all of it, the loads first and the stores last: what a backend runs that works on whole tensors. `sweeps` are
    the passes over memory that others make of it: in each, each element of each buffer is read at most once and written at
    most once. `scratch` holds the buffers between sweeps, `copies` those whose last value a sweep could not write in place,
    because others read the old one: pairs of a scratch buffer and of its destination. `columns` are the host scalars.
    """

    name: str
    variant: Variant
    buffers: tuple[Buffer, ...]
    functions: tuple[Function, ...]
    columns: tuple[str, ...]
    body: tuple[Statement, ...]
    program: Program  # its symbols cover the body
    sweeps: tuple[Sweep, ...]
    scratch: tuple[Buffer, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    grid: bool = False  # whether it knows rows and columns

    def seen_by(self, sweep: Sweep) -> Kernel:
        """The same, with buffers and names as a sweep sees them: vectors are its elements, or are read for each of them."""

        def seen(buffer: Buffer) -> Buffer:
            return replace(buffer, layout=SEEN[sweep.over].get(buffer.layout, buffer.layout))

        symbols = {
            name: replace(symbol, domain=Domain.ELEMENT) if symbol.domain in VECTORS else symbol
            for name, symbol in self.program.symbols.items()
        }
        kept = self.variant.kept(self.program, sweep.over)
        states = tuple(replace(state, domain=Domain.ELEMENT) if state in kept else state for state in self.program.states)
        return replace(
            self,
            variant=Variant(tuple(state.name for state in kept), self.variant.facts),
            buffers=tuple(map(seen, self.buffers)),
            scratch=tuple(map(seen, self.scratch)),
            program=replace(self.program, symbols=symbols, states=states),
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """The compile-time flags that its statements stand under."""
        used = {guard.flag for statement in self.body for guard in statement.guards}
        return tuple(flag for flag in self.program.flags if flag in used)

    @property
    def joint(self) -> tuple[Reduction, ...]:
        """The reductions of several parameters, in the order of their sweeps."""
        return tuple(reduction for sweep in self.sweeps for reduction in sweep.reductions if reduction.joint is not None)

    @property
    def phases(self) -> tuple[tuple[Sweep, ...], ...]:
        """The sweeps between the points at which parameters wait for one another."""
        ends = {r.joint.phase: i + 1 for i, sweep in enumerate(self.sweeps) for r in sweep.reductions if r.joint is not None}
        return tuple(self.sweeps[start:end] for start, end in pairwise((0, *ends.values(), len(self.sweeps))))

    @property
    def wide(self) -> int:
        """The largest block of its stored states; 0 if there are none."""
        return self.variant.wide(self.program)

    @property
    def chunk(self) -> int:
        """The elements of a part of a reduction, if a sweep ends with one, or of a row of a tile; else 0."""
        if self.grid:
            return self.wide or COLUMNS
        return (self.wide or CHUNK) if any(sweep.reductions for sweep in self.sweeps) else 0

    @property
    def row(self) -> int:
        """How many elements a row has at least; 0 if there are no blocks and no parts of reductions."""
        kept = self.variant.kept(self.program)
        stored = [max(state.storage.row, state.storage.block) for state in kept if state.storage]
        return max(stored, default=WHOLE if self.chunk else 0)

    def stored(self, number: object) -> Storage:
        """The storage of the program's state of this number."""
        assert isinstance(number, int)
        storage = self.program.states[number].storage
        assert storage is not None
        return storage


@dataclass(frozen=True)
class RulePlan:
    """All that is known of a rule before code is printed; `name` is empty if it is the only one."""

    name: str
    program: Program
    kernels: tuple[Kernel, ...]
    host_inputs: tuple[str, ...]  # the symbols of hyperparameters and facts that the host statements read
    host: tuple[Assign, ...]
    columns: tuple[str, ...]
    outputs: dict[str, str]
    points: tuple[tuple[str, RulePlan], ...] = ()  # how p is moved to be evaluated, and back; with kernels of the same variants

    @property
    def whole(self) -> bool:
        """Whether the rule itself reduces over elements of a parameter, keeps a number of many, or cuts matrices."""
        keeps = any(state.whole or state.domain in VECTORS for state in self.program.states)
        reduces = any(isinstance(s.value, Op) and s.value.op in REDUCTIONS for s in self.program.body)
        return keeps or reduces or bool(self.program.cut)

    @property
    def random(self) -> bool:
        """Whether a state is rounded stochastically, whatever the parameter's dtype."""
        storages = [state.storage or state.floats for state in self.program.states]
        return any(storage is not None and storage.rounding != "nearest" for storage in storages)


@dataclass(frozen=True)
class Plan:
    """All that is known of an optimizer: the arguments that its rules share, and a plan for each rule."""

    name: str
    hypers: tuple[Hyper, ...]
    rules: tuple[RulePlan, ...]

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The kernels of all rules, one rule after the other."""
        return tuple(kernel for rule in self.rules for kernel in rule.kernels)

    @property
    def flags(self) -> dict[str, Expr]:
        """The compile-time flags of all rules; equal names are equal conditions."""
        return {name: condition for rule in self.rules for name, condition in rule.program.flags.items()}
