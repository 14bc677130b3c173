"""What a codebook is to the compiler: block scalars, and formulas that encode and decode.

Codes must be equal bit for bit on every backend, so the formulas use comparisons, integer arithmetic, bit casts and
single multiplications. A product never meets an addition directly: a compiler may fuse the two into one rounding. Where
one must follow the other, a `min` or an integer conversion stands between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from optgen.diagnostics import Diagnostics, Source, Span
from optgen.ir.constants import fold
from optgen.ir.formula import Assignment, FormulaText, parse_block
from optgen.ir.infer import infer, refs, substitute
from optgen.ir.nodes import Assign, Call, Const, Domain, Expr, Function, Kind, Op, Role, Steps, Storage, Symbol, Values
from optgen.ir.ops import OPS, Word

__all__ = ["BlockScalar", "Codebook", "Codec", "Formula", "build_functions"]


@dataclass(frozen=True)
class BlockScalar:
    """A number that a codebook computes for each block; a saved one is kept beside the codes as float32."""

    name: str
    saved: bool = True
    kind: Kind = Kind.REAL


@dataclass(frozen=True)
class Formula:
    """A function as formula text: its last assignment is the result."""

    name: str
    params: tuple[str, ...]
    text: str
    doc: str
    shared: bool = False  # the same for every state, so its name needs no suffix
    table: Values | Steps | None = None


@dataclass(frozen=True)
class Codec:
    """The lowered form of one storage.

    `formulas` holds, in this order: helpers, one function per block scalar (of the block x and the scalars before it),
    `decode` (of the code and the saved scalars) and `encode` (of x, all scalars and, if `random`, 16 random bits u).
    """

    scalars: tuple[BlockScalar, ...]
    formulas: tuple[Formula, ...]
    random: bool


class Codebook(Protocol):
    """A family of levels. One file of this package each; `codebooks.py` lists them."""

    summary: str

    @property
    def bits(self) -> tuple[int, ...]:
        """How many a code may have."""

    @property
    def options(self) -> tuple[str, ...]:
        """The keys of a storage that it understands, beside those that every codebook does."""

    def check(self, storage: Storage, unsigned: bool, spans: Mapping[str, Span], found: Diagnostics) -> None:
        """Report options that this codebook cannot honour."""

    def levels(self, storage: Storage, unsigned: bool) -> list[float] | None:
        """The values of the codes on a scale of 1, ascending; None if they depend on the block."""

    def codec(self, storage: Storage, unsigned: bool) -> Codec:
        """The formulas."""


PARAMS = {
    "x": (Kind.REAL, Domain.ELEMENT),
    "y": (Kind.REAL, Domain.ELEMENT),
    "n": (Kind.INT, Domain.ELEMENT),
    "u": (Kind.INT, Domain.ELEMENT),
    "code": (Kind.INT, Domain.ELEMENT),
    "scale": (Kind.REAL, Domain.BLOCK),
    "base": (Kind.REAL, Domain.BLOCK),
    "steps": (Kind.INT, Domain.BLOCK),
    "positive": (Kind.REAL, Domain.BLOCK),
    "distance": (Kind.INT, Domain.ELEMENT),
    "inverse": (Kind.REAL, Domain.ELEMENT),
}


def build_functions(codec: Codec, suffix: str, scope: str = "block") -> tuple[Function, ...]:
    """Parse a codec's formulas; every function is named with `suffix`, the name of the state.

    `scope` is what shares a scale: in formulas, `block_max` and `block_min` mean that of a "block", "row" or "tensor". Where
    each element has one ("rank1"), the inverse of the scale is given to `encode` in its place.
    """
    known: dict[str, Function] = {}
    for formula in codec.formulas:
        name = formula.name if formula.shared else f"{formula.name}_{suffix}"
        given = _with_inverse(formula) if scope == "rank1" and formula.name == "encode" else formula
        known[formula.name] = _build(given, name, known, scope)
    return tuple(known.values())


def _with_inverse(formula: Formula) -> Formula:
    """The same without its first line, which inverts the scale."""
    first, rest = formula.text.split("\n", 1)
    assert first.startswith("inverse = "), formula.text
    return replace(formula, text=rest, params=tuple("inverse" if name == "scale" else name for name in formula.params))


def _build(formula: Formula, name: str, known: Mapping[str, Function], scope: str) -> Function:
    words = {op: Word(op, op, info.meaning) for op, info in OPS.items()}
    source = Source(f"<{formula.name}>", formula.text)
    lines = formula.text.split("\n")
    starts = tuple(source.line_starts[: len(lines)])
    found = Diagnostics()
    calls = {function: _CallWord(function, len(f.params)) for function, f in known.items()}
    block = parse_block(FormulaText(source, formula.text, starts), found, {**words, **calls})
    found.raise_if_any()
    params = tuple(Symbol(param, Role.LOCAL, *PARAMS[param]) for param in formula.params)
    symbols = {symbol.name: symbol for symbol in params}
    functions = {f.name: f for f in known.values()}
    body = []
    constants: dict[str, Expr] = {}
    for statement in block:
        assert isinstance(statement, Assignment) and statement.value is not None
        value = fold(substitute(_link(statement.value, known, scope), constants))
        constants.pop(statement.target, None)
        if isinstance(value, Const):
            constants[statement.target] = value
            continue
        symbols[statement.target] = Symbol(statement.target, Role.LOCAL, *infer(value, symbols, functions))
        body.append(Assign(statement.target, value))
    body = _without_unused(body)
    return Function(name, params, tuple(body), symbols[body[-1].target], formula.doc, formula.table)


def _without_unused(body: list[Assign]) -> list[Assign]:
    """The statements that the last one needs: options may leave a formula with lines that nothing reads."""
    used = {body[-1].target}
    kept = []
    for statement in reversed(body):
        if statement.target in used:
            kept.append(statement)
            used |= set(refs(statement.value))
    return kept[::-1]


@dataclass(frozen=True)
class _CallWord(Word):
    """A call of an earlier function, which stands in the tree as an operation until it is linked."""

    def __init__(self, name: str, count: int) -> None:
        object.__setattr__(self, "op", f"call {name}")
        object.__setattr__(self, "signature", name)
        object.__setattr__(self, "meaning", "")
        object.__setattr__(self, "variadic", False)
        object.__setattr__(self, "count", count)

    @property
    def arity(self) -> int:
        return int(getattr(self, "count"))  # noqa: B009

    @property
    def is_open(self) -> bool:
        return False


def _link(value: Expr, known: Mapping[str, Function], scope: str) -> Expr:
    """Replace operations named `call f` by calls of the function built for `f`, reductions by those of the scope."""
    if not isinstance(value, Op):
        return value
    args = tuple(_link(arg, known, scope) for arg in value.args)
    if value.op.startswith("call "):
        return Call(known[value.op.removeprefix("call ")].name, args)
    reduces = scope != "rank1" and value.op in ("block_max", "block_min")
    return Op(value.op.replace("block", scope) if reduces else value.op, args)
