"""The whole IR on one screen: fields only, no logic.

A `Program` is a list of assignments in the order a paper writes them. A name that is assigned again has a new value
from there on; a state that is read before it is assigned has the value of the last step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

from optgen.diagnostics import Span

__all__ = [
    "PLURALS",
    "SHAPES",
    "VECTORS",
    "Assign",
    "Call",
    "Const",
    "Domain",
    "Expr",
    "Floats",
    "Function",
    "Guard",
    "Hyper",
    "Input",
    "Kind",
    "Op",
    "Program",
    "Ref",
    "Role",
    "State",
    "Statement",
    "Steps",
    "Storage",
    "Store",
    "Symbol",
    "Values",
]


class Kind(Enum):
    """What a value is."""

    REAL = "real"  # float32, or float64 for float64 parameters
    INT = "int"  # 32 bits, two's complement, wraps around
    BOOL = "bool"
    TEXT = "text"  # a choice among words; compared, never computed with


class Domain(IntEnum):
    """How many values a value has; a sum of two has the larger domain, one of rows and columns that of elements.

    A parameter is a stack of matrices: its last two dimensions are rows and columns, all others are leading.
    """

    HOST = 0  # one per parameter and step, from t and hyperparameters alone
    TENSOR = 1  # one per parameter and step, known when all its elements have been seen
    MATRIX = 2  # one per matrix, shaped (leading dimensions..., 1, 1), known when all its elements have been seen
    COL = 3  # one per column of each matrix, shaped (leading dimensions..., 1, columns)
    ROW = 4  # one per row of each matrix, shaped (leading dimensions..., rows, 1)
    BLOCK = 5  # one per quantization block
    ELEMENT = 6  # one per element of the parameter


VECTORS = (Domain.MATRIX, Domain.COL, Domain.ROW)
SHAPES = {
    Domain.HOST: "scalar",
    Domain.TENSOR: "tensor",
    Domain.MATRIX: "[..., 1, 1]",
    Domain.COL: "[..., 1, cols]",
    Domain.ROW: "[..., rows, 1]",
}
PLURALS = {Domain.ROW: "rows", Domain.COL: "columns", Domain.MATRIX: "matrices"}


class Role(Enum):
    """Where a symbol comes from."""

    PARAM = "parameter"
    GRAD = "gradient"
    STEP = "step"
    HYPER = "hyperparameter"
    STATE = "state"
    INPUT = "input"  # a tensor that a step may be given
    FACT = "storage fact"  # bits(m), half_gap(m): depends on how the state of this parameter is stored
    LOCAL = "local"


@dataclass(frozen=True)
class Const:
    """A number, as written: an int adapts to the kind of what it meets. Text is a choice that is compared."""

    value: float | int | bool | str
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Ref:
    """The current value of a symbol."""

    name: str
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Op:
    """An operation of the table in `ops.py`."""

    op: str
    args: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Call:
    """A call of one of the program's functions."""

    function: str
    args: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


Expr = Const | Ref | Op | Call


@dataclass(frozen=True)
class Guard:
    """A statement under this guard runs only where the flag (or, before `select_branches`, the condition) holds."""

    flag: str
    holds: bool = True


@dataclass(frozen=True)
class Assign:
    """`target = value`, under all of `guards`."""

    target: str
    value: Expr
    guards: tuple[Guard, ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Store:
    """Write a value to a buffer; appears when storage is lowered."""

    buffer: str
    value: Expr
    guards: tuple[Guard, ...] = ()


Statement = Assign | Store


@dataclass(frozen=True)
class Symbol:
    """What is known of a name."""

    name: str
    role: Role
    kind: Kind
    domain: Domain


@dataclass(frozen=True)
class Values:
    """A function of one integer, from 0 to `count` - 1, which a backend may look up instead of computing it."""

    count: int


@dataclass(frozen=True)
class Steps:
    """A function of one float32, an integer that grows by one at each of the ascending `borders`, or within two floats of it.

    It is asked for numbers from -1 to 1, from 0 to 1 if no border is negative. A backend may look its values up.
    """

    borders: tuple[float, ...]


@dataclass(frozen=True)
class Function:
    """A pure function of values, printed once and called by name: decode, encode, block statistics."""

    name: str
    params: tuple[Symbol, ...]
    body: tuple[Assign, ...]
    result: Symbol
    doc: str = ""
    table: Values | Steps | None = None


@dataclass(frozen=True)
class Hyper:
    """A constructor argument. A tuple has `names`; a choice has `choices`; a flag has a bool default."""

    name: str
    default: tuple[float, ...] | float | bool | str
    text: str  # the default as it is written in the signature
    names: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    min: float | None = None
    above: float | None = None
    max: float | None = None
    below: float | None = None
    doc: str = ""


@dataclass(frozen=True)
class Storage:
    """How a state is kept between steps, if not as one float per element.

    `scope` says what shares a scale: each "block" of `block` elements, each "row" or the "tensor". Rows have at least `row`
    elements, the largest block of the spec's states, and are padded to whole blocks in any case. In a rule that knows rows and
    columns (`grid`) they are the rows of the last dimension.
    """

    codebook: str
    bits: int
    block: int
    rounding: str = "nearest"
    quantile: float | None = None
    published: bool = False
    min_size: int = 4096
    min_ndim: int = 2
    zero: bool = False
    power: int | None = None
    levels: tuple[float, ...] = ()
    scope: str = "block"
    row: int = 0  # or the block, if that is larger
    grid: bool = False


@dataclass(frozen=True)
class Floats:
    """A state kept as one 16-bit float per element: `dtype` is "bfloat16" or "float16"."""

    dtype: str
    rounding: str = "nearest"


@dataclass(frozen=True)
class State:
    """What an optimizer remembers of a parameter: one value per element, row or column, one of all, or one host number."""

    name: str
    save_as: str
    domain: Domain = Domain.ELEMENT
    unsigned: bool = False
    init: Expr = Const(0)
    when: Guard | None = None
    storage: Storage | None = None
    floats: Floats | None = None
    doc: str = ""
    scope: str = "parameter"  # whose it is: each parameter's own, or one for all of a "group" or of the "optimizer"
    same: tuple[str, ...] = ()  # of an optimizer's: the hyperparameters on which it depends

    @property
    def shared(self) -> bool:
        """Whether several parameters share it."""
        return self.scope != "parameter"

    @property
    def shape(self) -> str:
        """What a spec says of its shape: "scalar", "tensor", "[..., rows, 1]" and its kind, or "p"."""
        return SHAPES.get(self.domain, "p")

    @property
    def scalar(self) -> bool:
        """Whether it is a number that the host computes."""
        return self.domain == Domain.HOST

    @property
    def whole(self) -> bool:
        """Whether it is one number that is known when all elements have been seen."""
        return self.domain == Domain.TENSOR


@dataclass(frozen=True)
class Input:
    """A tensor like the parameter that a step may be given; `flag` says whether this one was. Nothing of it is kept."""

    name: str
    flag: Guard = Guard("")
    doc: str = ""


@dataclass(frozen=True)
class Program:
    """An update rule. `host` holds the statements on host scalars once they are hoisted out of `body`."""

    name: str
    symbols: dict[str, Symbol]
    flags: dict[str, Expr]  # compile-time conditions on hyperparameters
    hypers: tuple[Hyper, ...]
    states: tuple[State, ...]
    body: tuple[Statement, ...]
    host: tuple[Assign, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)  # scalar state -> host value that it becomes
    functions: tuple[Function, ...] = ()
    cut: str = ""  # how the rule sees parameters in another shape: "rows", "cols" or "matrix"; empty: as they are
    view: str = ""  # the hyperparameter that says into how many rows or columns they are cut
    inputs: tuple[Input, ...] = ()
    points: tuple[tuple[str, Program], ...] = ()  # `eval` and `train`: how p moves to where it is evaluated, and back
